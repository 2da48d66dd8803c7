"""Operators that PyTorch itself takes apart: served by its decompositions, on the device.

Only decompositions whose parts have kernels here; those that PyTorch writes as the operator itself are not in the list.
The table is imported at the first call: most programs need none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.registry import aten

FUNCTIONAL = (
    "_prelu_kernel",
    "_prelu_kernel_backward", "batch_norm_backward", "binary_cross_entropy", "binary_cross_entropy_backward", "cauchy_",
    "channel_shuffle", "col2im", "geometric_", "glu_backward", "hardswish_backward",
    "hardtanh_backward", "im2col", "log_normal_", "logit", "multi_margin_loss",
    "nansum", "native_batch_norm_backward",
    "native_group_norm_backward", "normal.Tensor_Tensor", "normal.Tensor_float", "normal.float_Tensor",
    "reflection_pad2d", "reflection_pad2d_backward", "rrelu_with_noise_backward", "unfold_backward",
)  # fmt: skip
"""Overloads whose decomposition gives new tensors."""

INTO_OUT = (
    "aminmax.out", "elu_backward.grad_input", "hardshrink.out", "hardsigmoid_backward.grad_input", "heaviside.out",
    "huber_loss_backward.out", "logaddexp.out", "logaddexp2.out",
    "reflection_pad1d.out", "reflection_pad1d_backward.grad_input", "reflection_pad3d.out",
    "reflection_pad3d_backward.grad_input", "renorm.out", "replication_pad1d.out", "replication_pad2d.out",
    "replication_pad3d.out", "sinc.out", "smooth_l1_loss.out", "smooth_l1_loss_backward.grad_input", "softshrink.out",
    "special_entr.out", "special_log_ndtr.out", "special_xlog1py.out",
)  # fmt: skip
"""Overloads that write to tensors of the caller, from the decomposition of the functional form."""


@cache
def _table() -> dict[Any, Callable[..., Any]]:
    from torch._decomp import decomposition_table

    return decomposition_table


def _overload(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def decomposition(name: str) -> Callable[..., Any]:
    """PyTorch's own for an overload."""
    return _table()[_overload(name)]


def _functional(name: str) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return _table()[_overload(name)](*args, **kwargs)

    return run


def _into_out(name: str) -> Callable[..., Any]:
    functional = _overload(name.partition(".")[0])
    outputs = [a.name for a in _overload(name)._schema.arguments if a.is_out]

    def run(*args: Any, **kwargs: Any) -> Any:
        given = [kwargs.pop(output) for output in outputs]
        found = _table()[functional](*args, **kwargs)
        found = found if isinstance(found, tuple) else (found,)
        delivered = tuple(deliver(f, out) for f, out in zip(found, given, strict=True))
        return delivered if len(delivered) > 1 else delivered[0]

    return run


def _batch_norm(name: str) -> Callable[..., Any]:
    """The decomposition with the operator's own statistics: in the parameters' dtype, and empty where no batch was
    measured (the decomposition leaves the running ones in their place)."""
    decomposed = _functional(name)

    def run(x: torch.Tensor, weight: Any, bias: Any, *rest: Any) -> Any:
        """`rest`: the running statistics, where the overload has them, whether training, momentum, eps."""
        training = rest[-3]
        found = decomposed(x, weight, bias, *rest)
        kept = x.dtype if weight is None else weight.dtype
        saved = tuple(s.to(kept) for s in found[1:3]) if training else (x.new_empty(0), x.new_empty(0))
        return found[0], *saved

    return run


def _batch_norm_with_update(x: torch.Tensor, weight: Any, *rest: Any) -> Any:
    out, mean, rstd, reserve = _functional("_batch_norm_with_update")(x, weight, *rest)
    kept = x.dtype if weight is None else weight.dtype
    return out, mean.to(kept), rstd.to(kept), reserve


aten("_batch_norm_with_update")(_batch_norm_with_update)
for _name in ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit.no_stats"):
    aten(_name)(_batch_norm(_name))
for _name in FUNCTIONAL:
    aten(_name)(_functional(_name))
for _name in INTO_OUT:
    aten(_name)(_into_out(_name))
