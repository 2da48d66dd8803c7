"""How a kernel walks several tensors at once: broadcast, order and collapse dims, then choose tiles.

All element-wise kernels (arithmetic, copies, casts, gathers by element) share this. A *walk* is either flat (one
contiguous run, operands are contiguous or a single element) or a grid of rows by a last dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

FLAT_BLOCKS = ((256 * 128, 256), (1024 * 512, 1024))  # (up to this many elements, block)
LARGEST_FLAT_BLOCK = 2048
STREAM_BLOCKS = 1024  # so many largest blocks: long enough to stream longer ones
STREAM_BYTES = 96 << 10  # two slots of every operand of a stream fit it
LARGEST_STREAM_BLOCK = 8192
TILE_ELEMENTS = 1024
STRIDED_TILE_WIDTH = 32  # width of a tile some operand crosses with a stride
INT32_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Walk:
    """`sizes` of the collapsed dims; `strides[operand][dim]` in elements. Flat: one dim, strides 1 or 0 each."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    is_flat: bool

    @property
    def layouts(self) -> str:
        """One letter per operand: c contiguous, o one element (flat walks); s strided."""
        if not self.is_flat:
            return "s" * len(self.strides)
        return "".join("c" if s[0] else "o" for s in self.strides)

    @property
    def needs_int64(self) -> bool:
        reach = max(sum((n - 1) * abs(s) for n, s in zip(self.sizes, st, strict=True)) for st in self.strides)
        return max(reach, _product(self.sizes)) > INT32_LIMIT - LARGEST_STREAM_BLOCK


def walk(shape: tuple[int, ...], operands: list[torch.Tensor], *, keep_dims: bool = False) -> Walk:
    """Walk over `shape` with every operand broadcast to it; `keep_dims` keeps dims as they are (for coordinates)."""
    if not keep_dims and _all_flat(shape, operands):
        n = _product(shape)
        return Walk((n,), tuple((1,) if t.numel() == n else (0,) for t in operands), True)
    sizes, strides = list(shape) or [1], [broadcast_strides(t, shape) or [0] for t in operands]
    if not keep_dims:
        sizes, strides = collapse(*order(sizes, strides))
        if len(sizes) == 1 and all(s[0] in (0, 1) for s in strides):
            return Walk(tuple(sizes), tuple(map(tuple, strides)), True)
    return Walk(tuple(sizes), tuple(map(tuple, strides)), False)


def _all_flat(shape: tuple[int, ...], operands: list[torch.Tensor]) -> bool:
    n = _product(shape)
    return all(
        t.numel() == 1 or (t.numel() == n and tuple(t.shape)[-len(shape) :] == tuple(shape) and t.is_contiguous())
        for t in operands
    )


def broadcast_strides(tensor: torch.Tensor, shape: tuple[int, ...]) -> list[int]:
    """Strides of `tensor` seen as `shape`: 0 in dims it is broadcast along."""
    lead = len(shape) - tensor.dim()
    strides = [0] * len(shape)
    for d, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if d + lead >= 0:
            strides[d + lead] = 0 if size == 1 else stride
    return strides


def broadcast_shape(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all broadcast to. Raises as torch.broadcast_shapes does, whose import of sympy takes seconds."""
    try:
        return np.broadcast_shapes(*map(tuple, shapes))
    except ValueError:
        return tuple(torch.broadcast_shapes(*shapes))


def order(sizes: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Dims of size 1 dropped, the rest from the first operand's largest stride to its smallest."""
    dims = [d for d in range(len(sizes)) if sizes[d] != 1]
    dims.sort(key=lambda d: [-abs(s[d]) for s in strides])
    return [sizes[d] for d in dims] or [1], [[s[d] for d in dims] or [0] for s in strides]


def collapse(sizes: list[int], strides: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Neighbouring dims merged where every operand steps through both as through one."""
    out_sizes, out_strides = [sizes[0]], [[s[0]] for s in strides]
    for d in range(1, len(sizes)):
        if all(o[-1] == s[d] * sizes[d] for o, s in zip(out_strides, strides, strict=True)):
            out_sizes[-1] *= sizes[d]
            for o, s in zip(out_strides, strides, strict=True):
                o[-1] = s[d]
        else:
            out_sizes.append(sizes[d])
            for o, s in zip(out_strides, strides, strict=True):
                o.append(s[d])
    return out_sizes, out_strides


def flat_block(n: int, element_bytes: int) -> int:
    """Elements per program of a flat walk: small enough to give the PEs work, large enough for long DMA.

    `element_bytes`: of all operands together. A long stream keeps more bytes in flight, which DRAM's latency needs.
    """
    if n < STREAM_BLOCKS * LARGEST_FLAT_BLOCK:
        return next((block for limit, block in FLAT_BLOCKS if n <= limit), LARGEST_FLAT_BLOCK)
    block = LARGEST_FLAT_BLOCK
    while 2 * block <= LARGEST_STREAM_BLOCK and 2 * (2 * block) * element_bytes <= STREAM_BYTES:
        block *= 2
    return block


def row_tile(w: Walk) -> tuple[int, int]:
    """(rows, columns) per program of a strided walk."""
    n_rows = _product(w.sizes[:-1])
    crosses = any(s[-1] not in (0, 1) for s in w.strides)
    widest = STRIDED_TILE_WIDTH if crosses and n_rows > 1 else TILE_ELEMENTS
    columns = min(next_power_of_2(w.sizes[-1]), widest)
    rows = min(next_power_of_2(n_rows), max(1, TILE_ELEMENTS // columns))
    return rows, columns


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _product(sizes: tuple[int, ...] | list[int]) -> int:
    n = 1
    for s in sizes:
        n *= s
    return n
