"""Gradients that PyTorch would take apart: one kernel, rounded once; second derivatives are still there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mtia.host_runtime import record


@pytest.mark.parametrize("function", [F.silu, F.mish])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_kernel_rounded_once(function, dtype: torch.dtype):
    x = torch.linspace(-20, 20, 999).to(dtype)
    there = x.to("mtia").requires_grad_()
    result = function(there)
    with record.session() as log:
        (got,) = torch.autograd.grad(result, there, torch.ones_like(result))
    assert [s.name for s in log.spans if "backward" in s.name] == [f"mtia_{function.__name__}_backward"]
    wide = x.double().requires_grad_()
    (exact,) = torch.autograd.grad(function(wide).sum(), wide)
    torch.testing.assert_close(got.cpu(), exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("function", [F.silu, F.mish])
def test_second_derivatives(function):
    def second(x: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(first.sum(), x)[0]

    x = torch.linspace(-5, 5, 101)
    got = second(x.to("mtia").requires_grad_()).cpu()
    torch.testing.assert_close(got, second(x.double().requires_grad_()).float(), rtol=1e-4, atol=1e-5)
