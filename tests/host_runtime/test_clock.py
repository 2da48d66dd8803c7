"""The launch path, worked by hand: host 10 ns, control 5, start 3, replace 2, finish 4; link 100 ns + 1 byte/ns."""

from dataclasses import replace
from itertools import pairwise

import pytest

from mtia import chips
from mtia.host_runtime import record
from mtia.host_runtime.clock import HOST_BYTES_PER_S, Clock
from mtia.host_runtime.record import Kind, Work

NS = 10**6  # femtoseconds


@pytest.fixture
def timer() -> Clock:
    spec = chips.load("mtia300")
    launch = replace(spec.launch, host_s=10e-9, control_s=5e-9, start_s=3e-9, replace_s=2e-9, finish_s=4e-9)
    return Clock(replace(spec, launch=launch, host_link=replace(spec.host_link, latency_s=100e-9, bytes_per_s=1e9)))


def kernel(timer: Clock, ns: int, *, stream: int = 0, device: int = 0):
    return timer.submit(device, stream, "k", Kind.KERNEL, ns * NS)


def test_first_launch_pays_host_control_and_start(timer):
    span = kernel(timer, 100)
    assert (span.submit_fs, span.start_fs, span.end_fs) == (10 * NS, 18 * NS, 118 * NS)
    assert timer.host_fs == 10 * NS  # the host does not wait


def test_a_host_that_waits_learns_of_the_end_after_the_report(timer):
    kernel(timer, 100)
    timer.synchronize_stream(0, 0)
    assert timer.host_fs == 122 * NS


def test_queued_job_replaces_the_one_before_it(timer):
    first, second = kernel(timer, 100), kernel(timer, 50)
    assert second.submit_fs == 20 * NS
    assert second.start_fs == first.end_fs + 2 * NS


def test_short_kernels_are_bound_by_the_host(timer):
    spans = [kernel(timer, 1) for _ in range(5)]
    assert [b.start_fs - a.start_fs for a, b in pairwise(spans)] == [10 * NS] * 4


def test_control_core_takes_one_job_at_a_time(timer):
    spans = [timer.submit(0, 0, "k", Kind.KERNEL, NS, host_cost_fs=0) for _ in range(3)]
    assert [s.start_fs for s in spans] == [8 * NS, 13 * NS, 18 * NS]


def test_kernels_of_two_streams_share_the_grid(timer):
    first, second = kernel(timer, 100), kernel(timer, 100, stream=1)
    assert second.start_fs == first.end_fs + 2 * NS


def test_kernels_of_two_devices_run_at_once(timer):
    first, second = kernel(timer, 100), kernel(timer, 100, device=1)
    assert second.start_fs < first.end_fs


def test_transfer_is_latency_plus_bytes_and_the_host_waits_if_asked(timer):
    span = timer.transfer(0, 0, 1000, upload=True, host_waits=False)
    assert span.duration_fs == 1100 * NS
    assert timer.host_fs == 10 * NS
    timer.transfer(0, 0, 0, upload=False, host_waits=True)
    assert timer.host_fs == 10 * NS + 1100 * NS + 100 * NS


def test_transfers_overlap_kernels_of_another_stream_and_each_direction_has_its_link(timer):
    work = kernel(timer, 10_000)
    up = timer.transfer(0, 1, 1000, upload=True, host_waits=False)
    down = timer.transfer(0, 2, 1000, upload=False, host_waits=False)
    again = timer.transfer(0, 3, 1000, upload=True, host_waits=False)
    assert up.end_fs < work.end_fs
    assert down.start_fs < up.end_fs
    assert again.start_fs == up.end_fs


def test_events_measure_between_the_ends_of_work(timer):
    kernel(timer, 100)
    start = timer.record_event(0, 0, 0)
    kernel(timer, 50)
    end = timer.record_event(0, 0, 0)
    assert timer.elapsed_ms(start, end) == pytest.approx(52e-6)


def test_a_stream_that_waits_for_an_event_starts_after_it(timer):
    long = kernel(timer, 1000)
    event = timer.record_event(0, 0, 0)
    timer.wait_event(event, 1, 0)
    assert kernel(timer, 10, device=1).start_fs >= long.end_fs


def test_polling_comes_to_an_end(timer):
    kernel(timer, 1000)
    event = timer.record_event(0, 0, 0)
    polls = 0
    while not timer.event_has_passed(event):
        polls += 1
    assert 90 < polls < 110


def test_host_fallback_waits_moves_bytes_and_computes_on_the_host(timer):
    kernel(timer, 100)
    span = timer.host_fallback(0, 0, "aten::x", 1000, 500)
    host_work_fs = round(1500 / HOST_BYTES_PER_S * 1e15)
    assert span.start_fs == 122 * NS
    assert abs(span.duration_fs - (2 * 100 * NS + 1500 * NS + host_work_fs)) <= 1
    assert kernel(timer, 1).start_fs >= span.end_fs


def test_replay_costs_the_host_one_enqueue_and_goes_to_the_stream_it_is_called_on(timer):
    with timer.replaying((0, 5), (0, 6)):
        kernel(timer, 1, stream=5)
        kernel(timer, 1, stream=5)
    assert timer.host_fs == 10 * NS
    assert timer.stream_is_idle(0, 5)
    timer.host_fs = 0
    timer._poll = lambda: None
    assert not timer.stream_is_idle(0, 6)


def test_same_submissions_same_timeline(timer):
    other = Clock(timer.spec)
    for t in (timer, other):
        kernel(t, 7)
        t.transfer(0, 1, 333, upload=True, host_waits=True)
        kernel(t, 9, stream=1)
    assert timer.now_fs == other.now_fs


def test_a_session_keeps_what_was_submitted_in_it(timer):
    kernel(timer, 1)
    with record.session() as log:
        timer.submit(0, 0, "a", Kind.KERNEL, 30 * NS, None, Work(n_bytes=10, n_flop=20, energy_j=0.5))
        timer.submit(0, 0, "a", Kind.KERNEL, 10 * NS, None, Work(n_bytes=1, n_flop=2, energy_j=0.25))
        timer.submit(0, 0, "b", Kind.KERNEL, 50 * NS)
    kernel(timer, 1)
    assert [s.name for s in log.spans] == ["a", "a", "b"]
    line = log.summary()[1]
    assert (line.name, line.n_calls, line.n_bytes, line.n_flop, line.energy_j) == ("a", 2, 11, 22, 0.75)
    assert line.time_s == pytest.approx(40e-9)
    assert log.elapsed_s == pytest.approx((log.end_fs - log.start_fs) / 1e15)
