"""`noinline` functions become part of the program that calls them."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from mtia.errors import UnsupportedOperation

N = 128


@triton.jit(noinline=True)
def doubled(x, y):
    return x * 2, y + 1


@triton.jit(noinline=True)
def copy_scaled(to, source, factor, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(to + i, tl.load(source + i) * factor)


@triton.jit(noinline=True)
def leaves_early(x):
    if x > 0:
        return x
    return x + 1


@triton.jit
def calls(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    a = n
    b = n
    if n > 0:
        a, b = doubled(a, a)
        a, b = doubled(a, b)
    copy_scaled(out_ptr, x_ptr, a + b, BLOCK)


@triton.jit
def calls_what_leaves_early(out_ptr, n):
    tl.store(out_ptr, leaves_early(n))


@pytest.mark.parametrize("n", [1, 3, -2])
def test_results_and_stores_of_a_called_function(n: int):
    x, out = torch.randn(N), torch.empty(N, device="mtia")
    calls[(1,)](x.to("mtia"), out, n, BLOCK=N)
    factor = 4 * n + n + 2 if n > 0 else 2 * n
    torch.testing.assert_close(out.cpu(), x * factor)


def test_a_called_function_that_returns_early_is_refused_by_name():
    with pytest.raises(
        UnsupportedOperation, match=r"leaves_early.* is `noinline` and returns early; return once, at its end"
    ):
        calls_what_leaves_early[(1,)](torch.empty(1, dtype=torch.int32, device="mtia"), 3)


@triton.jit
def narrow_scalars(y_ptr, out_ptr, n):
    y = tl.load(y_ptr)
    tl.store(out_ptr, y.to(tl.uint16, bitcast=True).to(tl.int32))
    tl.store(out_ptr + 1, n.to(tl.int8).to(tl.int32))
    tl.store(out_ptr + 2, n.to(tl.int8).to(tl.uint8, bitcast=True).to(tl.int32))


def test_scalars_wrap_and_extend_by_their_width():
    out = torch.empty(3, dtype=torch.int32, device="mtia")
    narrow_scalars[(1,)](torch.tensor([-10], dtype=torch.int16, device="mtia"), out, 300 + 128)
    assert out.tolist() == [65526, -84, 172]
