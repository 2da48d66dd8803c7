"""Weights rounded column by column, each column's error made good by those not rounded yet.

    N outputs, K depth

The output error of a layer over examples x is the sum over rows of (w - q) H (w - q)^T, H = sum of x x^T. Rounding
column k leaves an error that the later columns take up in the least-squares sense: what to add to them is read off the
Cholesky factor of H's inverse (Hassibi and Stork's optimal brain surgeon, 1993; column by column for all rows at once,
Frantar et al., GPTQ, 2022). A block's scale is chosen when its first column is reached, from the weights as they are
by then.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from mtia.errors import BadProblem
from mtia.numerics import blocks
from mtia.numerics.blocks import E8M0_BIAS, BlockFormat
from mtia.numerics.formats import FP4_E2M1
from mtia.quantization.emulation import elements, scales, widened
from mtia.quantization.schemes import Scheme

DAMPING_FRAC = 0.01
"""Of H's mean diagonal, added to it: keeps the inverse small in directions that the examples hardly have."""
TRIED = {"int8": (1.0, 0.95, 0.9, 0.85, 0.8), "fp8": (1.0, 1.1, 1.25, 1.4, 1.6, 1.8)}
"""A row's scale is tried at these parts of largest magnitude / largest number: evenly spaced integers may gain by
saturating the ends, floats by where a row's weights lie between powers of two."""
TRIED_POWERS = (1.0, 0.5, 2.0)
_COLUMNS = 64  # rounded before the rest of the row is brought up to date; a multiple of every block


def compensated(weight_NK: torch.Tensor, moments_KK: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a layer's weights in the scheme's format, as operands.quantise gives them.

    `moments_KK`: sum over examples of x x^T, x as the engine multiplies it (rounded, less the layer's shift).
    Raises BadProblem where the moments are of another depth.
    """
    K = weight_NK.shape[1]
    if moments_KK.shape != (K, K):
        raise BadProblem(
            "compensated rounding", argument="moments", value=tuple(moments_KK.shape), allowed=f"({K}, {K})"
        )
    short = -K % scheme.depth_multiple
    weight = F.pad(weight_NK.float(), (0, short)).contiguous()
    held, factors = _rounded_columns(weight, _factor(moments_KK, short), moments_KK, scheme)
    return codes_of(held, factors, scheme.weight, scheme.weight_block)


def _factor(moments_KK: torch.Tensor, short: int) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped moments, float32; padded depth stands alone."""
    damped = F.pad(moments_KK.double(), (0, short, 0, short))
    diagonal = damped.diagonal()
    mean = diagonal[: diagonal.numel() - short].mean().clamp_min(1e-30)
    diagonal.add_(DAMPING_FRAC * mean)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def _rounded_columns(
    weight_NK: torch.Tensor, factor_KK: torch.Tensor, moments_KK: torch.Tensor, scheme: Scheme
) -> tuple[torch.Tensor, torch.Tensor]:
    """Elements [N, K] and factors of all scales."""
    weight, held = weight_NK.clone(), torch.empty_like(weight_NK)
    block, K = scheme.weight_block, weight.shape[1]
    importance = F.pad(moments_KK.diagonal().float(), (0, K - moments_KK.shape[0]))
    found = [] if block is not None else [best_scales(weight, importance, scheme.weight, None)]
    for begin in range(0, K, _COLUMNS):
        end = min(begin + _COLUMNS, K)
        part, errors = weight[:, begin:end].clone(), torch.empty(weight.shape[0], end - begin)
        for j in range(end - begin):
            k = begin + j
            if block is not None and k % block.cols == 0:
                found.append(best_scales(part[:, j : j + block.cols], importance[k : k + block.cols], "", block))
            scale = found[0] if block is None else _by_row(found[-1], block, len(weight))
            held[:, k : k + 1] = elements(part[:, j : j + 1] / scale, scheme.weight, block)
            errors[:, j] = (part[:, j] - held[:, k] * scale[:, 0]) / factor_KK[k, k]
            part[:, j + 1 :] -= errors[:, j : j + 1] * factor_KK[k, k + 1 : end]
        weight[:, end:] -= errors @ factor_KK[begin:end, end:]
    return held, torch.cat(found, 1)


def _by_row(factors: torch.Tensor, block: BlockFormat, rows: int) -> torch.Tensor:
    return factors.repeat_interleave(block.rows, 0)[:rows]


def best_scales(
    weight: torch.Tensor, importance: torch.Tensor, fmt: str, block: BlockFormat | None
) -> torch.Tensor:  # fmt: skip
    """float32 factors, a row's or a block column's, of least squared error, each depth weighted by `importance`.

    Tried are the scale of the format's own rule and its multiples by TRIED, or by TRIED_POWERS in a block format.
    """
    rule = scales(weight, fmt, block)
    tried = [rule * part for part in (TRIED[fmt] if block is None else TRIED_POWERS)]
    errors = torch.stack([_squared_error(weight, s, importance, fmt, block) for s in tried])
    return torch.stack(tried).gather(0, errors.argmin(0, keepdim=True))[0]


def _squared_error(
    weight: torch.Tensor, factors: torch.Tensor, importance: torch.Tensor, fmt: str, block: BlockFormat | None
) -> torch.Tensor:
    """Of each row [N, 1], or of each block [N / rows, 1]."""
    wide = factors if block is None else widened(factors, block, len(weight))
    error = ((elements(weight / wide, fmt, block) * wide - weight) ** 2 * importance).sum(1, keepdim=True)
    if block is None or block.rows == 1:
        return error
    return F.pad(error, (0, 0, 0, -len(error) % block.rows)).reshape(-1, block.rows, 1).sum(1)


def codes_of(
    held: torch.Tensor, factors: torch.Tensor, fmt: str, block: BlockFormat | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales as operands.quantise gives them, from elements [N, K] (numbers of the format) and factors."""
    if block is None:
        codes = held.to(torch.int8) if fmt == "int8" else held.to(torch.float8_e4m3fn).view(torch.uint8)
        return codes, factors
    exponents = torch.frexp(factors).exponent - 1 + E8M0_BIAS
    codes = blocks.encode_elements(held.numpy().astype(np.float64), block)
    packed = blocks.pack_pairs(codes) if block.element is FP4_E2M1 else codes
    return torch.from_numpy(packed.copy()), exponents.to(torch.uint8)


__all__ = ["DAMPING_FRAC", "best_scales", "codes_of", "compensated"]
