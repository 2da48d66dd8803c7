"""A quantised model on the host, fast: the very numbers that the device would multiply, summed by the host's float32.

`rounded` equals `numbers(*quantise(x))` element by element (tests/quantization/test_emulation.py), in torch's own
arithmetic instead of the bit-by-bit definition; weights are widened once. What differs from the device is the order of
float32 sums. Eight thousand tokens of a 135M model take a minute of one core, not hours.
"""

# Buffers are typed as Tensor | Module by torch.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import UnsupportedDtype
from mtia.numerics.blocks import BlockFormat, ScaleKind, ScaleRule
from mtia.numerics.formats import FP4_E2M1, FP8_E4M3
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.operands import LARGEST, SMALLEST_LARGEST, numbers

_LEAST_SCALE = 2.0**-127


def rounded(x: torch.Tensor, fmt: str, block: BlockFormat | None) -> torch.Tensor:
    """float32 [rows, depth]: what x is once it is quantised along its depth (operands.quantise), on the host.

    Raises UnsupportedDtype for an element that is neither E4M3 nor E2M1.
    """
    if fmt == "bf16":
        return x.to(torch.bfloat16).float()
    x = x.float()
    scale = scales(x, fmt, block)
    if block is None:
        return elements(x * (1.0 / scale), fmt, None) * scale
    wide = widened(scale, block, x.shape[0])
    return elements(x / wide, fmt, block) * wide


def scales(x: torch.Tensor, fmt: str, block: BlockFormat | None) -> torch.Tensor:
    """float32 factors of x: [rows, 1], or [ceil(rows / block rows), depth / block columns] powers of two."""
    if block is None:
        largest = x.abs().amax(1, keepdim=True).clamp_min(SMALLEST_LARGEST)
        return largest / (127.0 if fmt == "int8" else LARGEST)
    padded = F.pad(x, (0, 0, 0, -x.shape[0] % block.rows))
    tiles = padded.abs().reshape(padded.shape[0] // block.rows, block.rows, -1, block.cols)
    return _powers(tiles.amax((1, 3)), block)


def _powers(largest: torch.Tensor, block: BlockFormat) -> torch.Tensor:
    """The power of two that the block's rule takes for each largest magnitude (numerics.blocks.ScaleRule)."""
    if block.scale is not ScaleKind.E8M0:
        raise UnsupportedDtype("emulation", chip="the host", dtype=block.name, supported=["blocks with E8M0 scales"])
    if block.rule is ScaleRule.FIT:
        exponent = _ceil_log2(largest.double() / block.largest)
    elif block.rule is ScaleRule.CEIL:
        exponent = _ceil_log2(largest) - block.largest_exponent
    else:
        if block.rule is ScaleRule.EVEN:
            half = torch.exp2(torch.frexp(largest).exponent.double() - 1 - block.mantissa_bits - 1)
            largest = largest.double() + half
        exponent = torch.frexp(largest).exponent - 1 - block.largest_exponent
    power = torch.exp2(exponent.clamp(-127, 127).double()).float()
    return torch.where(largest == 0, _LEAST_SCALE, power) if block.rule is not ScaleRule.EVEN else power


def _ceil_log2(x: torch.Tensor) -> torch.Tensor:
    fraction, exponent = torch.frexp(x)
    return torch.where(fraction == 0.5, exponent - 1, exponent)


def widened(scale: torch.Tensor, block: BlockFormat, rows: int) -> torch.Tensor:
    """Block scales, one for each element of [rows, depth]."""
    tall = scale.repeat_interleave(block.rows, 0)[:rows] if block.rows > 1 else scale
    return tall.repeat_interleave(block.cols, 1)


def elements(scaled: torch.Tensor, fmt: str, block: BlockFormat | None) -> torch.Tensor:
    """float32 numbers already divided by their scale -> the format's nearest element, saturated."""
    if fmt == "int8":
        return (scaled + 0.5).floor().clamp(-128.0, 127.0)
    element = FP8_E4M3 if block is None else block.element
    if element is FP8_E4M3:
        return scaled.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn).float()
    if element is not FP4_E2M1:
        raise UnsupportedDtype("emulation", chip="the host", dtype=element.name, supported=["fp8e4m3", "fp4e2m1"])
    held = scaled.clamp(-FP4_E2M1.largest, FP4_E2M1.largest)
    size = held.abs()
    quantum = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (held / quantum).round() * quantum


class EmulatedLinear(nn.Module):
    """A QuantisedLinear, or an nn.Linear in bfloat16, with its weights' numbers in float32 and sums in float32."""

    def __init__(self, source: QuantisedLinear | nn.Linear) -> None:
        super().__init__()
        self.source = source
        held = isinstance(source, QuantisedLinear)
        wide = (numbers(source.codes, source.scale, source.scheme.weight, source.scheme.weight_block)
                if held else source.weight.detach())  # fmt: skip
        self.register_buffer("wide", wide.float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source = self.source
        rows = x.reshape(-1, x.shape[-1])
        out = self._low(rows, source) if isinstance(source, QuantisedLinear) else F.linear(rows.float(), self.wide)
        if source.bias is not None:
            out = out + source.bias.float()
        return out.to(x.dtype).reshape(*x.shape[:-1], out.shape[-1])

    def _low(self, rows: torch.Tensor, source: QuantisedLinear) -> torch.Tensor:
        rows = source.shifted(rows)
        low = rows if source.narrow is None else rows * source.narrow
        low = F.pad(low, (0, source.depth - low.shape[1])).float()
        if source.x_scale is not None:
            low = elements(low * (1.0 / source.x_scale), "int8", None) * source.x_scale
        else:
            low = rounded(low, source.scheme.activation, source.scheme.activation_block)
        out = F.linear(low, self.wide)
        if source.wide is not None:
            out += rows.index_select(1, source.wide).float() @ source.wide_weight.float().t()
        return out


def emulate(model: nn.Module) -> nn.Module:
    """The model, in place, with every linear layer an EmulatedLinear; for the host alone."""
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantisedLinear) or type(module) is nn.Linear:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], EmulatedLinear(module))
    return model


__all__ = ["EmulatedLinear", "elements", "emulate", "rounded", "scales", "widened"]
