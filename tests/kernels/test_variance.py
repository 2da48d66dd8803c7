"""Variance and standard deviation: one kernel each, with a gradient of one kernel, and derivatives of any order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mtia.host_runtime import record

Function = Callable[[torch.Tensor], torch.Tensor]
CASES = [  # shape, dim, keepdim
    ((6, 33), -1, False),
    ((33, 6), 0, True),
    ((3, 4, 5, 7), (0, 2), False),
    ((40,), None, False),
    ((2, 3, 4), None, True),
]


def moment(name: str, dim: object, keepdim: bool, correction: float = 1) -> Function:
    return lambda x: getattr(torch, name)(x, dim, correction=correction, keepdim=keepdim)


def kernels(call: Callable[[], object]) -> list[str]:
    with record.session() as log:
        call()
    return [s.name for s in log.spans]


@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.parametrize(("shape", "dim", "keepdim"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_kernel_each_way_and_rounded_once(name, shape, dim, keepdim, dtype) -> None:
    torch.manual_seed(0)
    function, x = moment(name, dim, keepdim), torch.randn(shape).to(dtype)
    there, exact = x.to("mtia").requires_grad_(), x.double().requires_grad_()
    reference = function(exact)
    assert kernels(lambda: function(there)) == [f"mtia_{name}"]
    result = function(there)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(result.detach().cpu().double(), reference.detach(), rtol=eps, atol=1e-6)
    g = torch.randn(reference.shape).to(dtype)
    g_there = g.to("mtia")
    assert kernels(lambda: torch.autograd.grad(result, there, g_there, retain_graph=True)) == [f"mtia_{name}_backward"]
    (got,) = torch.autograd.grad(result, there, g_there)
    (expected,) = torch.autograd.grad(reference, exact, g.double())
    assert got.dtype == dtype
    torch.testing.assert_close(got.cpu().double(), expected, rtol=2 * eps, atol=2e-6)


@pytest.mark.parametrize("name", ["var", "std"])
@pytest.mark.parametrize(
    ("shape", "dim", "keepdim"), [((2, 3), -1, False), ((2, 1, 2), (0, 2), True), ((4,), None, False)]
)
def test_derivatives_in_float64_to_the_second(name, shape, dim, keepdim) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).to("mtia").requires_grad_()
    function = moment(name, dim, keepdim, correction=0.5)
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


def test_a_spread_of_nothing_has_no_slope() -> None:
    x = torch.ones(3, 4, device="mtia", requires_grad=True)
    torch.std(x, -1).sum().backward()
    assert torch.equal(x.grad.cpu(), torch.zeros(3, 4))


def test_without_degrees_of_freedom_as_on_the_host() -> None:
    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(torch.var(x, -1, correction=3).sum(), x)[0]

    x = torch.tensor([[1.0, 2.0, 3.0]])
    with pytest.warns(UserWarning, match=r"of 3 elements with correction 3 has no degrees of freedom"):
        got = gradient(x.to("mtia").requires_grad_()).cpu()
    with pytest.warns(UserWarning, match="degrees of freedom"):
        expected = gradient(x.requires_grad_())
    torch.testing.assert_close(got, expected, equal_nan=True)


def test_forward_mode_and_transforms_see_through_it() -> None:
    x, t = torch.randn(4, 5), torch.randn(4, 5)

    def everything(x: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
        value, slope = torch.func.jvp(lambda a: torch.var(a, -1), (x,), (t,))
        per_row = torch.func.vmap(torch.func.grad(lambda a: torch.std(a)))(x)
        with torch.autograd.forward_ad.dual_level():
            leaf = x.clone().requires_grad_()
            dual = torch.std(torch.autograd.forward_ad.make_dual(leaf, t), -1)
            tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
        return [value, slope, per_row, tangent.detach()]

    there = [y.cpu() for y in everything(x.to("mtia"), t.to("mtia"))]
    torch.testing.assert_close(there, everything(x, t), rtol=1e-4, atol=1e-5)


def test_much_to_fold_in_few_rows_is_split_over_programs() -> None:
    x = torch.randn(2, 40_000)
    assert len(kernels(lambda: torch.var(x.to("mtia"), -1))) > 2
    torch.testing.assert_close(torch.var(x.to("mtia"), -1).cpu(), torch.var(x, -1), rtol=1e-5, atol=1e-6)


def test_the_mean_comes_with_it() -> None:
    x = torch.randn(5, 9)
    for name in ("var_mean", "std_mean"):
        got = getattr(torch, name)(x.to("mtia"), -1)
        torch.testing.assert_close([t.cpu() for t in got], list(getattr(torch, name)(x, -1)), rtol=1e-5, atol=1e-6)


def test_compiled_gradients_are_seen_into() -> None:
    torch._dynamo.reset()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad((torch.std(x, -1) * torch.var(x, -1)).sum(), x)[0]

    x = torch.randn(8, 32)
    got = torch.compile(gradient)(x.to("mtia").requires_grad_())
    torch.testing.assert_close(got.cpu(), gradient(x.requires_grad_()), rtol=1e-4, atol=1e-5)
