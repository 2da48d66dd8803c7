"""Table-batched embedding bags: for each table and bag, the sum of the rows that a list of indices picks.

8-bit rows carry their own scale and bias, as FBGEMM and `torch.ops.quantized.embedding_bag_byte_prepack` lay them out:
D codes, then float32 scale and bias; a row's value is code * scale + bias. Rows start at a multiple of `pitch` bytes,
so that a DMA that wants aligned addresses can fetch them. A chip without indexed DMA issues one command per row, one
with it a command per tile of rows. A tile holds a bag where local memory has room for two, or several bags where one
list of rows serves them. A bag ends within its part of a tile: what is left fetches row 0, which stays in SRAM, and
counts nothing, so that a tile is one list of constant length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.kernels.iteration import ceil_div, next_power_of_2

SCALE_BIAS_BYTES = 8
LEAST_ROWS = 16  # of a tile
TILES_FRAC = 0.75  # of local memory that two tiles of rows may fill

_INTEGERS = ["B", "T", "L", "E", "pitch"]


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _scale_and_bias(tail, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """float32 scale [ROWS] and bias [ROWS] from the first eight bytes of each row of a uint8 tile [ROWS, WIDTH] that is
    zero elsewhere."""
    head = tl.reduce(tl.reshape(tail, (ROWS, WIDTH // 8, 8)), 1, _either)
    words = tl.reshape(head, (ROWS, 2, 4)).to(tl.uint32) << (tl.arange(0, 4) * 8).to(tl.uint32)[None, None, :]
    return tl.split(tl.sum(words, axis=2).to(tl.float32, bitcast=True))


@triton.jit(do_not_specialize=_INTEGERS)
def mtia_embedding_bag(
    row_ptr,
    index_ptr,
    out_ptr,
    B,
    T,
    L,
    E,
    pitch,
    D: tl.constexpr,
    BD: tl.constexpr,
    BAGS: tl.constexpr,
    ROWS: tl.constexpr,
    SCALED: tl.constexpr,
):
    """out[b, t, :] = sum over l of row index[t, b, l] of table t. Tables have E rows, `pitch` elements apart.

    SCALED: a row is fetched with the scale and bias behind it, as one run of memory.
    """
    bag = tl.program_id(0) * BAGS + tl.arange(0, BAGS)
    table = bag // B
    column = tl.arange(0, BD)
    total = tl.zeros((BAGS, BD), dtype=tl.float32)
    for first in range(0, L, ROWS):
        place = first + tl.arange(0, ROWS)
        known = (bag < B * T)[:, None] & (place < L)[None, :]
        lists = tl.load(index_ptr + bag[:, None] * L + place[None, :], mask=known, other=-1)
        first_element = (table[:, None] * E + tl.maximum(lists, 0)).to(tl.int64) * pitch
        index, start = tl.reshape(lists, (BAGS * ROWS,)), tl.reshape(first_element, (BAGS * ROWS,))
        if SCALED:
            part = tl.arange(0, 2)[:, None]  # codes, then what follows them
            inside = column[None, :] < tl.where(part == 0, D, 8)
            at = start[:, None, None] + (part * D + column[None, :])[None, :, :]
            both = tl.load(row_ptr + at, mask=inside[None, :, :], other=0)
            codes, tail = tl.split(tl.permute(both, (0, 2, 1)))
            scale, bias = _scale_and_bias(tail, BAGS * ROWS, BD)
            scale, bias = tl.where(index < 0, 0.0, scale), tl.where(index < 0, 0.0, bias)
            rows = tl.fma(codes.to(tl.float32), scale[:, None], bias[:, None])
        else:
            rows = tl.load(row_ptr + start[:, None] + column[None, :], mask=(column < D)[None, :], other=0.0)
            rows = tl.where(index[:, None] < 0, 0.0, rows.to(tl.float32))
        total += tl.sum(tl.reshape(rows, (BAGS, ROWS, BD)), axis=1)
    to = out_ptr + ((bag % B) * T + table)[:, None] * D + column[None, :]
    tl.store(to, total.to(out_ptr.dtype.element_ty), mask=(bag < B * T)[:, None] & (column < D)[None, :])


@dataclass(frozen=True, slots=True)
class BagLaunch:
    """How a lookup is launched."""

    grid: tuple[int, ...]
    integers: tuple[int, ...]
    constants: dict[str, Any]


def row_pitch_bytes(dim: int, element_bytes: int, alignment_bytes: int, *, scaled: bool) -> int:
    """Bytes from row to row: codes, scale and bias, rounded up to what a DMA can address (and a float32)."""
    used = dim * element_bytes + (SCALE_BIAS_BYTES if scaled else 0)
    step = max(4, alignment_bytes)
    return ceil_div(used, step) * step


def bag_launch(
    tables: int,
    batch: int,
    pooling: int,
    rows: int,
    dim: int,
    pitch: int,
    *,
    element_bytes: int,
    scaled: bool,
    spec: ChipSpec,
) -> BagLaunch:
    """`pitch` in elements of the rows."""
    width = max(SCALE_BIAS_BYTES, next_power_of_2(dim))
    row_bytes = (2 if scaled else 1) * width * element_bytes
    tile = rows_of_tile(pooling, row_bytes, spec.pe.local_memory_bytes)
    bags = bags_of_tile(tables * batch, tile * row_bytes, spec)
    constants = dict(D=dim, BD=width, BAGS=bags, ROWS=tile, SCALED=scaled)
    return BagLaunch((ceil_div(tables * batch, bags),), (batch, tables, pooling, rows, pitch), constants)


def bags_of_tile(bags: int, bag_bytes: int, spec: ChipSpec) -> int:
    """Bags that share a list of rows: one where the core issues row by row. Where the DMA reads the list itself, as
    many as keep it busy (`max_outstanding_bytes`), two tiles have room for, and leave every PE a tile."""
    room = min(TILES_FRAC * spec.pe.local_memory_bytes / 2, spec.pe.dma.max_outstanding_bytes)
    room /= spec.pe.resident_programs
    most = 1
    while spec.pe.dma.indexed and 2 * most * bag_bytes <= room:
        most *= 2
    while most > 1 and ceil_div(bags, most) < spec.grid.n_pes * spec.pe.resident_programs:
        most //= 2
    return most


def rows_of_tile(pooling: int, row_bytes: int, local_memory_bytes: int) -> int:
    """A power of two that covers the bag, as far as two tiles fit local memory; at least `LEAST_ROWS`."""
    tile = max(LEAST_ROWS, next_power_of_2(pooling))
    while tile > LEAST_ROWS and 2 * tile * row_bytes > TILES_FRAC * local_memory_bytes:
        tile //= 2
    return tile


def pack_rows(weights: torch.Tensor, alignment_bytes: int = 1) -> torch.Tensor:
    """float [..., D] to uint8 [..., pitch]: each row's codes 0..255, float32 scale and bias, padding.

    scale = (max - min) / 255, bias = min, codes rounded to nearest even; a constant row has scale 1.
    """
    low = weights.amin(-1, keepdim=True).float()
    span = weights.amax(-1, keepdim=True).float() - low
    scale = torch.where(span > 0, span / 255, torch.ones_like(span))
    codes = ((weights.float() - low) / scale).round().clamp(0, 255).to(torch.uint8)
    tail = torch.cat([scale, low], -1).contiguous().view(torch.uint8)
    packed = torch.cat([codes, tail], -1)
    pitch = row_pitch_bytes(weights.shape[-1], 1, alignment_bytes, scaled=True)
    return torch.nn.functional.pad(packed, (0, pitch - packed.shape[-1]))


def embedding_bags(
    tables: torch.Tensor, indices: torch.Tensor, dim: int, out_dtype: torch.dtype = torch.float16
) -> torch.Tensor:
    """Pooled sums [B, T, dim] of tables [T, E, pitch] picked by int32 indices [T, B, L].

    uint8 tables are those of `pack_rows`; float tables are plain rows of `dim` elements or more.
    """
    from mtia.host_runtime import silicon

    T, B, L = indices.shape
    scaled = tables.dtype == torch.uint8
    out = torch.empty((B, T, dim), dtype=out_dtype, device=tables.device)
    if out.numel() == 0:
        return out
    launch = bag_launch(
        T,
        B,
        L,
        tables.shape[1],
        dim,
        tables.shape[2],
        element_bytes=tables.element_size(),
        scaled=scaled,
        spec=silicon.chip(),
    )
    mtia_embedding_bag[launch.grid](tables, indices, out, *launch.integers, **launch.constants)
    return out


__all__ = ["BagLaunch", "bag_launch", "embedding_bags", "mtia_embedding_bag", "pack_rows", "row_pitch_bytes"]
