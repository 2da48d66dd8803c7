"""Fourier transforms: against the CPU's in double precision, lengths of every kind, and the transform's own laws."""

from __future__ import annotations

import pytest
import torch

import mtia
from mtia.kernels import fourier

LENGTHS = {
    "one": 1, "matrix": 60, "prime in a matrix": 61, "split": 96, "split thrice": 4100, "prime by matrix": 211,
    "prime by chirp": 521, "twice a long prime": 1042,
}  # fmt: skip


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("n", LENGTHS.values(), ids=LENGTHS)
def test_any_length(n: int):
    """Complex both ways, real to half a spectrum and back: the algorithm alone, on the host."""
    z = torch.complex(noise(2, n), noise(2, n).flip(1))
    exact = torch.fft.fft(z.to(torch.complex128))
    assert relative_error(fourier.fft_c2c(z, [1], 0, True), exact) < 1e-6
    assert relative_error(fourier.fft_c2c(fourier.fft_c2c(z, [1], 1, True), [1], 1, False), z) < 1e-6
    x = noise(2, n)
    half = fourier.fft_r2c(x, [1], 0, True)
    assert relative_error(half, torch.fft.rfft(x.double())) < 1e-6
    assert relative_error(fourier.fft_c2r(half, [1], 2, n), x) < 1e-6


@pytest.mark.parametrize("n", [7, 96])
def test_real_transforms_on_the_device(n: int):
    x = noise(3, n)
    before = dict(mtia.host_fallbacks())
    there = x.to("mtia")
    half = torch.fft.rfft(there)
    again = torch.fft.irfft(half, n)
    pairs = torch.view_as_real(half).cpu()
    assert dict(mtia.host_fallbacks()) == before
    assert relative_error(torch.view_as_complex(pairs), torch.fft.rfft(x.double())) < 1e-6
    assert relative_error(again.cpu(), x) < 1e-6


def test_energy_is_kept_over_several_dims():
    """Parseval, with the norm that makes the transform unitary."""
    x = noise(4, 6, 10).to("mtia")
    spectrum = torch.view_as_real(torch.fft.rfftn(x, norm="ortho")).cpu()
    energy = spectrum.double().square().sum(-1)
    energy[..., 1:5] *= 2  # the half that is left out
    assert float(energy.sum()) == pytest.approx(float(x.cpu().double().square().sum()), rel=1e-6)
