"""Embedding bags of any length, forward and backward: lists between offsets, gradients of rows in sorted order.

Lookups are written as fbgemm's table-batched lists: `indices` [N] table by table, bag by bag, `offsets` [T * B + 1].
Tables lie one after the other in one weight [rows, D]; table t starts at row `first_rows[t]`.

Backward, without atomics, so that a gradient is the same bits on every run:

    pack       row << 32 | row of the upstream gradient, one int64 a lookup (the forward of table-batched lists does)
    sort       by radix in a PE where the chip can (facts 4.2)
    sum        tiles of sorted lookups: a segmented scan gives, at each run's end in the tile, the run's sum there
    apply      at each run's last lookup: add what earlier tiles summed of it, then store the gradient row, or update
               the weight row with row-wise Adagrad. Rows that no lookup hit are not touched.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.kernels.copy import contiguous
from mtia.kernels.embedding_bag import bags_of_tile
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.sort import sort_packed

TILE_BYTES = 32 << 10  # of gradient rows in a tile of sorted lookups: several tiles and their scan fit local memory
TILE_LOOKUPS = 64
MOST_ROWS_A_BAG = 64  # of a tile; longer bags take several tiles


class Apply(IntEnum):
    """What becomes of a row's summed gradient."""

    STORE = 0
    ROWWISE_ADAGRAD = 1


class RowGradient(NamedTuple):
    """The gradient of the rows that were hit. `packed` int64 [N], sorted: row << 32 | row of the upstream gradient;
    `partial` float32 [N, D]: at each run's end in its tile of `block` lookups, the run's sum in that tile."""

    packed: torch.Tensor
    partial: torch.Tensor
    block: int


@triton.jit(do_not_specialize=["N", "B", "bags", "padding"])
def mtia_embedding_lists(
    weight_ptr, index_ptr, offset_ptr, first_row_ptr, scale_ptr, out_ptr, lookup_ptr, size_ptr,
    N, B, bags, padding,
    T: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BAGS: tl.constexpr, ROWS: tl.constexpr,
    MEAN: tl.constexpr, SCALED: tl.constexpr, OPEN_END: tl.constexpr, PACK: tl.constexpr,
):  # fmt: skip
    """out[b, t, :] = sum (MEAN: mean) of the rows that bag t * B + b lists; also, of each lookup, its gradient row
    b * T + t (PACK: row << 32 | gradient row), and the number of lookups of each bag. Index `padding` counts nothing.
    OPEN_END: the last bag ends at N."""
    bag = tl.program_id(0) * BAGS + tl.arange(0, BAGS)
    column = tl.arange(0, BD)
    inside = bag < bags
    begin = tl.load(offset_ptr + bag, mask=inside, other=0)
    if OPEN_END:
        end = tl.load(offset_ptr + bag + 1, mask=bag + 1 < bags, other=N)
        end = tl.where(inside, end, begin)
    else:
        end = tl.load(offset_ptr + bag + 1, mask=inside, other=0)
    to = (bag % B) * T + bag // B
    first_row = tl.zeros((BAGS,), tl.int64)
    if T > 1:
        first_row += tl.load(first_row_ptr + bag // B, mask=inside, other=0)
    total = tl.zeros((BAGS, BD), dtype=tl.float32)
    counted = tl.zeros((BAGS,), tl.int64)
    for first in range(0, tl.max(end - begin), ROWS):
        place = begin[:, None] + first + tl.arange(0, ROWS)[None, :]
        known = place < end[:, None]
        index = tl.load(index_ptr + place, mask=known, other=0).to(tl.int64)
        used = known & (index != padding)
        row = index + first_row[:, None]
        lookup = to[:, None].to(tl.int64) + tl.zeros((BAGS, ROWS), tl.int64)
        if PACK:
            lookup = (row << 32) | lookup
        tl.store(lookup_ptr + place, lookup, mask=known)
        row = tl.reshape(row, (BAGS * ROWS,))
        taken = tl.reshape(used, (BAGS * ROWS,))
        mask = taken[:, None] & (column < D)[None, :]
        rows = tl.load(weight_ptr + row[:, None] * D + column[None, :], mask=mask, other=0.0).to(tl.float32)
        if SCALED:
            scale = tl.load(scale_ptr + place, mask=used, other=0.0).to(tl.float32)
            rows = rows * tl.reshape(scale, (BAGS * ROWS,))[:, None]
        total += tl.sum(tl.reshape(rows, (BAGS, ROWS, BD)), axis=1)
        counted += tl.sum(used.to(tl.int64), axis=1)
    if MEAN:
        total = total / tl.maximum(counted, 1).to(tl.float32)[:, None]
    tl.store(size_ptr + bag, counted, mask=inside)
    mask = inside[:, None] & (column < D)[None, :]
    tl.store(out_ptr + to[:, None] * D + column[None, :], total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["N", "padding", "rows"])
def mtia_pack_lookups(index_ptr, to_ptr, packed_ptr, N, padding, rows, LISTED: tl.constexpr, BLOCK: tl.constexpr):
    """packed = index << 32 | to (the lookup's own place without LISTED); index `padding` becomes row `rows`."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < N
    row = tl.load(index_ptr + place, mask=mask, other=0).to(tl.int64)
    row = tl.where(row == padding, rows, row)
    if LISTED:
        to = tl.load(to_ptr + place, mask=mask, other=0).to(tl.int64)
    else:
        to = place.to(tl.int64)
    tl.store(packed_ptr + place, (row << 32) | to, mask=mask)


@triton.jit
def _add_within_run(key_a, a, key_b, b):
    """Segmented sum of sorted keys: what the left side holds of its last run goes on into the right side's."""
    return key_b, tl.where(key_a == key_b, a + b, b)


@triton.jit(do_not_specialize=["N"])
def mtia_sum_runs(packed_ptr, grad_ptr, partial_ptr, N, D: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr):
    """partial[p] = sum of the gradient rows of p's run in p's tile, where p is the run's last lookup there."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    column = tl.arange(0, BD)
    known = place < N
    packed = tl.load(packed_ptr + place, mask=known, other=-1)
    following = tl.load(packed_ptr + place + 1, mask=place + 1 < N, other=-1)
    key = (packed >> 32).to(tl.int32)
    row = packed & 0xFFFFFFFF
    mask = known[:, None] & (column < D)[None, :]
    grad = tl.load(grad_ptr + row[:, None] * D + column[None, :], mask=mask, other=0.0).to(tl.float32)
    keys = key[:, None] + tl.zeros((BLOCK, BD), tl.int32)
    _, total = tl.associative_scan((keys, grad), 0, _add_within_run)
    last = (key != (following >> 32).to(tl.int32)) | (place % BLOCK == BLOCK - 1)
    tl.store(partial_ptr + place[:, None] * D + column[None, :], total, mask=mask & last[:, None])


@triton.jit(do_not_specialize=["N", "rows", "rate", "eps"])
def mtia_apply_rows(
    packed_ptr, partial_ptr, weight_ptr, moment_ptr, N, rows, rate, eps,
    D: tl.constexpr, BD: tl.constexpr, BLOCK: tl.constexpr, HOW: tl.constexpr,
):  # fmt: skip
    """Each run's whole sum, at its last lookup: HOW 0: weight[row] = sum; 1: row-wise Adagrad on weight and moment."""
    begin = tl.program_id(0) * BLOCK
    place = begin + tl.arange(0, BLOCK)
    column = tl.arange(0, BD)
    known = place < N
    packed = tl.load(packed_ptr + place, mask=known, other=-1)
    following = tl.load(packed_ptr + place + 1, mask=place + 1 < N, other=-1)
    row = packed >> 32
    last = known & (row != (following >> 32)) & (row < rows)
    mask = last[:, None] & (column < D)[None, :]
    total = tl.load(partial_ptr + place[:, None] * D + column[None, :], mask=mask, other=0.0)
    first_row = tl.load(packed_ptr + begin) >> 32
    open_run = last & (row == first_row)
    carry = tl.zeros((BD,), tl.float32)
    at = begin - 1
    earlier = tl.load(packed_ptr + at, mask=at >= 0, other=-1) >> 32
    earlier = tl.where(tl.sum(open_run.to(tl.int32)) > 0, earlier, -1)
    while earlier == first_row:
        carry += tl.load(partial_ptr + at * D + column, mask=column < D, other=0.0)
        at -= BLOCK
        earlier = tl.load(packed_ptr + at, mask=at >= 0, other=-1) >> 32
    total += tl.where(open_run[:, None], carry[None, :], 0.0)
    to = weight_ptr + row[:, None] * D + column[None, :]
    if HOW == 1:
        moment = tl.load(moment_ptr + row, mask=last, other=0.0) + tl.sum(total * total, axis=1) / D
        tl.store(moment_ptr + row, moment, mask=last)
        step = rate / (tl.sqrt(moment) + eps)
        weight = tl.load(to, mask=mask, other=0.0).to(tl.float32) - step[:, None] * total
        tl.store(to, weight.to(weight_ptr.dtype.element_ty), mask=mask)
    else:
        tl.store(to, total.to(weight_ptr.dtype.element_ty), mask=mask)


# --- forward ----------------------------------------------------------------------------------------------------------


class Lists(NamedTuple):
    """Pooled rows [B, T, D]; of each lookup its gradient row b * T + t [N], or row << 32 | gradient row where lists
    are table-batched (what `row_gradient` takes); lookups of each bag [T * B]. The integers are int64."""

    out: torch.Tensor
    lookups: torch.Tensor
    sizes: torch.Tensor


def embedding_lists(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first_rows: torch.Tensor | None = None, *,
    bags: int, mean: bool = False, scales: torch.Tensor | None = None, padding: int = -1,
) -> Lists:  # fmt: skip
    """Sums (or means) of weight [rows, D] by bag. `first_rows` int64 [T]: table-batched; `scales` [N] multiply rows.

    `offsets`: as many as bags, or one more. Sums are float32, rounded once to weight's type. The lists of a launch
    with `bags` bags are `bags // T` long in each of T tables.
    """
    for name, t in (("indices", indices), ("offsets", offsets), ("per_sample_weights", scales)):
        if t is not None and t.device != weight.device:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} is on {t.device}, weight on {weight.device}"
            )
    N, D = indices.numel(), weight.shape[1]
    T = 1 if first_rows is None else first_rows.numel()
    device = weight.device
    out = torch.empty((bags // T, T, D), dtype=weight.dtype, device=device)
    lookups = torch.empty((N,), dtype=torch.int64, device=device)
    sizes = torch.empty((bags,), dtype=torch.int64, device=device)
    if bags == 0:
        return Lists(out, lookups, sizes)
    rows = rows_of_list(N, bags)
    width = next_power_of_2(D)
    tile = bags_of_tile(bags, rows * width * weight.element_size(), _chip())
    mtia_embedding_lists[(ceil_div(bags, tile),)](
        contiguous(weight), contiguous(indices), contiguous(offsets), first_rows, scales, out, lookups, sizes,
        N, bags // T, bags, padding, T=T, D=D, BD=width, BAGS=tile, ROWS=rows,
        MEAN=mean, SCALED=scales is not None, OPEN_END=offsets.numel() == bags,
        PACK=first_rows is not None,
    )  # fmt: skip
    return Lists(out, lookups, sizes)


def rows_of_list(lookups: int, bags: int) -> int:
    """Rows fetched of each bag at a time: the mean list, up to a power of two."""
    return min(MOST_ROWS_A_BAG, next_power_of_2(max(1, ceil_div(lookups, max(1, bags)))))


def _chip() -> ChipSpec:
    from mtia.host_runtime import silicon

    return silicon.chip()


# --- backward ---------------------------------------------------------------------------------------------------------


def pack_lookups(
    indices: torch.Tensor, gradient_rows: torch.Tensor | None, rows: int, padding: int = -1
) -> torch.Tensor:
    """int64 [N]: row << 32 | gradient row (None: lookup p has gradient row p). Padding goes to row `rows`: nowhere."""
    flat = contiguous(indices).view(-1)
    packed = torch.empty((flat.numel(),), dtype=torch.int64, device=flat.device)
    if flat.numel():
        listed = gradient_rows is not None
        grid = (ceil_div(flat.numel(), 1024),)
        mtia_pack_lookups[grid](flat, gradient_rows if listed else flat, packed, flat.numel(), padding, rows,
                                LISTED=listed, BLOCK=1024)  # fmt: skip
    return packed


def row_gradient(packed: torch.Tensor, grad: torch.Tensor) -> RowGradient:
    """Sums of grad [G, D] by row, kept by run and tile. `packed`: unsorted."""
    N, D = packed.numel(), grad.shape[-1]
    width = next_power_of_2(D)
    block = min(TILE_LOOKUPS, max(1, TILE_BYTES // (4 * width)), next_power_of_2(max(1, N)))
    partial = torch.empty((N, D), dtype=torch.float32, device=grad.device)
    if N == 0:
        return RowGradient(packed, partial, block)
    ordered = sort_packed(packed.view(1, N), N).view(N)
    mtia_sum_runs[(ceil_div(N, block),)](ordered, contiguous(grad), partial, N, D=D, BD=width, BLOCK=block)
    return RowGradient(ordered, partial, block)


def _apply(
    gradient: RowGradient, weight: torch.Tensor, moment: torch.Tensor | None, how: Apply, **numbers: Any
) -> None:
    N, D = gradient.partial.shape
    if N == 0:
        return
    grid = (ceil_div(N, gradient.block),)
    mtia_apply_rows[grid](
        gradient.packed, gradient.partial, weight, weight if moment is None else moment, N, weight.shape[0],
        float(numbers.get("rate", 0.0)), float(numbers.get("eps", 0.0)),
        D=D, BD=next_power_of_2(D), BLOCK=gradient.block, HOW=int(how),
    )  # fmt: skip


def store_rows(gradient: RowGradient, out: torch.Tensor) -> torch.Tensor:
    """out [rows, D] with the summed gradient in the rows that were hit, rounded once; others are left."""
    _apply(gradient, out, None, Apply.STORE)
    return out


def rowwise_adagrad_(
    weight: torch.Tensor, moment: torch.Tensor, gradient: RowGradient, *, rate: float, eps: float
) -> None:
    """For each row hit: moment += mean(g^2); weight -= rate * g / (sqrt(moment) + eps). moment: float32 [rows]."""
    _apply(gradient, weight, moment, Apply.ROWWISE_ADAGRAD, rate=rate, eps=eps)


def dense_gradient(
    grad: torch.Tensor, indices: torch.Tensor, gradient_rows: torch.Tensor | None, rows: int, padding: int = -1
) -> torch.Tensor:
    """The gradient of a whole table [rows, D], zero where no lookup hit."""
    out = torch.zeros((rows, grad.shape[-1]), dtype=grad.dtype, device=grad.device)
    return store_rows(row_gradient(pack_lookups(indices, gradient_rows, rows, padding), grad), out)


__all__ = [
    "Apply",
    "Lists",
    "RowGradient",
    "dense_gradient",
    "embedding_lists",
    "pack_lookups",
    "row_gradient",
    "rows_of_list",
    "rowwise_adagrad_",
    "store_rows",
]  # fmt: skip
