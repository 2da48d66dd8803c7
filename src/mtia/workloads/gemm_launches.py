"""The launches of one matrix multiplication: quantise x, multiply, add the partial sums of a split depth.

`Formats` says which kernels a data type takes; the functions make `Call`s of them for a `Problem` and a `Choice`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import triton.language as tl

from mtia.kernels.activation_quantise import mtia_quantise_blocks, mtia_quantise_rows
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.kernels.library_matmul import mtia_matmul_promoted, mtia_matmul_scaled, mtia_matmul_split, mtia_sum_splits
from mtia.workloads.gemm_estimate import QUANTISE_ELEMENTS, SUM_BLOCK, SUM_SLOTS, Choice, Problem
from mtia.workloads.launches import Buffer, Call

MOST_STEPS_FINE = 16  # deeper programs take double steps where slots allow
LEAST_SLOTS = 3
QUANTISE_SLOTS = 4
_INT32_LIMIT = 2**31 - 1


class Scaling(StrEnum):
    """How the scales of quantised operands enter the product."""

    NONE = "none"  # or once at the end
    ENGINE = "engine"  # by the dot product engine, block by block
    PROMOTED = "promoted"  # on the vector cores, block by block, into a second accumulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """A data type as kernels see it. `group`: elements with one scale (0: a row has one)."""

    mac: str
    element: torch.dtype
    per_element: int = 1  # elements in one of the tensor's bytes or words
    quantised: bool = False
    group: int = 0
    scaling: Scaling = Scaling.NONE
    scale: torch.dtype = torch.float32
    code: str = ""  # of tl.dot_scaled

    @property
    def bytes_per_element(self) -> float:
        """With its scales."""
        scales = self.scale.itemsize / self.group if self.group else 0.0
        return self.element.itemsize / self.per_element + scales


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """Addresses of one call. `source`: x before it is quantised; scales are there where it is."""

    source: Buffer
    x: Buffer
    w: Buffer
    out: Buffer
    x_scale: Buffer
    w_scale: Buffer


def multiply(problem: Problem, choice: Choice, formats: Formats, t: Tensors, into: Buffer) -> Call:
    """The matrix multiplication itself; `into`: out, or the partial sums."""
    m, n, k = problem.m, problem.n, problem.k
    step, slots = coarser(problem, choice, formats)
    depth = ceil_div(ceil_div(k, choice.splits), step) * step
    far = max(m * k, n * k, m * n * choice.splits) > _INT32_LIMIT
    constants: dict[str, Any] = dict(
        BM=choice.bm, BN=choice.bn, BK=step, EVEN_K=depth * choice.splits == k, INDEX=tl.int64 if far else tl.int32
    )
    scaled = (t.x, t.w, t.x_scale, t.w_scale, into)
    match formats.scaling:
        case Scaling.NONE:
            kernel, tensors = mtia_matmul_split, (t.x, t.w, into)
            constants |= dict(BN2=choice.bn2)
        case Scaling.ENGINE:
            kernel, tensors = mtia_matmul_scaled, scaled
            constants |= dict(BLOCK=formats.group, FORMAT=formats.code)
        case Scaling.PROMOTED:
            kernel, tensors = mtia_matmul_promoted, scaled
    return Call(
        kernel=kernel,
        grid=(ceil_div(m, choice.bm) * ceil_div(n, choice.width), choice.splits),
        arguments=(*tensors, m, n, k, depth, choice.group),
        constants=constants,
        load_slots=slots,
        store_slots=choice.store_slots,
    )


def coarser(problem: Problem, choice: Choice, formats: Formats) -> tuple[int, int]:
    """Depth of a step and slots: the same bytes under way in fewer, larger steps where programs are deep."""
    step, slots = choice.step, choice.slots
    if formats.scaling is Scaling.PROMOTED:
        return step, slots
    while slots >= 2 * LEAST_SLOTS and ceil_div(problem.k, step * choice.splits) > MOST_STEPS_FINE:
        step, slots = 2 * step, slots // 2
    return step, slots


def add_up(problem: Problem, choice: Choice, parts: Buffer, out: Buffer) -> Call:
    """The kernel that adds partial sums."""
    n_elements = problem.m * problem.n
    far = n_elements * choice.splits > _INT32_LIMIT
    return Call(
        kernel=mtia_sum_splits,
        grid=(ceil_div(n_elements, SUM_BLOCK),),
        arguments=(parts, out, n_elements),
        constants=dict(SPLITS=choice.splits, BLOCK=SUM_BLOCK, INDEX=tl.int64 if far else tl.int32),
        load_slots=min(SUM_SLOTS, max(2, choice.splits)),
        store_slots=2,
    )


def quantise(rows: int, k: int, formats: Formats, t: Tensors, longest: int) -> Call:
    """x from 16 bits to what the multiply takes; `rows` of it. `longest`: elements of a row that a program holds."""
    if not formats.group:
        block = min(longest, next_power_of_2(k))
        height = max(1, QUANTISE_ELEMENTS // block)
        return Call(
            kernel=mtia_quantise_rows,
            grid=(ceil_div(rows, height),),
            arguments=(t.source, t.x, t.x_scale, rows, k),
            constants=dict(ROWS=height, BLOCK=block, ONCE=k <= block),
            load_slots=QUANTISE_SLOTS,
            store_slots=2,
        )
    n_groups = ceil_div(rows * k, formats.group)
    groups = max(1, QUANTISE_ELEMENTS // formats.group)
    return Call(
        kernel=mtia_quantise_blocks,
        grid=(ceil_div(n_groups, groups),),
        arguments=(t.source, t.x, t.x_scale, n_groups),
        constants=dict(GROUP=formats.group, GROUPS=groups, PACKED=formats.per_element == 2),
        load_slots=QUANTISE_SLOTS,
        store_slots=2,
    )


__all__ = ["Formats", "Scaling", "Tensors", "add_up", "coarser", "multiply", "quantise"]
