"""Sorting and top-k along a dim, stable: keys packed with their position into one integer.

A 32-bit key in the upper half and the position in the lower make every entry different, so any sorting network is
stable. 64-bit types are sorted by their lower, then their upper half. Rows up to BLOCK are sorted in local memory;
longer ones by compare-exchange passes over device memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from mtia.kernels.copy import contiguous, copy_strided
from mtia.kernels.elementwise import Emitter, Operation, define, launch
from mtia.kernels.indexing import gather_out
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.registry import aten
from mtia.triton_backend.language import sort_tile

BLOCK = 4096
LOCAL_TILES = 4  # tiles of a row that a local sort keeps: what comes in and what goes out, twice each
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_WIDE = (torch.int64, torch.float64, torch.uint32, torch.uint64)


def _key_lines(k: Emitter, half: str, flip: str) -> list[str]:
    """`key`: int64 in 32-bit range that orders as x does."""
    kind = k.names["x"]
    if kind in ("tl.float32", "tl.float16", "tl.bfloat16"):
        lines = [
            f"x = {k.load('x', cast='tl.float32')}",
            "x = tl.where(x == 0, 0.0, x)",
            "b = x.to(tl.int32, bitcast=True)",
            "b = b ^ ((b >> 31) & 0x7fffffff)",
            "key = tl.where(x != x, 0x7fffffff, b).to(tl.int64)",
        ]
    else:
        lines = [f"x = {k.load('x', cast=kind)}"]
        if kind == "tl.float64":
            lines += [
                "x = tl.where(x == 0, 0.0, x)",
                "b = x.to(tl.int64, bitcast=True)",
                "b = b ^ ((b >> 63) & 0x7fffffffffffffff)",
                "b = tl.where(x != x, 0x7fffffffffffffff, b)",
            ]
        else:
            lines += ["b = x.to(tl.int64)"]
        lines += {"all": ["key = b"], "upper": ["key = b >> 32"], "lower": ["key = (b & 0xffffffff) - 0x80000000"]}[
            half
        ]
    return [*lines, *(["key = -1 - key"] if flip == "down" else [])]


def _pack_operation(half: str, direction: str) -> Operation:
    def body(k: Emitter) -> list[str]:
        position = "(column.to(tl.int64)[None, :] + tl.zeros(mask.shape, tl.int64))"
        return [*_key_lines(k, half, direction), k.store("out", f"(key << 32) | {position}")]

    return define(Operation(f"sort_pack_{half}_{direction}", ("x",), body=body, keep_dims=True))


_PACK = {(half, way): _pack_operation(half, way) for half in ("all", "lower", "upper") for way in ("up", "down")}
UNPACK = define(Operation("sort_unpack", ("x",), "x & 0xffffffff"))


@triton.jit(do_not_specialize=["N", "N_OUT"])
def mtia_sort_rows(x_ptr, out_ptr, N, N_OUT, WIDTH: tl.constexpr):
    """One row of up to WIDTH packed entries a program; the first N_OUT are kept."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    x = tl.load(x_ptr + row * N + column, mask=column < N, other=0x7FFFFFFFFFFFFFFF)
    y = sort_tile(x)
    tl.store(out_ptr + row * N_OUT + column, y, mask=column < N_OUT)


@triton.jit(do_not_specialize=["N", "stage", "distance"])
def mtia_sort_exchange(x_ptr, N, stage, distance, BLOCK_: tl.constexpr):
    """One compare-exchange pass of a bitonic network over rows of N (a power of two)."""
    pair = tl.program_id(0).to(tl.int64) * BLOCK_ + tl.arange(0, BLOCK_)
    row = tl.program_id(1).to(tl.int64) * N
    mask = pair < N // 2
    first = (pair // distance) * (2 * distance) + pair % distance
    a = tl.load(x_ptr + row + first, mask=mask)
    b = tl.load(x_ptr + row + first + distance, mask=mask)
    rising = (first // stage) % 2 == 0
    swap = (a > b) == rising
    tl.store(x_ptr + row + first, tl.where(swap, b, a), mask=mask)
    tl.store(x_ptr + row + first + distance, tl.where(swap, a, b), mask=mask)


def local_entries() -> int:
    """Entries of a row that one PE sorts in its local memory: as many as its radix sort has room for, else `BLOCK`."""
    from mtia.host_runtime import silicon

    pe = silicon.chip().pe
    if pe.sfu.radix_sort_elements_per_cycle is None:
        return BLOCK
    room = pe.local_memory_bytes // (8 * LOCAL_TILES)
    return max(BLOCK, next_power_of_2(room + 1) // 2)


def sort_packed(packed: torch.Tensor, n_out: int) -> torch.Tensor:
    """The n_out least entries of each row of packed [R, N], in order."""
    R, N = packed.shape
    if N <= local_entries():  # noqa: SIM300
        out = torch.empty((R, n_out), dtype=torch.int64, device=packed.device)
        mtia_sort_rows[(R,)](packed, out, N, n_out, WIDTH=next_power_of_2(N))
        return out
    if n_out <= BLOCK // 4:
        return _least_of_blocks(packed, n_out)
    P = next_power_of_2(N)
    work = torch.full((R, P), 2**63 - 1, dtype=torch.int64, device=packed.device)
    copy_strided(work[:, :N], packed)
    _bitonic(work)
    return contiguous(work[:, :n_out])


def _least_of_blocks(packed: torch.Tensor, n_out: int) -> torch.Tensor:
    """Top of each block, then of the tops."""
    R, N = packed.shape
    n_blocks = ceil_div(N, BLOCK)
    work = torch.full((R, n_blocks * BLOCK), 2**63 - 1, dtype=torch.int64, device=packed.device)
    copy_strided(work[:, :N], packed)
    tops = sort_packed(work.view(R * n_blocks, BLOCK), n_out)
    return sort_packed(tops.view(R, n_blocks * n_out), n_out)


def _bitonic(work: torch.Tensor) -> None:
    R, P = work.shape
    stage = 2
    while stage <= P:
        distance = stage // 2
        while distance:
            mtia_sort_exchange[(ceil_div(P // 2, 1024), R)](work, P, stage, distance, BLOCK_=1024)
            distance //= 2
        stage *= 2


def _packed(rows: torch.Tensor, half: str, descending: bool) -> torch.Tensor:
    out = torch.empty(rows.shape, dtype=torch.int64, device=rows.device)
    launch(_PACK[half, "down" if descending else "up"], out, (rows,), compute=torch.int64)
    return out


def _positions(packed: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(packed)
    launch(UNPACK, out, (packed,), compute=torch.int64)
    return out


def order_rows(rows: torch.Tensor, n_out: int, descending: bool) -> torch.Tensor:
    """Positions of the first n_out of each row [R, N] in order, stable."""
    if rows.dtype not in _WIDE:
        return _positions(sort_packed(_packed(rows, "all", descending), n_out))
    N = rows.shape[1]
    by_lower = _positions(sort_packed(_packed(rows, "lower", descending), N))
    moved = gather_out(rows, 1, by_lower, out=torch.empty_like(rows))
    by_upper = _positions(sort_packed(_packed(moved, "upper", descending), n_out))
    return gather_out(by_lower, 1, by_upper, out=torch.empty_like(by_upper))


def _ordered(
    x: torch.Tensor, n_out: int, dim: int, descending: bool, values: torch.Tensor, indices: torch.Tensor
) -> None:
    shape = list(x.shape)
    if x.dim():
        dim %= x.dim()
        shape[dim] = n_out
    for t in (values, indices):
        if list(t.shape) != shape:
            t.resize_(shape)
    if values.numel() == 0:
        return
    if x.dim() == 0:
        copy_strided(values, x)
        indices.zero_()
        return
    moved = contiguous(x.movedim(dim, -1))
    rows = moved.view(-1, moved.shape[-1])
    found = order_rows(rows, n_out, descending)
    picked = gather_out(rows, 1, found, out=torch.empty(found.shape, dtype=x.dtype, device=x.device))
    lead = moved.shape[:-1]
    copy_strided(values.movedim(dim, -1), picked.view(*lead, n_out))
    copy_strided(indices.movedim(dim, -1), found.view(*lead, n_out))


@aten("sort.values_stable")
def sort_out(
    x: torch.Tensor,
    *,
    stable: bool | None = None,
    dim: int = -1,
    descending: bool = False,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    _ordered(x, x.shape[dim] if x.dim() else 1, dim, descending, values, indices)
    return values, indices


@aten("topk.values")
def topk_out(
    x: torch.Tensor,
    k: int,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,
    *,
    values: torch.Tensor,
    indices: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    _ordered(x, k, dim, largest, values, indices)
    return values, indices


@aten("kthvalue.values")
def kthvalue_out(
    x: torch.Tensor, k: int, dim: int = -1, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    ordered: tuple[Any, Any] = torch.sort(x.reshape(1) if x.dim() == 0 else x, dim=dim, stable=True)
    if x.dim() == 0:
        return copy_strided(values.resize_(()), x), indices.resize_(()).zero_()
    for out, found in zip((values, indices), ordered, strict=True):
        piece = found.narrow(dim, k - 1, 1) if keepdim else found.select(dim, k - 1)
        copy_strided(out.resize_(piece.shape), piece)
    return values, indices
