"""The native library's element-wise loops, by name: what the interpreter and the native executor both call.

A name is "operation.type" ("addf.fp32"); conversions name both types ("sitofp.i32.fp32"). The loops' definitions are in
`engine/csrc/elementwise.cpp` and `functions.hpp`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import lru_cache

import torch

from mtia.engine.native import library

_I64, _P = ctypes.c_int64, ctypes.c_void_p

ALIASES = {  # operations that are one on this machine
    "precise_divf": "divf",
    "div_rn": "divf",
    "precise_sqrt": "sqrt",
    "sqrt_rn": "sqrt",
    "fma_rn": "fma",
    "fmod": "remf",
    "pow": "powf",
    "nearbyint": "rint",
    "roundeven": "rint",
    "fast_expf": "exp",
    "fast_logf": "log",
    "fast_sinf": "sin",
    "fast_cosf": "cos",
    "fast_tanhf": "tanh",
    "isfinited": "finitef",
}


@lru_cache(maxsize=8192)
def find_loop(name: str) -> int:
    """The loop's number, -1 where there is none. `name` with its operands' suffix: "addf.fp32.vs"."""
    return library().mtia_find_loop(name.encode())


@lru_cache(maxsize=64)
def code_id(name: str) -> int:
    """An instruction of the executor."""
    found = library().mtia_find_code(name.encode())
    assert found >= 0, name
    return found


@lru_cache(maxsize=64)
def scalar_id(name: str) -> int:
    """A scalar operation of the executor."""
    found = library().mtia_find_scalar(name.encode())
    assert found >= 0, name
    return found


@lru_cache(maxsize=1)
def _runner() -> Callable[..., None]:
    function = library().mtia_run_loop
    function.argtypes, function.restype = [ctypes.c_int, _P, _P, _P, _P, _I64], None
    return function


_LABEL = {torch.float32: "fp32", torch.float64: "fp64"}


def native(op: str) -> Callable[..., torch.Tensor]:
    """The operation on float tensors by its native loop; bfloat16 and float16 compute in float32 and round once."""

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        dtype = tensors[0].dtype
        if dtype not in _LABEL:
            return run(*(t.to(torch.float32) for t in tensors)).to(dtype)
        return run_loop(f"{op}.{_LABEL[dtype]}", dtype, *torch.broadcast_tensors(*tensors))

    return run


def run_loop(name: str, dtype: torch.dtype, *tensors: torch.Tensor) -> torch.Tensor:
    """The loop `name` on tensors of one shape; the result is of `dtype`."""
    flat = [t.contiguous() for t in tensors]
    out = torch.empty(flat[0].shape, dtype=dtype)
    places = [t.data_ptr() for t in flat] + [None] * (3 - len(flat))
    _runner()(find_loop(f"{name}.{'v' * len(flat)}"), out.data_ptr(), *places, out.numel())
    return out


@lru_cache(maxsize=1)
def _multiplier() -> Callable[..., None]:
    function = library().mtia_multiply
    function.argtypes, function.restype = [ctypes.c_int, _P, _P, _P, _P, _I64, _I64, _I64, _I64], None
    return function


def multiply(kind: int, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """c + a @ b for contiguous [batch, M, K] and [batch, K, N] of one type (kind 0 float32, 1 float64, 2 int32): each
    element takes its K products in order, with one fused multiply-add each, beginning with c's element, or zero."""
    batch, m, k = a.shape
    n = b.shape[2]
    out = torch.empty((batch, m, n), dtype=a.dtype)
    start = None if c is None else c.data_ptr()
    _multiplier()(kind, out.data_ptr(), a.data_ptr(), b.data_ptr(), start, batch, m, k, n)
    return out
