"""Sorting in local memory: `tl.sort` of integers is one command, by radix where the chip sorts by radix."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import mtia
from mtia.chips import load
from mtia.engine import cycles
from mtia.host_runtime import record
from mtia.program import commands as c
from mtia.program.types import Element, TileType, Value
from mtia.triton_backend.language import sort_tile


@triton.jit
def sort_rows(x_ptr, y_ptr, N: tl.constexpr, DOWN: tl.constexpr, EXTENSION: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    x = tl.load(x_ptr + at)
    tl.store(y_ptr + at, sort_tile(x, DOWN) if EXTENSION else tl.sort(x, descending=DOWN))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float32])
@pytest.mark.parametrize("down", [False, True])
def test_sort(dtype: torch.dtype, down: bool):
    x = torch.randint(-100, 100, (5, 64)).to(dtype)
    y = torch.empty_like(x, device="mtia")
    sort_rows[(5,)](x.to("mtia"), y, N=64, DOWN=down, EXTENSION=False)
    assert torch.equal(y.cpu(), x.sort(-1, descending=down).values)


@pytest.mark.parametrize("down", [False, True])
def test_the_extension_is_the_same_command(down: bool):
    x = torch.randint(-100, 100, (3, 32))
    y, z = (torch.empty_like(x, device="mtia") for _ in range(2))
    with record.session() as log:
        sort_rows[(3,)](x.to("mtia"), y, N=32, DOWN=down, EXTENSION=True)
        sort_rows[(3,)](x.to("mtia"), z, N=32, DOWN=down, EXTENSION=False)
    assert torch.equal(y.cpu(), x.sort(-1, descending=down).values) and torch.equal(y, z)
    for span in log.of_kind(record.Kind.KERNEL):
        assert [type(cmd) for cmd in span.work.program.commands].count(c.Sort) == 1


def command(n: int, element: Element) -> c.Sort:
    value = Value(0, "x", TileType(element, (n,)))
    return c.Sort(index=0, operands=(value,), results=(Value(1, "y", value.type),))


@pytest.mark.parametrize("n", [64, 1024, 8192])
def test_radix_sort_by_hand(n: int):
    spec = load("mtia300")
    rate = spec.pe.sfu.radix_sort_elements_per_cycle
    assert rate is not None
    for element, digits in ((Element.I32, 4), (Element.I64, 8)):
        cost = cycles.cost_of(command(n, element), spec)
        assert cost is not None and cost.cycles == spec.pe.sfu.startup_cycles + digits * n / rate
    network = cycles.cost_of(command(n, Element.I64), load("mtia200"))
    assert network is not None and network.vector_ops == 5 * n * (n.bit_length() - 1) * n.bit_length() // 2


def test_radix_sort_beats_the_network():
    x = torch.randint(0, 1000, (4096,)).to("mtia")
    times = {}
    for name in ("mtia200", "mtia300"):
        with mtia.use(name), record.session() as log:
            torch.sort(x)
        times[name] = sum(s.duration_fs for s in log.spans if s.name == "mtia_sort_rows")
    assert 5 * times["mtia300"] < times["mtia200"]
