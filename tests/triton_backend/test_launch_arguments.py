"""A kernel takes tensors of one device; any other is refused by its place among the arguments."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def add_one(x_ptr, out_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out_ptr + i, tl.load(x_ptr + i) + 1)


def test_a_host_tensor_is_refused_wherever_it_stands():
    here, there = torch.ones(16, device="mtia"), torch.ones(16)
    with pytest.raises(
        ValueError, match=r"a kernel on mtia got a tensor on cpu \(argument 0\); move it with .to\('mtia'\)"
    ):
        add_one[(1,)](there, here, N=16)
    with pytest.raises(
        ValueError, match=r"a kernel on mtia got a tensor on cpu \(argument 1\); move it with .to\('mtia'\)"
    ):
        add_one[(1,)](here, there, N=16)
    assert torch.equal(there, torch.ones(16))
