"""Row-wise dequantisation: an 8-bit tensor whose rows have a scale and a bias each."""

from __future__ import annotations

import torch

from mtia.kernels.elementwise import Operation, define, launch

DEQUANTIZE = define(Operation("dequantize_rows", ("x", "scale", "bias"), "x * scale + bias"))


def dequantize_rows(
    x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """x * scale + bias in float32, rounded to `dtype`: x int8 or uint8 [..., n], scale and bias float32 [..., 1]."""
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    launch(DEQUANTIZE, out, (x, scale, bias), compute=torch.float32)
    return out


__all__ = ["DEQUANTIZE", "dequantize_rows"]
