"""Least work of a case: the flops and bytes that any roofline would count. No chip, no tiling, no launch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mtia.validate.cases import (
    AddCase,
    AttentionCase,
    Case,
    CollectiveCase,
    EmbeddingCase,
    FcCase,
    GemmCase,
    MoeCase,
    OpCase,
    TensorOpCase,
)

ELEMENT_BYTES: dict[str, float] = {
    "float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "fp16": 2, "fp8": 1, "fp8_block": 1, "nvfp4": 0.5625,
    "w4a16_mxfp4": 0.53125, "w4a8_mxfp4_mxfp8": 0.53125, "w4a4_mxfp4": 0.53125, "int4_wo": 0.5,
}  # fmt: skip
MATH: dict[str, tuple[str, ...]] = {
    "float32": ("fp32", "tf32"), "float16": ("fp16", "bf16"), "bfloat16": ("bf16", "fp16"), "int8": ("int8",),
    "fp16": ("fp16", "bf16"), "fp8": ("fp8", "mx8", "bf16"), "fp8_block": ("fp8", "mx8", "bf16"),
    "nvfp4": ("fp4", "mx4", "fp8"), "w4a16_mxfp4": ("bf16", "fp16"), "w4a8_mxfp4_mxfp8": ("fp8", "mx8", "bf16"),
    "w4a4_mxfp4": ("fp4", "mx4", "fp8"), "int4_wo": ("bf16", "fp16"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """`flop` of the matrix engines in `math` (formats by preference); `n_bytes` over `link` or device memory."""

    flop: float
    n_bytes: float
    math: tuple[str, ...] = ("bf16", "fp16")
    over_link: bool = False
    from_sram: bool = False


def work_of(case: Case) -> Work | None:
    """None where a case has none that a roofline could use (serving)."""
    for kind, count in _COUNTS:
        if isinstance(case, kind):
            return count(case)
    return None


def _gemm(case: GemmCase) -> Work:
    """Operands in the format of the math (dynamic quantisation reads bfloat16 first), result of 2 bytes."""
    e = ELEMENT_BYTES[case.dtype]
    m, n, k = case.m, case.n, case.k
    out = 4 if case.dtype == "float32" else 2
    return Work(2.0 * m * n * k, e * m * k + e * n * k + out * m * n, MATH[case.dtype])


def _attention(case: AttentionCase) -> Work:
    """Causal prefill: each query sees the keys up to itself, at most `window`; decode: one query sees them all."""
    reach = min(case.seq, case.window) if case.window else case.seq
    pairs = float(reach) if case.decode else case.seq * reach - reach * (reach - 1) / 2
    queries = 1 if case.decode else case.seq
    kept = reach if case.decode else case.seq
    flop = 4.0 * case.batch * case.heads * case.head_dim * pairs
    cache = 2.0 * case.batch * case.kv_heads * kept * case.head_dim * ELEMENT_BYTES[case.kv_dtype]
    q_and_out = 2.0 * 2 * case.batch * queries * case.heads * case.head_dim
    return Work(flop, cache + q_and_out, MATH[case.dtype])


def _moe(case: MoeCase) -> Work:
    """Weights of the experts that tokens reach (evenly), activations in and out of both multiplies."""
    experts = max(1.0, case.experts / case.moe_ep)
    inter = case.inter / case.moe_tp
    pairs = case.tokens * case.topk / case.moe_ep
    reached = experts * (1 - (1 - 1 / experts) ** pairs)
    matrices = 3 if case.gated else 2
    flop = 2.0 * pairs * case.hidden * inter * matrices
    weights = reached * matrices * case.hidden * inter * ELEMENT_BYTES[case.dtype]
    moved = 2.0 * pairs * (2 * case.hidden + (matrices - 1) * inter + inter)
    return Work(flop, weights + moved, MATH[case.dtype])


def _op(case: OpCase) -> Work:
    """Read once, written once; an addition and a gated activation read twice."""
    reads = 2 if case.op == "add" or case.gated else 1
    return Work(0.0, (reads + 1.0) * case.m * case.n * ELEMENT_BYTES[case.dtype])


def _collective(case: CollectiveCase) -> Work:
    """Bytes that one rank must send."""
    share = (case.ranks - 1) / case.ranks
    factor = {"all_reduce": 2 * share, "send_recv": 1.0, "broadcast": 1.0}.get(case.op, share)
    return Work(0.0, factor * case.n_bytes, over_link=True)


def _fc(case: FcCase) -> Work:
    e = ELEMENT_BYTES[case.dtype]
    n_bytes = e * (case.m * case.k + case.k * case.n + case.m * case.n)
    return Work(2.0 * case.m * case.n * case.k, n_bytes, MATH[case.dtype], from_sram=case.weights_in == "sram")


def _per_byte(case: EmbeddingCase | TensorOpCase) -> Work:
    return Work(0.0, 1.0, from_sram=isinstance(case, TensorOpCase) and case.tensors_in == "sram")


def _add(case: AddCase) -> Work:
    return Work(0.0, 3.0 * case.elements * ELEMENT_BYTES[case.dtype])


_COUNTS: tuple[tuple[type[Case], Callable[[Any], Work]], ...] = (
    (GemmCase, _gemm), (AttentionCase, _attention), (MoeCase, _moe), (OpCase, _op), (CollectiveCase, _collective),
    (FcCase, _fc), (EmbeddingCase, _per_byte), (TensorOpCase, _per_byte), (AddCase, _add),
)  # fmt: skip

__all__ = ["ELEMENT_BYTES", "Work", "work_of"]
