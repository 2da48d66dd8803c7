"""Operators of facts 11.3 on small matrices of a large batch: batch matrix multiply, concatenation, dequantisation.

The published rates are those of matrices m, k, n with no batch given. A batch fills half of SRAM here ("sram": tensors
lie there, as after the operators before), or is far larger than SRAM and its tensors are in DRAM. Predictions are of
one item of the batch, its share of the launch included. Rates count each operand and each result once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, did_you_mean
from mtia.kernels.copy import COPY
from mtia.kernels.elementwise import Operation, plan
from mtia.kernels.iteration import ceil_div
from mtia.kernels.matmul import mtia_matmul
from mtia.kernels.quantise import DEQUANTIZE
from mtia.kernels.tiling import Tiling, legal_tilings
from mtia.workloads.fc import PLACES
from mtia.workloads.launches import Buffer, Call, Memory, time_call, touch_call
from mtia.workloads.prediction import Prediction, Protocol, predicted

FILLED_FRAC = {"sram": 0.5, "dram": 8.0}  # of SRAM, by all tensors of the batch
_HALF, _BYTE, _FLOAT = torch.float16, torch.int8, torch.float32


@dataclass(frozen=True, slots=True)
class _Tensors:
    """The batch: `given` are read, `made` is written."""

    memory: Memory
    batch: int
    m: int
    k: int
    n: int
    given: tuple[Buffer, ...]
    made: Buffer


def _batchmatmul(t: _Tensors) -> list[list[Call]]:
    """[m, k] @ [k, n], each matrix of the batch with its own; float16 in and out. One alternative per tiling."""
    return [[_multiply(t, tiling)] for tiling in legal_tilings(t.batch, t.m, t.n, t.k, _HALF, t.memory.spec)]


def _multiply(t: _Tensors, tiling: Tiling) -> Call:
    m, k, n = t.m, t.k, t.n
    x, y = t.given
    return Call(
        kernel=mtia_matmul,
        grid=(ceil_div(m, tiling.m) * ceil_div(n, tiling.n), t.batch),
        arguments=(x, y, t.made, t.made, 1.0, 1.0, m, n, k, m * k, k, 1, k * n, n, 1, 0, 0, 0, m * n, n, 1),
        constants=dict(
            BM=tiling.m,
            BN=tiling.n,
            BK=tiling.k,
            ACC=tl.float32,
            GROUP=t.memory.spec.grid.cols,
            EVEN_K=k % tiling.k == 0,
            SCALED=False,
            HAS_C=False,
            INDEX=tl.int64 if t.batch * max(m * k, k * n, m * n) > 2**31 - 1 else tl.int32,
        ),
        options=dict(num_stages=tiling.stages),
    )


def _concat(t: _Tensors) -> list[list[Call]]:
    """[m, k] and [m, n] side by side, float16: a copy of each into its columns of the result."""
    rows, width = t.batch * t.m, t.k + t.n
    out = torch.empty((rows, width), dtype=_HALF, device="meta")
    parts = ((t.given[0], 0, t.k), (t.given[1], t.k, t.n))
    return [[_copy(source, t.made.at(first), out[:, first : first + n], rows) for source, first, n in parts]]


def _copy(source: Buffer, into: Buffer, columns: torch.Tensor, rows: int) -> Call:
    x = torch.empty((rows, columns.shape[1]), dtype=source.dtype, device="meta")
    return _elementwise(COPY, (columns, x), (into, source), source.dtype)


def _dequantize(t: _Tensors) -> list[list[Call]]:
    """int8 [m, k] with a scale and a bias a row, to float32."""
    rows = t.batch * t.m
    like = [torch.empty((rows, n), dtype=d, device="meta") for n, d in ((t.k, _FLOAT), (t.k, _BYTE))]
    each = torch.empty((rows, 1), dtype=_FLOAT, device="meta").expand(rows, t.k)
    return [[_elementwise(DEQUANTIZE, (*like, each, each), (t.made, *t.given), _FLOAT)]]


def _elementwise(
    operation: Operation, like: tuple[torch.Tensor, ...], buffers: tuple[Buffer, ...], compute: torch.dtype
) -> Call:
    names = (*operation.outputs, *operation.inputs)
    found = plan(operation, tuple(like[0].shape), list(like), names, (), compute)
    return Call(kernel=found.kernel, grid=found.grid, arguments=(*buffers, *found.integers))


@dataclass(frozen=True, slots=True)
class _Op:
    """Elements of one item's tensors with their types, as functions of m, k, n; the launches."""

    given: Callable[[int, int, int], tuple[tuple[int, torch.dtype], ...]]
    made: Callable[[int, int, int], tuple[int, torch.dtype]]
    calls: Callable[[_Tensors], list[list[Call]]]


OPS: dict[str, _Op] = {
    "batchmatmul": _Op(lambda m, k, n: ((m * k, _HALF), (k * n, _HALF)), lambda m, k, n: (m * n, _HALF), _batchmatmul),
    "concat": _Op(lambda m, k, n: ((m * k, _HALF), (m * n, _HALF)), lambda m, k, n: (m * (k + n), _HALF), _concat),
    "dequantize": _Op(
        lambda m, k, n: ((m * k, _BYTE), (m, _FLOAT), (m, _FLOAT)), lambda m, k, n: (m * k, _FLOAT), _dequantize
    ),
}


def predict_tensor_op(
    spec: ChipSpec, *, op: str, m: int, k: int, n: int, tensors_in: str, protocol: Protocol = Protocol.GRAPH_CHAIN
) -> Prediction:
    """Time of one item of the batch: the batch's time divided by its size. Raises BadProblem."""
    _check(op, m, k, n, tensors_in)
    batch = max(1, int(FILLED_FRAC[tensors_in] * spec.sram.capacity_bytes) // counted_bytes(op, m, k, n))
    ways = _alternatives(spec, op, batch, m, k, n, tensors_in)
    best = min((_timed(spec, calls, memory, protocol) for calls, memory in ways), key=lambda p: p.seconds)
    parts = {name: seconds / batch for name, seconds in best.parts.items()}
    return replace(best, seconds=best.seconds / batch, parts=parts, how=f"batch of {batch}, {best.how}")


def counted_bytes(op: str, m: int, k: int, n: int) -> int:
    """Bytes of the operands and the result of one item."""
    return sum(n_elements * dtype.itemsize for n_elements, dtype in (*OPS[op].given(m, k, n), OPS[op].made(m, k, n)))


def _check(op: str, m: int, k: int, n: int, tensors_in: str) -> None:
    if op not in OPS:
        known = f"allowed: {', '.join(OPS)}{did_you_mean(op, OPS).rstrip('?')}"
        raise BadProblem("tensor op", argument="op", value=op, allowed=known)
    if tensors_in not in PLACES:
        raise BadProblem(op, argument="tensors_in", value=tensors_in, allowed=f"allowed: {', '.join(PLACES)}")
    for name, value in (("m", m), ("k", k), ("n", n)):
        if value < 1:
            raise BadProblem(op, argument=name, value=value, allowed="sizes are at least 1")


def _alternatives(
    spec: ChipSpec, op: str, batch: int, m: int, k: int, n: int, tensors_in: str
) -> list[tuple[list[Call], Memory]]:
    """Ways to launch the operator, each with SRAM as the run before left it."""
    described = OPS[op]
    memory = Memory(spec)
    given = tuple(memory.buffer(batch * count, dtype) for count, dtype in described.given(m, k, n))
    count, dtype = described.made(m, k, n)
    tensors = _Tensors(memory, batch, m, k, n, given, memory.buffer(batch * count, dtype))
    found = []
    for calls in described.calls(tensors):
        held = Memory(spec)
        for call in calls:
            touch_call(call, held)
        found.append((calls, held))
    return found


def _timed(spec: ChipSpec, calls: list[Call], memory: Memory, protocol: Protocol) -> Prediction:
    timings = [time_call(call, memory) for call in calls]
    return predicted(spec, protocol, timings, f"launches: {len(calls)}")


__all__ = ["OPS", "counted_bytes", "predict_tensor_op"]
