"""Steps of one rank, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtia.fabric.steps import Plan, Step, time_plan
from mtia.fabric.transport import Transport

GB = 1e9
PLAIN = Transport(
    name="plain", start_s=0.0, step_s=2e-6, wire_ratio=1.0, pes=4, move_bytes_per_s=GB, copy_bytes_per_s=GB,
    add_bytes_per_s=GB,
)  # fmt: skip


def plan(*steps: Step, transport: Transport = PLAIN, link: float = GB) -> Plan:
    return Plan(algorithm="test", transport=transport, link_bytes_per_s=link, memory_bytes_per_s=1e15, steps=steps)


def seconds(*steps: Step, transport: Transport = PLAIN, link: float = GB) -> float:
    return time_plan(plan(*steps, transport=transport, link=link)).seconds


def test_a_step_waits_for_the_one_before_to_arrive():
    send = Step(sends_bytes=1000.0)  # 1 us on the link
    assert seconds(send) == pytest.approx(1e-6)
    assert seconds(send, send, Step()) == pytest.approx(2 * (1e-6 + 2e-6))
    assert seconds(send, replace(send, awaits=False)) == pytest.approx(2e-6)


def test_flags_in_the_data_cost_wire():
    assert seconds(Step(sends_bytes=1000.0), transport=replace(PLAIN, wire_ratio=2.0)) == pytest.approx(2e-6)


def test_the_movers_bound_a_fast_link_and_copies_come_on_top():
    assert seconds(Step(sends_bytes=8000.0), link=1e15) == pytest.approx(2e-6)  # four movers of 1 GB/s
    assert seconds(Step(sends_bytes=8000.0, copies_bytes=4000.0), link=1e15) == pytest.approx(3e-6)
    assert seconds(Step(sends_bytes=1000.0, beside_bytes=2000.0)) == pytest.approx(1e-6)  # others copy it in 0.5 us
    assert seconds(Step(sends_bytes=1000.0, adds_bytes=4000.0)) == pytest.approx(2e-6)


def test_few_bytes_keep_few_movers_busy():
    words = replace(PLAIN, grain_bytes=1000)
    assert words.movers(10) == 1 and words.movers(2000) == 2 and words.movers(1e9) == 4
    assert seconds(Step(sends_bytes=500.0), transport=words, link=1e15) == pytest.approx(0.5e-6)
    assert seconds(Step(sends_bytes=2000.0), transport=words, link=1e15) == pytest.approx(1e-6)
    assert seconds(Step(sends_bytes=8000.0), transport=words, link=1e15) == pytest.approx(2e-6)


def test_slices_hide_the_latency_of_long_steps():
    """Two steps of 8 us: in four slices of 2 us the first slice has arrived before the last one has left."""
    send = Step(sends_bytes=8000.0)
    assert seconds(send, send) == pytest.approx(8e-6 + 2e-6 + 8e-6)
    assert seconds(send, send, transport=replace(PLAIN, slices=4)) == pytest.approx(16e-6)


def test_a_reduction_needs_its_whole_input():
    """Message engines slice a step that only passes on, not one with a REDUCE entry, which takes an entry more."""
    engines = replace(PLAIN, slices=4, entry_s=1e-6, add_bytes_per_s=1e15)
    send, add = Step(sends_bytes=8000.0), Step(sends_bytes=8000.0, adds_bytes=8000.0)
    assert seconds(send, send, transport=engines) == pytest.approx(16e-6)
    assert seconds(send, add, Step(), transport=engines) == pytest.approx(8e-6 + 2e-6 + 8e-6 + 3e-6)


def test_what_does_not_fit_one_entry_takes_more_of_them():
    mailbox = replace(PLAIN, entry_s=1e-6, entry_bytes=1000)
    assert seconds(Step(sends_bytes=3000.0), Step(), transport=mailbox) == pytest.approx(3e-6 + 2e-6 + 2e-6)
    assert seconds(Step(sends_bytes=3000.0, peers=3), Step(), transport=mailbox) == pytest.approx(3e-6 + 2e-6)


def test_chunks_repeat_the_steps():
    """10,000 bytes by four movers of at most 1,000: three loops, each with its latency; many loops are extrapolated."""
    chunked = replace(PLAIN, chunk_bytes=1000)
    send = Step(sends_bytes=10_000.0)
    assert seconds(send, Step(), transport=chunked) == pytest.approx(10e-6 + 3 * 2e-6)
    long = Step(sends_bytes=400_000.0)
    assert seconds(long, Step(), transport=chunked) == pytest.approx(400e-6 + 100 * 2e-6)


def test_parts_of_the_time():
    timed = time_plan(plan(Step(sends_bytes=1000.0), Step(copies_bytes=4000.0)))
    assert timed.link_s == pytest.approx(1e-6) and timed.busy_s == pytest.approx(2e-6)
    assert timed.waiting_s == pytest.approx(2e-6) and timed.seconds == pytest.approx(4e-6)
