"""Training with low-precision products: weights stay as they are, each of a linear layer's three products (forward, and
the gradients of input and weight) quantises both operands along the depth it sums over.

FP8 takes a scale a row, MX8S one exponent for 16 x 16, so that a transposed operand has the codes it had (HC26 says
that MX8S is meant for training).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.operands import product, quantise
from mtia.quantization.schemes import Scheme, scheme_named

TRAINED = ("fp8", "mx8", "mx8s", "int8")
_DEPTH = 16  # depths are padded to it


def low_precision_product(a_MK: torch.Tensor, b_NK: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """a @ b.T [M, N] in float32, both operands quantised row by row (or block by block) along K."""
    short = -a_MK.shape[1] % _DEPTH
    a, b = (F.pad(t, (0, short)).contiguous() for t in (a_MK, b_NK))
    block = scheme.weight_block
    (qa, sa), (qb, sb) = (quantise(t, scheme.weight, block) for t in (a, b))
    return product(qa, sa, qb, sb, None, scheme, torch.float32)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, scheme: Scheme) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.scheme = scheme
        return low_precision_product(x, weight, scheme).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        grad_x = low_precision_product(grad, weight.t(), ctx.scheme).to(x.dtype)
        grad_weight = low_precision_product(grad.t(), x.t(), ctx.scheme).to(weight.dtype)
        return grad_x, grad_weight, None


class TrainedLinear(nn.Module):
    """A linear layer over the very parameters of another, with low-precision products. `is_transposed`: the weight is
    [in, out] (transformers' Conv1D of GPT-2)."""

    def __init__(self, source: nn.Module, scheme: Scheme, *, is_transposed: bool) -> None:
        super().__init__()
        self.weight, self.bias = source.weight, source.bias
        self.scheme, self.is_transposed = scheme, is_transposed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.t() if self.is_transposed else self.weight  # type: ignore[operator]
        out = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, self.scheme)
        out = out.reshape(*x.shape[:-1], out.shape[-1])  # type: ignore[union-attr]
        return out if self.bias is None else out + self.bias


def train_in(model: nn.Module, name: str, *, leave: tuple[str, ...] = ("lm_head",)) -> nn.Module:
    """The model with its linear layers' products in `name` (fp8, mx8, mx8s, int8), in place; parameters are the same
    objects, so an optimizer made before still holds them. Layers whose name ends in one of `leave` stay.

    Raises BadProblem for a format that is not trained in.
    """
    if name.partition(":")[0] not in TRAINED:
        raise BadProblem("training", argument="format", value=name, allowed=f"known: {', '.join(TRAINED)}")
    scheme = scheme_named(name)
    for path, module in list(model.named_modules()):
        is_transposed = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
        if (is_transposed or type(module) is nn.Linear) and not path.endswith(leave):
            parent, _, own = path.rpartition(".")
            setattr(model.get_submodule(parent), own, TrainedLinear(module, scheme, is_transposed=is_transposed))
    return model


__all__ = ["TRAINED", "TrainedLinear", "low_precision_product", "train_in"]
