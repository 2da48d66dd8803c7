"""Tensors to a scheme's codes and scales and their products, on the device by its kernels, on the host by definition.

The host's results are the definition's: the same codes (numerics/), products and sums in float64. Tests compare.
Codes are bytes (int8, or uint8 that hold E4M3 or pairs of E2M1), so that `module.to(dtype)` leaves them alone.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mtia.kernels.quantise import quantise_fp8_rows, quantise_rows
from mtia.kernels.quantise_mx import quantise_mx
from mtia.kernels.scaled_matmul import multiply_blocks, multiply_rows, multiply_unpacked
from mtia.numerics import blocks
from mtia.numerics.blocks import BlockFormat
from mtia.numerics.formats import FP4_E2M1, FP8_E4M3, decode, encode
from mtia.quantization.schemes import Scheme

_DEVICE = "mtia"
E4M3 = torch.float8_e4m3fn
LARGEST = FP8_E4M3.largest
SMALLEST_LARGEST = 1e-12
"""A row of zeros is scaled as if this were its largest magnitude."""


def quantise(x: torch.Tensor, fmt: str, block: BlockFormat | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a contiguous [rows, depth]: `block` for block formats, else a float32 scale a row."""
    if x.device.type == _DEVICE:
        if block is not None:
            codes, scale = quantise_mx(x, block)
        else:
            codes, scale = quantise_rows(x) if fmt == "int8" else quantise_fp8_rows(x)
        return (codes if fmt == "int8" else codes.view(torch.uint8)), scale
    return _quantise_on_host(x.float(), fmt, block)


def _quantise_on_host(x: torch.Tensor, fmt: str, block: BlockFormat | None) -> tuple[torch.Tensor, torch.Tensor]:
    if block is not None:
        rows = -x.shape[0] % block.rows
        held = blocks.quantise(F.pad(x, (0, 0, 0, rows)).numpy(), block)
        codes = held.codes[: x.shape[0]]
        packed = blocks.pack_pairs(codes) if block.element is FP4_E2M1 else codes
        scales = torch.from_numpy(held.scales)
        turned = scales if block.rows > 1 else scales.t().contiguous().t()  # as the device's kernel leaves them
        return torch.from_numpy(packed.copy()), turned
    scale = x.abs().amax(1, keepdim=True).clamp_min(SMALLEST_LARGEST) / (127.0 if fmt == "int8" else LARGEST)
    scaled = x * (1.0 / scale)
    if fmt == "int8":
        return (scaled + 0.5).floor().to(torch.int8), scale
    return torch.from_numpy(encode(scaled.numpy(), FP8_E4M3, saturate=True)), scale


def quantise_static(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """int8 of x by a scale known beforehand, halves up, saturated."""
    return (x.float() * (1.0 / scale) + 0.5).floor().clamp(-128, 127).to(torch.int8)


def numbers(codes: torch.Tensor, scale: torch.Tensor, fmt: str, block: BlockFormat | None) -> torch.Tensor:
    """float64 numbers that codes and scales on the host mean."""
    raw = codes.numpy()
    if block is None:
        wide = raw.astype(np.float64) if fmt == "int8" else decode(raw, FP8_E4M3).astype(np.float64)
        return torch.from_numpy(wide) * scale.double()
    elements = blocks.unpack_pairs(raw) if block.element is FP4_E2M1 else raw
    factors = blocks.scale_values(scale.numpy(), block)
    wide = factors.repeat(block.rows, axis=0)[: len(raw)].repeat(block.cols, axis=1)
    return torch.from_numpy(blocks.decode_elements(elements, block) * wide)


def product(
    x: torch.Tensor, x_scale: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None,
    scheme: Scheme, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """x @ w.T + bias of codes [M, K] and [N, K], in `dtype`."""
    x_block, w_block = scheme.activation_block, scheme.weight_block
    if x.device.type != _DEVICE:
        wide = numbers(x, x_scale, scheme.activation, x_block) @ numbers(w, w_scale, scheme.weight, w_block).T
        return _added(wide, bias).to(dtype)
    out = torch.empty((x.shape[0], w.shape[0]), dtype=dtype, device=x.device)
    if w_block is None or x_block is None:
        left, right = (x, w) if scheme.weight == "int8" else (x.view(E4M3), w.view(E4M3))
        multiply_rows(left, right, x_scale, w_scale, bias, out)
    else:
        left, right = _elements(x, x_block), _elements(w, w_block)
        multiply_blocks(left, right, x_scale, w_scale, bias, out, block=w_block.cols)
    return out


def _elements(codes: torch.Tensor, block: BlockFormat) -> torch.Tensor:
    return codes if block.element is FP4_E2M1 else codes.view(E4M3)


def product_of_wide(
    x: torch.Tensor, w: torch.Tensor, w_scale: torch.Tensor, bias: torch.Tensor | None, scheme: Scheme,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """x @ w.T + bias: activations in bfloat16, weights widened to it."""
    block = scheme.weight_block
    x = x.to(torch.bfloat16)
    if x.device.type != _DEVICE:
        return _added(x.double() @ numbers(w, w_scale, scheme.weight, block).T, bias).to(dtype)
    out = torch.empty((x.shape[0], w.shape[0]), dtype=dtype, device=x.device)
    form = scheme.weight if block is None else _FORMS[block.element.name]
    form = "e4m3" if form == "fp8" else form
    multiply_unpacked(x, w.view(torch.uint8), w_scale, bias, out, form=form, block=block.cols if block else 0)
    return out


_FORMS = {
    "fp4e2m1": "e2m1", "fp6e2m3": "e2m3", "fp6e3m2": "e3m2", "fp8e4m3": "e4m3", "mxint8": "mxint8",
}  # fmt: skip


def _added(wide: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return wide if bias is None else wide + bias.double()


__all__ = ["numbers", "product", "product_of_wide", "quantise", "quantise_static"]
