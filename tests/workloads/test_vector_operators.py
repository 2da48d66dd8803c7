"""Vector operators: laws of the predicted time, where data are, host paths, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from mtia import chips
from mtia.errors import BadProblem
from mtia.workloads.pointwise import OPERATORS, predict_add, predict_op
from mtia.workloads.prediction import Protocol

CHIPS = ("h100_sxm", "mtia300")
MEASURED_ADDS = {1 << 20: 3.64e11, 1 << 22: 1.12e12, 1 << 24: 2.39e12, 1 << 26: 4.16e12, 1 << 28: 5.19e12, 1 << 30: 5.57e12}  # fmt: skip


def seconds(op: str, m: int, n: int, chip: str = "a100_sxm", **changes: Any) -> float:
    given: dict[str, Any] = {"dtype": "float16", "protocol": Protocol.KERNEL, **changes}
    return predict_op(chips.load(chip), op=op, m=m, n=n, **given).seconds


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("op", OPERATORS)
def test_more_rows_are_never_faster(op: str, chip: str) -> None:
    times = [seconds(op, m, 1024, chip) for m in (1, 64, 4096)]
    assert times == sorted(times)


@pytest.mark.parametrize("chip", CHIPS)
def test_no_operator_beats_the_memory_it_streams_from(chip: str) -> None:
    spec = chips.load(chip)
    n_bytes = 2 * 2 * 8192 * 16384
    for op in ("copy", "softmax", "layernorm", "gelu"):
        assert seconds(op, 8192, 16384, chip, flushed=True) > n_bytes / spec.dram.bytes_per_s


@pytest.mark.parametrize("chip", CHIPS)
def test_operands_left_in_sram_are_read_from_there(chip: str) -> None:
    assert seconds("add", 1024, 1024, chip) < seconds("add", 1024, 1024, chip, flushed=True)


def test_long_rows_are_walked_again_where_programs_share_lanes() -> None:
    def requested(chip: str, n: int) -> float:
        found = predict_op(chips.load(chip), op="softmax", m=64, n=n, dtype="float16", protocol=Protocol.KERNEL)
        return found.timings[0].requested_bytes / (64 * n * 2)

    assert requested("a100_sxm", 1024) == 2  # held: one read, one write
    assert requested("a100_sxm", 4096) == 4
    assert requested("mtia300", 4096) == 2


def test_a_wider_type_and_a_second_half_cost_their_bytes() -> None:
    assert seconds("copy", 8192, 8192, dtype="float32") == pytest.approx(2 * seconds("copy", 8192, 8192), rel=0.1)
    assert seconds("silu_mul", 8192, 8192) > 1.3 * seconds("copy", 8192, 8192)
    assert seconds("add_add", 4096, 4096) > 1.5 * seconds("add", 4096, 4096)


def test_host_paths() -> None:
    kernel, eager, compiled = (
        seconds("gelu", 1, 1 << 14, protocol=p) for p in (Protocol.KERNEL, Protocol.EAGER, Protocol.COMPILED)
    )
    assert kernel < eager < compiled
    long = {p: seconds("gelu", 1, 1 << 27, protocol=p) for p in (Protocol.EAGER, Protocol.COMPILED)}
    assert long[Protocol.COMPILED] - long[Protocol.EAGER] < compiled - eager  # what follows the launch is hidden


def test_published_adds_of_mtia_300() -> None:
    spec = chips.load("mtia300")
    errors = []
    for elements, bytes_per_s in MEASURED_ADDS.items():
        found = predict_add(spec, elements=elements, dtype="bfloat16", protocol=Protocol.EAGER)
        errors.append(abs(found.seconds * bytes_per_s / (6 * elements) - 1))
    assert sum(errors) / len(errors) < 0.10


def test_a_host_that_runs_ahead_is_not_waited_for() -> None:
    spec = chips.load("a100_sxm")
    waited, ahead = (
        predict_add(spec.vary({"launch.runs_ahead": x}), elements=1 << 20, dtype="bfloat16", protocol=Protocol.EAGER)
        for x in (False, True)
    )
    assert waited.seconds - ahead.seconds > spec.launch.host_s


def test_refusals_name_the_argument() -> None:
    with pytest.raises(BadProblem, match=r"op = 'sofmax'; known are .* Did you mean 'softmax'\?"):
        seconds("sofmax", 4, 4)
    with pytest.raises(BadProblem, match=r"n = 0; at least 1"):
        seconds("add", 4, 0)
    with pytest.raises(BadProblem, match=r"dtype = 'int4'"):
        seconds("add", 4, 4, dtype="int4")
