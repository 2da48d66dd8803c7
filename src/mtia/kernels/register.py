"""Enters the kernel table with PyTorch's dispatcher under the MTIA key.

Structured operators are served by their `out` overload: PyTorch's default implementations of the functional and
in-place overloads check, promote, allocate and call it.
"""

from __future__ import annotations

from importlib import import_module

import torch

from mtia import _C
from mtia.host_runtime.untraced import untraced
from mtia.kernels import copy
from mtia.kernels.registry import KERNELS, OWN

FAMILIES = (
    "activation_gradients complex_pairs convolution copy ctc decomposed derived distances fourier fused_attention "
    "gradient_scaling indexing linear_algebra loss matmul normalise optimizers pointwise pooling randoms reduce "
    "resample sampling scaled_mm scan segments sort special statistics unique variance weight_norm"
).split()
for _family in FAMILIES:  # each fills the tables as it is imported
    import_module(f"mtia.kernels.{_family}")

_libraries: list[torch.library.Library] = []


def register_all() -> None:
    if _libraries:
        return
    for namespace, kernels in (("aten", KERNELS), ("mtia", OWN)):
        library = torch.library.Library(namespace, "IMPL", "MTIA")
        for name, function in kernels.items():
            library.impl(name, untraced(function))
        _libraries.append(library)
    _C.set_copy_kernel(untraced(copy.copy_strided))
