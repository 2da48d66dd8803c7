"""Overloads made of other operators or of tables elsewhere: functional and in-place forms PyTorch does not derive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mtia.kernels.copy import cast, contiguous, copy_strided
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.indexing import _atomic_target, _scatter
from mtia.kernels.iteration import broadcast_shape
from mtia.kernels.matmul import multiply
from mtia.kernels.pointwise import prepare_out  # noqa: F401  (fills the table that `_derive` reads)
from mtia.kernels.reduce import amax_out, amin_out
from mtia.kernels.registry import KERNELS, aten
from mtia.kernels.statistics import scattered_product
from mtia.kernels.variance import std, var

Function = Callable[..., Any]


def _derive(name: str, out_overload: str, *, dtype: Callable[..., torch.dtype] | None = None) -> None:
    """Functional and in-place forms of an element-wise operator from its `out` overload."""
    run = KERNELS[out_overload]
    packet, dot, overload = name.partition(".")

    def functional(x: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        first = x if isinstance(x, torch.Tensor) else args[0]
        kind = dtype(x, *args) if dtype is not None else first.dtype
        return run(x, *args, out=torch.empty((0,), dtype=kind, device=first.device), **kwargs)

    def in_place(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return run(x, *args, out=x, **kwargs)

    aten(packet + dot + overload)(functional)
    if hasattr(torch.ops.aten, packet + "_"):
        aten(packet + "_" + dot + overload)(in_place)


_derive("hardswish", "hardswish.out")
_derive("hardtanh", "hardtanh.out")
aten("floor_divide")(
    lambda x, other: KERNELS["floor_divide.out"](
        x,
        other,
        out=torch.empty(
            (0,), dtype=torch.result_type(x, other), device=other.device if x.device.type == "cpu" else x.device
        ),
    )
)
aten("floor_divide_.Tensor")(lambda x, other: KERNELS["floor_divide.out"](x, other, out=x))
aten("remainder.Scalar_Tensor")(
    lambda x, other: KERNELS["remainder.Tensor_out"](
        x, other, out=torch.empty((0,), dtype=torch.result_type(x, other), device=other.device)
    )
)
aten("rsub.Tensor")(lambda x, other, *, alpha=1: torch.sub(other, x, alpha=alpha))


def _shift(function: Function) -> tuple[Function, Function]:
    def functional(x: torch.Tensor, other: Any) -> torch.Tensor:
        return function(x, other)

    def in_place(x: torch.Tensor, other: Any) -> torch.Tensor:
        return copy_strided(x, function(x, other))

    return functional, in_place


for _side, _function in (("lshift", torch.bitwise_left_shift), ("rshift", torch.bitwise_right_shift)):
    _functional, _in_place = _shift(_function)
    aten(f"__{_side}__.Scalar", f"__{_side}__.Tensor")(_functional)
    aten(f"__i{_side}__.Scalar", f"__i{_side}__.Tensor")(_in_place)


@aten("equal")
def equal(x: torch.Tensor, other: torch.Tensor) -> bool:
    return x.shape == other.shape and bool((x == other).all().item())


def _deliver(found: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return copy_strided(out.resize_(found.shape), found)


aten("max.unary_out")(lambda x, *, out: amax_out(x, None, out=out))
aten("min.unary_out")(lambda x, *, out: amin_out(x, None, out=out))
aten("var.correction_out")(
    lambda x, dim=None, *, correction=None, keepdim=False, out: _deliver(
        var(x, dim, correction=correction, keepdim=keepdim), out
    )
)
aten("std.correction_out")(
    lambda x, dim=None, *, correction=None, keepdim=False, out: _deliver(
        std(x, dim, correction=correction, keepdim=keepdim), out
    )
)
aten("masked_select.out")(lambda x, mask, *, out: _deliver(torch.masked_select(x, mask), out))
aten("histc.out")(lambda x, bins=100, min=0, max=0, *, out: _deliver(torch.histc(x, bins, min, max), out))
aten("take.out")(lambda x, index, *, out: _deliver(torch.take(x, index), out))
aten("bernoulli.out")(lambda x, *, generator=None, out: _deliver(torch.bernoulli(x, generator=generator), out))
aten("isin.Scalar_Tensor_out")(
    lambda element, tests, *, assume_unique=False, invert=False, out: _deliver(
        (tests != element).all() if invert else (tests == element).any(), out
    )
)
aten("trace")(lambda x: x.diagonal().sum())


# --- products with another result type --------------------------------------------------------------------------------


def _product(
    x: torch.Tensor, y: torch.Tensor, out: torch.Tensor, c: torch.Tensor | None = None, alpha: Any = 1, beta: Any = 1
) -> torch.Tensor:
    if x.dim() == 2:
        multiply(
            x.unsqueeze(0),
            y.unsqueeze(0),
            out.unsqueeze(0),
            None if c is None else c.expand(out.shape)[None],
            alpha,
            beta,
        )
    else:
        multiply(x, y, out, c, alpha, beta)
    return out


def _new(x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty((*x.shape[:-1], y.shape[-1]), dtype=dtype, device=x.device)


aten("mm.dtype", "bmm.dtype")(lambda x, y, dtype: _product(x, y, _new(x, y, dtype)))
aten("mm.dtype_out", "bmm.dtype_out")(lambda x, y, dtype, *, out: _product(x, y, out))
aten("addmm.dtype", "baddbmm.dtype")(
    lambda c, x, y, dtype, *, beta=1, alpha=1: _product(x, y, _new(x, y, dtype), c, alpha, beta)
)
aten("addmm.dtype_out", "baddbmm.dtype_out")(
    lambda c, x, y, dtype, *, beta=1, alpha=1, out: _product(x, y, out, c, alpha, beta)
)
aten("addbmm")(
    lambda c, x, y, *, beta=1, alpha=1: KERNELS["addbmm.out"](
        c, x, y, beta=beta, alpha=alpha, out=torch.empty((x.shape[1], y.shape[2]), dtype=x.dtype, device=x.device)
    )
)
aten("addbmm_")(lambda c, x, y, *, beta=1, alpha=1: copy_strided(c, torch.addbmm(c, x, y, beta=beta, alpha=alpha)))


# --- activations and losses -------------------------------------------------------------------------------------------

LOG_SIGMOID = define(Operation("log_sigmoid", ("x",), "tl.where(x < 0, x, 0.0) - libdevice.log1p(tl.exp(-tl.abs(x)))"))
LOG_SIGMOID_BACKWARD = define(Operation("log_sigmoid_backward", ("g", "x"), "g / (1.0 + tl.exp(x))"))
GLU = define(Operation("glu", ("x", "gate"), "x / (1.0 + tl.exp(-gate))"))
HUBER = define(
    Operation(
        "huber",
        ("x", "target"),
        "tl.where(tl.abs(x - target) < delta, 0.5 * (x - target) * (x - target), "
        "delta * (tl.abs(x - target) - 0.5 * delta))",
        ("delta",),
    )
)


def _like(operation: Operation, *inputs: Any, scalars: tuple[Any, ...] = ()) -> torch.Tensor:
    out = torch.empty(broadcast_shape(*(i.shape for i in inputs)), dtype=inputs[0].dtype, device=inputs[0].device)
    launch(operation, out, inputs, scalars, compute=compute_dtype(out.dtype))
    return out


@aten("log_sigmoid_forward")
def log_sigmoid_forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _like(LOG_SIGMOID, x), torch.empty((0,), dtype=x.dtype, device=x.device)


aten("log_sigmoid_backward")(lambda g, x, buffer: _like(LOG_SIGMOID_BACKWARD, g, x))
aten("glu.out")(lambda x, dim=-1, *, out: _deliver(_like(GLU, *x.chunk(2, dim)), out))


def _reduced(losses: torch.Tensor, reduction: int) -> torch.Tensor:
    return (
        (losses, losses.mean(), losses.sum())[reduction]
        if reduction == 0
        else (losses.mean() if reduction == 1 else losses.sum())
    )


aten("huber_loss")(
    lambda x, target, reduction=1, delta=1.0: _reduced(_like(HUBER, x, target, scalars=(delta,)), reduction)
)


_both_bounds = KERNELS["clamp.Tensor_out"]


def _clamp_tensor_out(x: torch.Tensor, min: Any = None, max: Any = None, *, out: torch.Tensor) -> torch.Tensor:
    """Either bound may be missing."""
    if max is None:
        return KERNELS["clamp_min.Tensor_out"](x, min, out=out)
    return KERNELS["clamp_max.Tensor_out"](x, max, out=out) if min is None else _both_bounds(x, min, max, out=out)


KERNELS["clamp.Tensor_out"] = _clamp_tensor_out


@aten("logit_backward.grad_input")
def logit_backward_out(
    grad: torch.Tensor, x: torch.Tensor, eps: float | None = None, *, grad_input: torch.Tensor
) -> torch.Tensor:
    """Outside [eps, 1 - eps] zero; without eps, NaN outside [0, 1]."""
    low, outside = (0.0, torch.nan) if eps is None or eps < 0 else (eps, 0.0)
    inside = (x >= low) & (x <= 1.0 - low)
    return _deliver(torch.where(inside, grad / (x * (1.0 - x)), torch.full_like(x, outside)), grad_input)


# --- scatter with a fold ----------------------------------------------------------------------------------------------

_FOLDS = {"sum": "add", "amax": "amax", "amin": "amin"}
_LEAST = {"amax": float("-inf"), "amin": float("inf")}


@aten("scatter_reduce.two_out")
def scatter_reduce_out(
    x: torch.Tensor,
    dim: int,
    index: torch.Tensor,
    src: torch.Tensor,
    reduce: str,
    *,
    include_self: bool = True,
    out: torch.Tensor,
) -> torch.Tensor:
    """sum, mean, amax and amin by atomics; products in turn."""
    if reduce == "prod":
        first = x if include_self else x.scatter(dim, index, 1)
        return copy_strided(out.resize_(x.shape), scattered_product(first, dim, index, src))
    start = cast(x, _atomic_target(x[:0] if x.dim() else x, "add").dtype).clone()
    if not include_self:
        neutral = _LEAST.get(reduce, 0) if start.dtype.is_floating_point else _integer_least(reduce, start.dtype)
        start = start.scatter(dim, index, neutral)
    folded = _scatter(start, dim, index, cast(src, start.dtype), start, _FOLDS.get(reduce, "add"))
    if reduce == "mean":
        ones = torch.ones_like(src, dtype=start.dtype)
        base = torch.ones_like(start) if include_self else torch.zeros_like(start)
        counts = base.scatter_add(dim, index, ones).clamp(min=1)
        folded = folded / counts if start.dtype.is_floating_point else torch.div(folded, counts, rounding_mode="floor")
    return copy_strided(out.resize_(x.shape), folded)


def _integer_least(reduce: str, dtype: torch.dtype) -> int:
    info = torch.iinfo(dtype)
    return {"amax": info.min, "amin": info.max}.get(reduce, 0)


@aten("searchsorted.Tensor", "bucketize.Tensor")
def searchsorted(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:
    """searchsorted(sequence, values): how many of the sequence come before each value."""
    return _positions(first, second, out_int32, right or side == "right", sorter)


def _positions(
    sequence: torch.Tensor, values: torch.Tensor, out_int32: bool, right: bool, sorter: torch.Tensor | None
) -> torch.Tensor:
    ordered = sequence if sorter is None else sequence.gather(-1, sorter)
    row = ordered.unsqueeze(-2) if ordered.dim() > 1 else ordered
    before = (row <= values.unsqueeze(-1)) if right else (row < values.unsqueeze(-1))
    return before.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


KERNELS["bucketize.Tensor"] = lambda values, edges, *, out_int32=False, right=False: _positions(
    edges, values, out_int32, right, None
)


@aten("repeat_interleave.Tensor")
def repeat_interleave(repeats: torch.Tensor, *, output_size: int | None = None) -> torch.Tensor:
    ends = contiguous(repeats).cumsum(0)
    n = int(ends[-1].item()) if output_size is None and ends.numel() else (output_size or 0)
    return _positions(ends, torch.arange(n, device=repeats.device), False, True, None).to(repeats.dtype)
