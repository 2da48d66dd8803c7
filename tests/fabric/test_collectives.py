"""Laws of collectives: bytes are conserved, better parts are never slower, same inputs give the same time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtia import chips
from mtia.errors import BadProblem
from mtia.fabric.collectives import Collective, CollectiveTime, Method, plans_of, time_all_to_all_v, time_collective

SPECS = {name: chips.load(name) for name in ("h100_sxm", "a100_sxm", "l40s", "mtia300", "mtia400", "tpu_v6e_1")}
OPS = tuple(Collective)
SIZES = (512, 65_536, 1 << 20, 1 << 26, 1 << 31)
sizes = st.integers(min_value=1, max_value=1 << 32)
ranks_of = st.sampled_from((2, 3, 4, 8, 16))
spec_names = st.sampled_from(tuple(SPECS))
ops = st.sampled_from(OPS)


def reachable(name: str, ranks: int) -> bool:
    spec = SPECS[name]
    return spec.scale_up is not None and (ranks <= spec.scale_up.domain_chips or spec.scale_out is not None)


def run(name: str, op: str, n_bytes: int, ranks: int, **changes: object) -> CollectiveTime:
    spec = SPECS[name].vary(changes, name=name) if changes else SPECS[name]
    return time_collective(spec, op, n_bytes, ranks)


SENT = {
    Collective.ALL_REDUCE: lambda n: 2 * (n - 1) / n,
    Collective.ALL_GATHER: lambda n: (n - 1) / n,
    Collective.REDUCE_SCATTER: lambda n: (n - 1) / n,
    Collective.ALL_TO_ALL: lambda n: (n - 1) / n,
    Collective.BROADCAST: lambda n: 1.0,
    Collective.SEND_RECV: lambda n: 1.0,
}


@given(spec_names, ops, sizes, ranks_of)
def test_bytes_on_links_are_those_the_operation_needs(name: str, op: Collective, n_bytes: int, ranks: int):
    if not reachable(name, ranks):
        return
    for plan in plans_of(SPECS[name], op, n_bytes, ranks):
        if plan.algorithm == "multicast":  # the switch adds and spreads: own data up once, own share of sums once
            assert plan.sent_bytes == pytest.approx(n_bytes * (1 + 1 / ranks))
        elif plan.algorithm == "tree" and op is Collective.ALL_REDUCE:  # up and down
            assert plan.sent_bytes == pytest.approx(2 * n_bytes)
        else:
            assert plan.sent_bytes == pytest.approx(n_bytes * SENT[op](ranks)), plan.algorithm


def test_reads_in_one_and_two_shots():
    plans = plans_of(SPECS["h100_sxm"], Collective.ALL_REDUCE, 1 << 20, 8, method=Method.PEER_READS)
    sent = {plan.algorithm: plan.sent_bytes / (1 << 20) for plan in plans}
    assert sent["one shot"] == 7 and sent["two shot"] == pytest.approx(2 * 7 / 8)


@given(spec_names, ops, sizes, ranks_of)
def test_never_below_the_links(name: str, op: Collective, n_bytes: int, ranks: int):
    if not reachable(name, ranks):
        return
    timed = run(name, op, n_bytes, ranks)
    link = SPECS[name].scale_up.bytes_per_s  # type: ignore[union-attr]
    least = 1 if timed.how.startswith("multicast") else SENT[op](ranks)
    assert timed.seconds >= n_bytes * least / link
    assert sum(timed.parts.values()) == pytest.approx(timed.seconds) and min(timed.parts.values()) >= -1e-12


BETTER = (
    {"scale_up.bytes_per_s": 2.0}, {"scale_up.latency_s": 0.5}, {"scale_up.launch_s": 0.5}, {"clock_hz": 2.0},
    {"dram.bytes_per_s": 2.0},
)  # fmt: skip


@given(spec_names, ops, sizes, ranks_of, st.sampled_from(BETTER))
def test_a_better_part_is_never_slower(name: str, op: Collective, n_bytes: int, ranks: int, better: dict[str, float]):
    if not reachable(name, ranks):
        return
    (key, factor), *_ = better.items()
    changed = run(name, op, n_bytes, ranks, **{key: SPECS[name].get(key) * factor})
    assert changed.seconds <= run(name, op, n_bytes, ranks).seconds * (1 + 1e-9)


@given(spec_names, ops, sizes, sizes, ranks_of)
def test_more_bytes_are_never_faster(name: str, op: Collective, a: int, b: int, ranks: int):
    if not reachable(name, ranks):
        return
    few, many = sorted((a, b))
    assert run(name, op, few, ranks).seconds <= run(name, op, many, ranks).seconds * (1 + 1e-9)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("n_bytes", SIZES)
def test_an_all_reduce_does_the_work_of_both_halves(name: str, n_bytes: int):
    reduce, scatter, gather = (run(name, op, n_bytes, 8).seconds for op in OPS[:3][::1])
    assert reduce >= max(scatter, gather) * (1 - 1e-9)
    assert reduce <= scatter + gather


@pytest.mark.parametrize("op", OPS[:4])
@pytest.mark.parametrize("name", SPECS)
def test_more_ranks_wait_longer_for_small_messages(name: str, op: Collective):
    times = [run(name, op, 512, ranks).seconds for ranks in (2, 4, 8)]
    assert times == sorted(times)


def test_the_same_inputs_give_the_same_time():
    again = chips.load("h100_sxm").vary({}, name="another")
    first, second = run("h100_sxm", "all_reduce", 12345, 8), time_collective(again, "all_reduce", 12345, 8)
    assert first.seconds == second.seconds and first.how == second.how


def test_small_messages_carry_flags_and_long_ones_do_not():
    hows = [run("h100_sxm", "all_gather", n, 4).how for n in (512, 1 << 20, 1 << 28)]
    assert hows == ["ring, word", "ring, line", "ring, bulk"]
    assert run("l40s", "all_gather", 1 << 20, 2).how != "ring, line"  # PCIe does not keep a line whole


def test_a_switch_adds_floating_point_only_and_for_the_whole_domain():
    assert run("h100_sxm", "all_reduce", 1 << 28, 8).how == "multicast, bulk"
    assert run("h100_sxm", "all_reduce", 1 << 28, 4).how == "ring, bulk"
    assert time_collective(SPECS["h100_sxm"], "all_reduce", 1 << 28, 8, dtype="int8").how == "ring, bulk"


def test_message_engines_take_no_pes():
    """ISCA'26 Fig. 16: collectives cost MTIA 300's GEMMs less than 0.5 %, an H100's 19 to 30 %."""
    for op in OPS[:4]:
        assert run("mtia300", op, 1 << 30, 16).pes_taken == 0
        taken = run("h100_sxm", op, 1 << 30, 8).pes_taken / SPECS["h100_sxm"].grid.n_pes
        assert 0.15 < taken < 0.35
    assert run("h100_sxm", "all_reduce", 512, 8).pes_taken == 1


def test_a_domain_of_72_and_racks_of_them():
    near, far = run("mtia400", "all_reduce", 1 << 28, 72), run("mtia400", "all_reduce", 1 << 28, 4096)
    assert near.seconds < far.seconds < 1.0


def test_nothing_to_send_is_a_launch():
    assert run("h100_sxm", "all_reduce", 0, 8).how == run("h100_sxm", "all_reduce", 8, 1).how == "nothing to send"
    assert run("h100_sxm", "all_reduce", 0, 8).seconds == SPECS["h100_sxm"].scale_up.launch_s  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all_redcue", 8, 2), r"op = 'all_redcue'; known: all_reduce, .*Did you mean 'all_reduce'"),
        (("all_reduce", -1, 2), r"all_reduce: n_bytes = -1; at least 0"),
        (("all_reduce", 8, 0), r"all_reduce: ranks = 0; at least 1"),
    ],
)
def test_what_makes_no_sense_is_told(arguments: tuple[str, int, int], message: str):
    with pytest.raises(BadProblem, match=message):
        time_collective(SPECS["h100_sxm"], *arguments)


def test_an_unknown_dtype_is_told():
    with pytest.raises(BadProblem, match=r"dtype = 'bfloat61'; known: .*Did you mean 'bfloat16'"):
        time_collective(SPECS["h100_sxm"], "all_reduce", 8, 2, dtype="bfloat61")


def test_uneven_parts_last_as_long_as_the_busiest_rank():
    even = [[1 << 20] * 8] * 8
    spec = SPECS["h100_sxm"]
    assert time_all_to_all_v(spec, even).seconds == run("h100_sxm", "all_to_all", 8 << 20, 8).seconds
    hot = [[1 << 20] * 8 for _ in range(8)]
    for row in hot:
        row[3] *= 4  # every rank sends rank 3 more
    assert time_all_to_all_v(spec, hot).seconds > 2 * time_all_to_all_v(spec, even).seconds
    keeps = [[(1 << 30) if i == j else 1 << 20 for j in range(8)] for i in range(8)]
    assert time_all_to_all_v(spec, keeps).seconds == time_all_to_all_v(spec, even).seconds
    with pytest.raises(BadProblem, match=r"sent_bytes = \[2, 1\]; one row per rank"):
        time_all_to_all_v(spec, [[1, 2], [3]])
