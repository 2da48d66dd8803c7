"""Weight normalisation: w = v * g / |v|, a norm for each index of one dim; and its gradients.

Norms and sums are float32 where the weight is narrow; each result is rounded once.
"""

from __future__ import annotations

import torch

from mtia.kernels.dtypes import accumulate_dtype, compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.registry import aten

_SCALED = define(Operation("weight_norm", ("v", "g", "norm"), "v * (g / norm)", other="1.0"))
_PRODUCT = define(Operation("weight_norm_product", ("grad", "v"), "grad * v"))
_OF_DIRECTION = define(
    Operation(
        "weight_norm_grad_v", ("grad", "v", "g", "norm", "along"), "g / norm * (grad - v * (along / (norm * norm)))",
        other="1.0",
    )
)  # fmt: skip
_OF_LENGTH = define(Operation("weight_norm_grad_g", ("along", "norm"), "along / norm", other="1.0"))


def _other_dims(v: torch.Tensor, dim: int) -> tuple[int, ...]:
    return tuple(d for d in range(v.dim()) if d != dim % v.dim())


@aten("_weight_norm_interface")
def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight, and the norms its gradient needs (in g's dtype; float32 where that is bfloat16, as the CPU's)."""
    kept = torch.float32 if g.dtype == torch.bfloat16 else g.dtype
    norm = torch.linalg.vector_norm(v, 2, _other_dims(v, dim), keepdim=True, dtype=accumulate_dtype(v.dtype)).to(kept)
    out = torch.empty_like(v)
    launch(_SCALED, out, (v, g, norm), compute=compute_dtype(v.dtype))
    return out, norm


@aten("_weight_norm_interface_backward")
def weight_norm_backward(
    grad: torch.Tensor, v: torch.Tensor, g: torch.Tensor, norm: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of v and g. `along`: the share of the weight's gradient along v, times |v|."""
    compute = compute_dtype(v.dtype)
    products = torch.empty_like(v, dtype=compute)
    launch(_PRODUCT, products, (grad, v), compute=compute)
    along = products.sum(_other_dims(v, dim), keepdim=True)
    grad_v, grad_g = torch.empty_like(v), torch.empty_like(g)
    launch(_OF_DIRECTION, grad_v, (grad, v, g, norm, along), compute=compute)
    launch(_OF_LENGTH, grad_g, (along, norm), compute=compute)
    return grad_v, grad_g


__all__ = ["weight_norm", "weight_norm_backward"]
