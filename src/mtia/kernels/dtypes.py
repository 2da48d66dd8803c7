"""Element types as the kernels see them: torch dtype <-> Triton type names, and the type a kernel computes in."""

from __future__ import annotations

import struct

import torch

TRITON_NAME: dict[torch.dtype, str] = {
    torch.float32: "tl.float32",
    torch.float64: "tl.float64",
    torch.float16: "tl.float16",
    torch.bfloat16: "tl.bfloat16",
    torch.int8: "tl.int8",
    torch.int16: "tl.int16",
    torch.int32: "tl.int32",
    torch.int64: "tl.int64",
    torch.uint8: "tl.uint8",
    torch.uint16: "tl.uint16",
    torch.uint32: "tl.uint32",
    torch.uint64: "tl.uint64",
    torch.bool: "tl.int1",
    torch.float8_e4m3fn: "tl.float8e4nv",
    torch.float8_e5m2: "tl.float8e5",
}

_NARROW_FLOATS = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def triton_name(dtype: torch.dtype) -> str:
    """`tl.*` name of a dtype. Raises TypeError for types that no kernel takes (complex, quantised)."""
    name = TRITON_NAME.get(dtype)
    if name is None:
        known = ", ".join(str(d).removeprefix("torch.") for d in TRITON_NAME)
        raise TypeError(f"mtia kernels have no element type for {dtype}; they take {known}")
    return name


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype arithmetic runs in: narrow floats in float32 (rounded once, at the end), all others in themselves."""
    return torch.float32 if dtype in _NARROW_FLOATS else dtype


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums run in: float32 for narrow floats, int64 for integers and bool."""
    if dtype.is_floating_point:
        return compute_dtype(dtype)
    return torch.int64


def scalar_argument(value: bool | int | float, dtype: torch.dtype) -> int | float:
    """A Python number as the kernel argument for a `dtype` computation.

    Triton passes floats as float32, so a float64 goes as its bit pattern (the kernel casts it back).
    """
    if dtype == torch.float64:
        return struct.unpack("<q", struct.pack("<d", float(value)))[0]
    if dtype.is_floating_point:
        return float(value)
    return int(bool(value)) if dtype == torch.bool else int(value)


def scalar_in_kernel(name: str, dtype: torch.dtype) -> str:
    """Source of the expression that turns the argument of `scalar_argument` into a `dtype` scalar."""
    if dtype == torch.float64:
        return f"tl.full([], {name}, tl.int64).to(tl.float64, bitcast=True)"
    return f"tl.full([], {name}, {triton_name(dtype)})"
