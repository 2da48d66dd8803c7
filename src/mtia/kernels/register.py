"""Enters the kernel table with PyTorch's dispatcher under the MTIA key.

Structured operators are served by their `out` overload: PyTorch's default implementations of the functional and
in-place overloads check, promote, allocate and call it.
"""

from __future__ import annotations

import torch

from mtia import _C
from mtia.host_runtime.untraced import untraced
from mtia.kernels import (
    activation_gradients,
    complex_pairs,
    convolution,
    copy,
    ctc,
    decomposed,
    derived,
    distances,
    fourier,
    fused_attention,
    gradient_scaling,
    indexing,
    linear_algebra,
    loss,
    matmul,
    normalise,
    optimizers,
    pointwise,
    pooling,
    randoms,
    reduce,
    resample,
    sampling,
    scaled_mm,
    scan,
    segments,
    sort,
    special,
    statistics,
    unique,
    weight_norm,
)
from mtia.kernels.registry import KERNELS

FAMILIES = (
    activation_gradients,
    complex_pairs,
    convolution,
    copy,
    ctc,
    decomposed,
    derived,
    distances,
    fused_attention,
    gradient_scaling,
    fourier,
    indexing,
    linear_algebra,
    loss,
    matmul,
    normalise,
    optimizers,
    pointwise,
    pooling,
    randoms,
    reduce,
    resample,
    sampling,
    scaled_mm,
    scan,
    segments,
    sort,
    special,
    statistics,
    unique,
    weight_norm,
)

_library: torch.library.Library | None = None


def register_all() -> None:
    global _library
    if _library is not None:
        return
    library = torch.library.Library("aten", "IMPL", "MTIA")
    for name, function in KERNELS.items():
        library.impl(name, untraced(function))
    _C.set_copy_kernel(untraced(copy.copy_strided))
    _library = library
