"""A linear layer whose weights are held in a scheme's format."""

# Buffers are typed as Tensor | Module by torch.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.operands import product, product_of_wide, quantise, quantise_static
from mtia.quantization.schemes import Scheme, scheme_named

SCHEME_KEY = "scheme"


@torch.library.custom_op("mtia::quantised_linear", mutates_args=())
def quantised_linear(
    x: torch.Tensor,
    codes: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    x_scale: torch.Tensor | None,
    scheme: str,
    depth: int,
) -> torch.Tensor:
    """x [M, K] by a layer's codes; `depth` is what K is padded to, `x_scale` the static scale of the activations."""
    held = scheme_named(scheme)
    wide = F.pad(x, (0, depth - x.shape[1])) if depth > x.shape[1] else x
    if held.is_weight_only:
        return product_of_wide(wide.contiguous(), codes, scale, bias, held, x.dtype)
    if x_scale is not None:
        q, q_scale = quantise_static(wide, x_scale), x_scale.reshape(1)
    else:
        q, q_scale = quantise(wide.contiguous(), held.activation, held.activation_block)
    return product(q, q_scale, codes, scale, bias, held, x.dtype)


@quantised_linear.register_fake
def _(x: torch.Tensor, codes: torch.Tensor, scale: Any, bias: Any, x_scale: Any, scheme: str, depth: int):
    return x.new_empty((x.shape[0], codes.shape[0]))


class QuantisedLinear(nn.Module):
    """y = x @ w.T + bias with w in `scheme`'s format; the state dict holds `codes`, `scale`, `bias` and the scheme's
    name, which must be that of the layer it is loaded into."""

    codes: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.depth = -(-linear.in_features // scheme.depth_multiple) * scheme.depth_multiple
        weight = F.pad(linear.weight.detach(), (0, self.depth - linear.in_features)).contiguous()
        codes, scale = quantise(weight, scheme.weight, scheme.weight_block)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.register_buffer("x_scale", torch.zeros((), device=codes.device) if scheme.static else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, self.in_features).contiguous()
        out = quantised_linear(rows, self.codes, self.scale, self.bias, self.x_scale, self.scheme.name, self.depth)
        return out.reshape(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantisedLinear:
        """Scales stay float32 where a model is cast."""
        held = {name: t for name in ("scale", "x_scale") if (t := getattr(self, name)) is not None}
        super()._apply(fn, recurse)
        for name, before in held.items():
            after = getattr(self, name)
            if after.dtype != before.dtype:
                setattr(self, name, before.to(after.device))
        return self

    @property
    def weight_bytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def get_extra_state(self) -> dict[str, str]:
        return {SCHEME_KEY: self.scheme.name}

    def set_extra_state(self, state: dict[str, str]) -> None:
        if state[SCHEME_KEY] != self.scheme.name:
            raise BadProblem(
                "loading a quantised layer", argument="scheme", value=state[SCHEME_KEY],
                allowed=f"the layer's own, {self.scheme.name}; quantize the model with the plan it was saved with",
            )  # fmt: skip

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme.name}"


__all__ = ["QuantisedLinear", "quantised_linear"]
