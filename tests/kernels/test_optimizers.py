"""Fused and foreach optimisers on the device against eager ones on the CPU: parameters and states, step for step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import mtia

STEPS = 3
ADAMW = dict(lr=1e-2, weight_decay=0.1)
CASES = {
    "adamw": (torch.optim.AdamW, ADAMW),
    "adamw amsgrad": (torch.optim.AdamW, {**ADAMW, "amsgrad": True}),
    "adamw maximize": (torch.optim.AdamW, {**ADAMW, "maximize": True}),
    "adam": (torch.optim.Adam, dict(lr=1e-2, weight_decay=0.1)),
    "sgd": (torch.optim.SGD, dict(lr=1e-2, weight_decay=0.1)),
    "sgd momentum": (torch.optim.SGD, dict(lr=1e-2, momentum=0.9, dampening=0.1)),
    "sgd nesterov": (torch.optim.SGD, dict(lr=1e-2, momentum=0.9, nesterov=True)),
    "adagrad": (torch.optim.Adagrad, dict(lr=1e-2, lr_decay=0.1, weight_decay=0.1)),
}


def parameters(device: str, dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(7, 33), (130,), (), (3, 4, 5)]
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes] + [torch.randn(6, 9, dtype=dtype).T]
    return [torch.nn.Parameter(t.to(device)) for t in tensors]


def step_all(optimizer: Any, params: list[torch.nn.Parameter]) -> None:
    for at in range(STEPS):
        torch.manual_seed(at + 1)
        for p in params:
            p.grad = torch.randn(p.shape, dtype=p.dtype).to(p.device)
        optimizer.step()


def states(optimizer: Any) -> list[torch.Tensor]:
    kept = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    return [v.detach().cpu() for v in kept]


@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("case", CASES)
def test_steps_equal_the_cpu(case: str, how: str) -> None:
    make, options = CASES[case]
    expected, got = parameters("cpu"), parameters("mtia")
    on_cpu, on_device = make(expected, **options, foreach=False), make(got, **options, **{how: True})
    before = mtia.host_fallbacks()
    step_all(on_device, got)
    assert mtia.host_fallbacks() == before
    step_all(on_cpu, expected)
    torch.testing.assert_close([p.detach().cpu() for p in got], [p.detach() for p in expected], rtol=2e-6, atol=2e-7)
    torch.testing.assert_close(states(on_device), states(on_cpu), rtol=2e-6, atol=2e-7)


def test_a_fused_step_is_one_kernel_a_parameter_and_one_for_each_step_count() -> None:
    params = parameters("mtia")
    optimizer = torch.optim.AdamW(params, fused=True)
    step_all(optimizer, params)
    for p in params:
        p.grad = torch.ones_like(p)
    with mtia.session() as log:
        optimizer.step()
    names = [span.name for span in log.spans]
    assert names.count("mtia_fused_adam") == len(params)
    assert len(names) == 2 * len(params)


def test_bfloat16_parameters_round_once_a_step() -> None:
    # without the transposed one: the CPU's fused kernel takes its gradient in the order of memory
    expected, got = parameters("cpu", torch.bfloat16)[:-1], parameters("mtia", torch.bfloat16)[:-1]
    step_all(torch.optim.AdamW(expected, fused=True, **ADAMW), expected)  # type: ignore[arg-type]
    step_all(torch.optim.AdamW(got, fused=True, **ADAMW), got)  # type: ignore[arg-type]
    for e, g in zip(expected, got):
        torch.testing.assert_close(g.detach().cpu(), e.detach(), rtol=2.0**-8, atol=2.0**-10)


def test_a_scaler_that_finds_infinity_leaves_the_parameters() -> None:
    (p,) = parameters("mtia")[:1]
    before = p.detach().clone()
    p.grad = torch.full_like(p, float("inf"))
    optimizer = torch.optim.AdamW([p], fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.tensor(x, device="mtia") for x in (4.0, 1.0))  # type: ignore[attr-defined]
    optimizer.step()
    assert torch.equal(p.detach().cpu(), before.cpu())


def test_gradients_are_unscaled_in_place() -> None:
    (p,), (q,) = parameters("mtia")[:1], parameters("cpu")[:1]
    p.grad, q.grad = torch.full_like(p, 8.0), torch.full_like(q, 2.0)
    optimizer = torch.optim.AdamW([p], fused=True)
    optimizer.grad_scale, optimizer.found_inf = (torch.tensor(x, device="mtia") for x in (4.0, 0.0))  # type: ignore[attr-defined]
    optimizer.step()
    torch.optim.AdamW([q]).step()
    torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2e-6, atol=2e-7)
    assert torch.equal(p.grad.cpu(), q.grad)


def test_the_learning_rate_may_be_a_tensor() -> None:
    (p,), (q,) = parameters("mtia")[:1], parameters("cpu")[:1]
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    torch.optim.AdamW([p], lr=torch.tensor(0.25, device="mtia"), fused=True).step()
    torch.optim.AdamW([q], lr=0.25).step()
    torch.testing.assert_close(p.detach().cpu(), q.detach(), rtol=2e-6, atol=2e-7)


def test_strided_parameters_are_refused_with_a_way_out() -> None:
    p = torch.nn.Parameter(torch.zeros(8, 8, device="mtia")[:, ::2])
    p.grad = torch.zeros(8, 4, device="mtia")
    with pytest.raises(ValueError, match=r"needs it dense\. Make the parameter contiguous, or use foreach"):
        torch.optim.SGD([p], fused=True).step()


def test_copy_of_the_step_count_is_not_shared() -> None:
    params = parameters("mtia")
    optimizer = torch.optim.AdamW(params, fused=True)
    step_all(optimizer, params)
    kept = copy.deepcopy(optimizer.state_dict())
    step_all(optimizer, params)
    assert float(kept["state"][0]["step"]) == STEPS
