"""A fully connected layer out[m, n] = x[m, k] @ w[k, n] as Meta's kernels map it (facts 2.5, 3.3).

`weights_in="sram"`: tensors lie in SRAM, as in a chain of layers that fits. Weights are stationary in local memory and
rows stream past them (`kernels/weight_stationary.py`). `weights_in="dram"`: nothing is resident; the layer takes the
faster of that kernel and the output-stationary `kernels/matmul.py`, which fetches weights while it multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton.language as tl

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.kernels.iteration import ceil_div
from mtia.kernels.matmul import mtia_matmul
from mtia.kernels.tiling import Tiling, legal_tilings
from mtia.kernels.weight_stationary import choose_panel, mtia_fc_weight_stationary
from mtia.workloads.launches import Buffer, Call, Memory, time_call
from mtia.workloads.prediction import Prediction, Protocol, predicted

PLACES = ("sram", "dram")
_DTYPES = {
    "int8": torch.int8,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class _Layer:
    """The problem and its tensors; sums are int32 for int8, else float32."""

    m: int
    k: int
    n: int
    x: Buffer
    w: Buffer
    sums: Buffer
    out: Buffer


def predict_fc(
    spec: ChipSpec,
    *,
    m: int,
    k: int,
    n: int,
    dtype: str,
    weights_in: str = "sram",
    protocol: Protocol = Protocol.GRAPH_CHAIN,
) -> Prediction:
    """Time of one layer of a chain: a queued job replaces the one before it.

    Raises BadProblem (a size below 1, an unknown place) and UnsupportedDtype.
    """
    _check(spec, m, k, n, dtype, weights_in)
    element = _DTYPES[dtype]
    found = [_stationary(spec, m, k, n, element, weights_in, protocol)]
    if weights_in == "dram":
        tiling = legal_tilings(1, m, n, k, element, spec)[0]  # of least estimated time
        found.append(_streamed(spec, m, k, n, element, tiling, protocol))
    return min(found, key=lambda p: p.seconds)


def _check(spec: ChipSpec, m: int, k: int, n: int, dtype: str, weights_in: str) -> None:
    for name, value in (("m", m), ("k", k), ("n", n)):
        if value < 1:
            raise BadProblem("fc", argument=name, value=value, allowed="sizes are at least 1")
    if weights_in not in PLACES:
        raise BadProblem("fc", argument="weights_in", value=weights_in, allowed=f"allowed: {', '.join(PLACES)}")
    if dtype not in _DTYPES:
        raise UnsupportedDtype("fc", chip=spec.name, dtype=dtype, supported=tuple(_DTYPES))


def _layer(memory: Memory, m: int, k: int, n: int, dtype: torch.dtype, weights_in: str) -> _Layer:
    sums = torch.float32 if dtype.is_floating_point else torch.int32
    x, w = memory.buffer(m * k, dtype), memory.buffer(k * n, dtype)
    held = memory.buffer(m * n, sums)
    if weights_in == "sram":
        for buffer in (x, w, held):
            memory.warm(buffer)
    return _Layer(m, k, n, x, w, held, Buffer(held.address, dtype, m * n * dtype.itemsize))


def _stationary(
    spec: ChipSpec, m: int, k: int, n: int, dtype: torch.dtype, weights_in: str, protocol: Protocol
) -> Prediction:
    memory = Memory(spec)
    layer = _layer(memory, m, k, n, dtype, weights_in)
    p = choose_panel(m, n, k, dtype.itemsize, spec)
    call = Call(
        kernel=mtia_fc_weight_stationary,
        grid=(ceil_div(k, p.k) * ceil_div(n, p.n),),
        arguments=(layer.x, layer.w, layer.sums, m, n, k, k, 1, 1, k, n, 1),
        constants=dict(BM=p.m, BN=p.n, BK=p.k, ACC=tl.float32 if dtype.is_floating_point else tl.int32),
    )
    how = f"stationary weights, panels of {p.k} x {p.n}, {p.m} rows a step"
    return predicted(spec, protocol, [time_call(call, memory)], how)


def _streamed(spec: ChipSpec, m: int, k: int, n: int, dtype: torch.dtype, t: Tiling, protocol: Protocol) -> Prediction:
    """Everything from DRAM, output stationary."""
    memory = Memory(spec)
    layer = _layer(memory, m, k, n, dtype, "dram")
    timing = time_call(streamed_call(spec, layer.x, layer.w, layer.out, m, k, n, t), memory)
    return predicted(spec, protocol, [timing], f"output stationary, tiles of {t.m} x {t.n}, {t.k} deep")


def streamed_call(spec: ChipSpec, x: Buffer, w: Buffer, out: Buffer, m: int, k: int, n: int, t: Tiling) -> Call:
    """out[m, n] = x[m, k] @ w[n, k]^T, output stationary; sums in int32 for int8, else float32."""
    floating = x.dtype.is_floating_point
    one = 1.0 if floating else 1
    return Call(
        kernel=mtia_matmul,
        grid=(ceil_div(m, t.m) * ceil_div(n, t.n), 1),
        arguments=(x, w, out, out, one, one, m, n, k, 0, k, 1, 0, 1, k, 0, 0, 0, 0, n, 1),
        constants=dict(
            BM=t.m,
            BN=t.n,
            BK=t.k,
            ACC=tl.float32 if floating else tl.int32,
            GROUP=spec.grid.cols,
            EVEN_K=k % t.k == 0,
            SCALED=False,
            HAS_C=False,
            INDEX=tl.int64 if max(m * k, k * n, m * n) > 2**31 - 1 else tl.int32,
        ),
        options=dict(num_stages=t.stages),
    )


__all__ = ["PLACES", "predict_fc", "streamed_call"]
