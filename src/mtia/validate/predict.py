"""From a case to a prediction: which entry point of `mtia.workloads` answers it, and with which arguments.

Entry points are imported when first asked for; one that does not exist is said so, row by row, and is no error of the
row. What a prediction must not know (the chip's name, measured latencies) stops here; a kernel's name goes on where it
says which kernels a library launches (`moe.build_of`, `collective.method_of`).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from traceback import extract_tb
from typing import Any

from mtia.chips.spec import ChipSpec
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
    RelativeCollectiveCase,
    ServingCase,
    TensorOpCase,
)
from mtia.validate.work import ELEMENT_BYTES
from mtia.workloads.prediction import Prediction


class Status(StrEnum):
    PREDICTED = "predicted"
    FAILED = "failed"  # the predictor raised
    NO_PREDICTOR = "no predictor yet"
    LATER = "serving is a later issue"  # recognised, not predicted yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of one case. `seconds` is in the unit of `measured_s`; `cpu_s`: processor time that it took."""

    status: Status
    seconds: float = 0.0
    bound: str = ""
    parts: Mapping[str, float] | None = None
    how: str = ""
    cpu_s: float = 0.0
    error: str = ""
    warning: str = ""  # what the simulator warned of on the way
    fast: bool = False  # the analytical fast path answered


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry point of `mtia.workloads`: `module`, `function`, and its keyword arguments for a case.

    `bytes_of`: where the measurement is a rate, the bytes that it counts.
    """

    module: str
    function: str
    arguments: Callable[[Any, ChipSpec], dict[str, Any]]
    bytes_of: Callable[[Any], float] | None = None

    def __str__(self) -> str:
        return f"mtia.workloads.{self.module}.{self.function}"


def _gemm(case: GemmCase, spec: ChipSpec) -> dict[str, Any]:
    copies = case.weight_copies
    if copies is not None and case.fewest_copies:
        copies = _fewest(case, spec, copies)
    return {"m": case.m, "n": case.n, "k": case.k, "dtype": case.dtype, "protocol": case.protocol,
            "weight_copies": copies, "prefetched_bytes": _prefetched(case, spec)}  # fmt: skip


def _prefetched(case: GemmCase, spec: ChipSpec) -> float:
    """Bytes of another layer's matrix fetched meanwhile: all, where SRAM holds it beside what this one and the layers
    in front of it work on (x twice, before and after they are joined, and the result), else none."""
    element = ELEMENT_BYTES[case.dtype]
    matrix = case.n * case.k * element
    beside = case.m * (2 * case.k + case.n) * element
    return matrix if case.counts_prefetch and matrix + beside <= spec.sram.capacity_bytes else 0.0


def _fewest(case: GemmCase, spec: ChipSpec, most: int) -> int:
    """As many copies of the weights as cover the SRAM, at most `most`."""
    weight_bytes = max(1.0, case.n * case.k * ELEMENT_BYTES[case.dtype])
    return min(most, -int(-spec.sram.capacity_bytes // weight_bytes))


def _attention(case: AttentionCase, spec: ChipSpec) -> dict[str, Any]:
    return {"batch": case.batch, "seq": case.seq, "heads": case.heads, "kv_heads": case.kv_heads,
            "head_dim": case.head_dim, "window": case.window, "attn_dtype": case.dtype, "kv_dtype": case.kv_dtype,
            "protocol": case.protocol}  # fmt: skip


def _moe(case: MoeCase, spec: ChipSpec) -> dict[str, Any]:
    return {"tokens": case.tokens, "hidden": case.hidden, "inter": case.inter, "topk": case.topk,
            "experts": case.experts, "moe_tp": case.moe_tp, "moe_ep": case.moe_ep, "gated": case.gated,
            "dtype": case.dtype, "distribution": case.distribution, "protocol": case.protocol,
            "kernel": case.kernel, "version": case.version}  # fmt: skip


def _op(case: OpCase, spec: ChipSpec) -> dict[str, Any]:
    """The operator that computes the layer: which norm, and whether the activation multiplies a second half."""
    op = {"rms": "rmsnorm", "layer": "layernorm"}.get(case.norm, case.op)
    op = ("silu_mul" if case.gated else "gelu") if op == "mlp_act" else op
    return {"op": op, "m": case.m, "n": case.n, "dtype": case.dtype, "protocol": case.protocol}


def _collective(case: CollectiveCase, spec: ChipSpec) -> dict[str, Any]:
    return {"op": case.op, "n_bytes": case.n_bytes, "ranks": case.ranks, "dtype": case.dtype, "library": case.library,
            "protocol": case.protocol, "ranks_per_node": case.ranks_per_node}  # fmt: skip


def _fc(case: FcCase, spec: ChipSpec) -> dict[str, Any]:
    return {"m": case.m, "k": case.k, "n": case.n, "dtype": case.dtype, "weights_in": case.weights_in}


def _tbe(case: EmbeddingCase, spec: ChipSpec) -> dict[str, Any]:
    return {"batch": case.batch, "pooling": case.pooling, "rows": case.rows, "dim": case.dim, "row_dtype": case.dtype}


def _tbe_bytes(case: EmbeddingCase) -> float:
    return _bytes_by("embedding", case.dtype, case.batch, case.pooling, case.dim)


def _tensor_op_bytes(case: TensorOpCase) -> float:
    return _bytes_by("mtia_ops", case.op, case.m, case.k, case.n)


def _bytes_by(module: str, *shape: object) -> float:
    """What the source of a rate counts, by the module that predicts it."""
    count: Any = getattr(import_module(f"mtia.workloads.{module}"), "counted_bytes")  # noqa: B009 (imported late)
    return float(count(*shape))


def _tensor_op(case: TensorOpCase, spec: ChipSpec) -> dict[str, Any]:
    return {"op": case.op, "m": case.m, "k": case.k, "n": case.n, "tensors_in": case.tensors_in}


def _add(case: AddCase, spec: ChipSpec) -> dict[str, Any]:
    return {"elements": case.elements, "dtype": case.dtype, "protocol": case.protocol}


ENTRIES: tuple[tuple[Callable[[Case], bool], Entry], ...] = (
    (lambda c: isinstance(c, GemmCase), Entry("gemm", "predict_gemm", _gemm)),
    (lambda c: isinstance(c, AttentionCase) and c.decode, Entry("attention", "predict_decode", _attention)),
    (lambda c: isinstance(c, AttentionCase), Entry("attention", "predict_prefill", _attention)),
    (lambda c: isinstance(c, MoeCase), Entry("moe", "predict_moe", _moe)),
    (lambda c: isinstance(c, OpCase), Entry("pointwise", "predict_op", _op)),
    (lambda c: isinstance(c, CollectiveCase), Entry("collective", "predict_collective", _collective)),
    (lambda c: isinstance(c, FcCase), Entry("fc", "predict_fc", _fc)),
    (lambda c: isinstance(c, EmbeddingCase), Entry("embedding", "predict_tbe", _tbe, _tbe_bytes)),
    (lambda c: isinstance(c, TensorOpCase), Entry("mtia_ops", "predict_tensor_op", _tensor_op, _tensor_op_bytes)),
    (lambda c: isinstance(c, AddCase), Entry("pointwise", "predict_add", _add)),
)


def entry_of(case: Case) -> Entry:
    return next(entry for fits, entry in ENTRIES if fits(case))


@cache
def _function(module: str, name: str) -> Callable[..., Prediction] | None:
    """The entry point, or None where the module or the function does not exist (yet)."""
    full = f"mtia.workloads.{module}"
    return getattr(import_module(full), name, None) if find_spec(full) else None


@cache
def _has_fast_path(function: Callable[..., Prediction]) -> bool:
    return "fast" in signature(function).parameters


def answer(case: Case, specs: Mapping[str, ChipSpec], *, fast: bool = False) -> Answer:
    """Predict one case. An exception of the predictor is the answer, with its place; nothing is dropped."""
    if isinstance(case, ServingCase):
        return Answer(status=Status.LATER)
    entry = entry_of(case)
    function = _function(entry.module, entry.function)
    if function is None:
        return Answer(status=Status.NO_PREDICTOR, error=str(entry))
    predictor = _Predictor(function, entry, specs, fast and _has_fast_path(function))
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = predictor.answer(case)
    said = "; ".join(dict.fromkeys(str(w.message) for w in caught))
    return replace(made, cpu_s=time.process_time() - start, warning=said, fast=predictor.fast)


@dataclass(frozen=True, slots=True)
class _Predictor:
    """An entry point with the chips it is asked about; `fast`: on its analytical path."""

    function: Callable[..., Prediction]
    entry: Entry
    specs: Mapping[str, ChipSpec]
    fast: bool

    def answer(self, case: Case) -> Answer:
        try:
            found = self.predict(case)
            seconds = found.seconds / self.unit(case)
            if not seconds > 0:
                raise ArithmeticError(f"predicted {found.seconds!r} s, a latency is above zero")
        except Exception as error:
            return Answer(status=Status.FAILED, error=_told(error))
        return Answer(
            status=Status.PREDICTED, seconds=seconds, bound=found.bound, parts=dict(found.parts), how=found.how
        )

    def predict(self, case: Case) -> Prediction:
        spec = self.specs[case.system]
        options = {"fast": True} if self.fast else {}
        return self.function(spec, **self.entry.arguments(case, spec), **options)

    def unit(self, case: Case) -> float:
        """What predicted seconds are divided by: 1, the bytes of a rate, or the run that a ratio is relative to."""
        if self.entry.bytes_of:
            return self.entry.bytes_of(case)
        return self.reference_s(case) if isinstance(case, RelativeCollectiveCase) else 1.0

    def reference_s(self, case: RelativeCollectiveCase) -> float:
        """Predicted once for all sizes of a collective over as many ranks."""
        key = (case.op, case.ranks, case.reference_bytes, self.specs[case.reference_system].fingerprint, self.fast)
        if key not in _REFERENCES:
            reference = replace(case, system=case.reference_system, n_bytes=case.reference_bytes)
            _REFERENCES[key] = self.predict(reference).seconds
        return _REFERENCES[key]


_REFERENCES: dict[tuple[str, int, int, str, bool], float] = {}


def _told(error: Exception) -> str:
    """ "BadProblem: ... (gemm.py:120)"."""
    frames = extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


__all__ = ["Answer", "Status", "answer", "entry_of"]
