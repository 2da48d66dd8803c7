"""Eigenvalues of matrices that are not symmetric: the definition, LAPACK's values, and matrices known by heart."""

from __future__ import annotations

import pytest
import torch

import mtia


def eig(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """On the device, brought back; nothing on the host."""
    before = mtia.host_fallbacks()
    values, vectors = torch.linalg.eig(x.to("mtia"))
    alone = torch.ops.aten._linalg_eigvals(x.to("mtia"))
    assert mtia.host_fallbacks() == before
    found = [torch.view_as_complex(torch.view_as_real(t).cpu()) for t in (values, vectors, alone)]
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-5)
    return found[0], found[1]


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (4, 3, 3), (2, 2, 5, 5), (17, 17)])
def test_values_and_vectors(shape: tuple[int, ...]):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    values, vectors = eig(x)
    a = x.to(torch.complex64)
    size = float(x.abs().sum(-1).max())
    assert (a @ vectors - vectors * values.unsqueeze(-2)).abs().max() < 2e-6 * size
    assert (vectors.abs().square().sum(-2) - 1).abs().max() < 1e-5
    apart = (values.unsqueeze(-1) - torch.linalg.eigvals(x).unsqueeze(-2)).abs()
    assert apart.amin(-1).max() < 1e-4 and apart.amin(-2).max() < 1e-4  # the order is nobody's promise


def test_a_turn_a_shear_and_a_cycle():
    """Values on the circle, one value twice with one vector, and shifts that must leave a cycle."""
    angle = torch.tensor(0.3)
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    values, _ = eig(turn)
    torch.testing.assert_close(values.angle(), torch.tensor([0.3, -0.3]))
    values, vectors = eig(torch.tensor([[2.0, 1.0], [0.0, 2.0]]))
    assert values.tolist() == [2, 2] and vectors[:, 0].abs().tolist() == [1, 0]
    values, _ = eig(torch.eye(4).roll(1, 0))
    assert sorted(round(v.imag) for v in values.tolist()) == [-1, 0, 0, 1] and values.abs().sub(1).abs().max() < 1e-5


def test_not_a_number_is_refused():
    with pytest.raises(RuntimeError, match="should not contain infs or NaNs"):
        torch.linalg.eig(torch.full((2, 2), torch.nan).to("mtia"))


def test_moduli_of_complex_values():
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(3))
    before = mtia.host_fallbacks()
    got = torch.view_as_complex(x.to("mtia")).abs()
    assert mtia.host_fallbacks() == before
    torch.testing.assert_close(got.cpu(), torch.view_as_complex(x).abs())


def of_values(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(torch.linalg.eigvals(x)).pow(4).sum()


def of_values_and_vectors(x: torch.Tensor) -> torch.Tensor:
    """The same for any order of the values and any phase of the vectors."""
    values, vectors = (torch.view_as_real(t) for t in torch.linalg.eig(x))
    rows = torch.linspace(0.5, 1.5, x.shape[-1], device=x.device, dtype=x.dtype)
    shares = vectors.square().sum(-1) * rows.unsqueeze(-1)
    return (shares.square().sum(-2) * values.square().sum(-1)).sum()


@pytest.mark.parametrize("loss", [of_values, of_values_and_vectors])
@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 2, 5, 5), (0, 4, 4)])
def test_the_gradient_is_the_cpus_and_taken_on_the_device(loss, shape: tuple[int, ...]):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    here, there = x.clone().requires_grad_(), x.float().to("mtia").requires_grad_()
    loss(here).backward()
    before = mtia.host_fallbacks()
    loss(there).backward()
    assert mtia.host_fallbacks() == before
    torch.testing.assert_close(there.grad.cpu().double(), here.grad, rtol=1e-4, atol=1e-4)


def test_a_loss_of_the_phase_has_no_gradient_nor_has_a_complex_matrix():
    x = torch.tensor([[0.0, -1.0], [1.0, 0.0]], device="mtia", requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).unsqueeze(-1).mul(torch.tensor([1.0, -1.0])).to("mtia")
    vectors = torch.view_as_real(torch.linalg.eig(x)[1])
    with pytest.raises(RuntimeError, match=r"known up to a factor of e\^\{i phi\}, and the loss depends on it"):
        (vectors * weights).sum().backward()
    z = torch.randn(2, 2, dtype=torch.complex64).to("mtia").requires_grad_()
    with pytest.raises(RuntimeError, match=r"linalg.eig of a complex matrix has no gradient on mtia; .* \(x.cpu\(\)\)"):
        torch.linalg.eig(z)
