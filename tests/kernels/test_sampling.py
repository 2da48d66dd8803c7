"""Fields sampled at points: one kernel, forward and backward, against the CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from .test_composed import with_gradient


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("n_dims, mode", [(2, "bilinear"), (2, "nearest"), (3, "bilinear")])
def test_grid_sample(n_dims: int, mode: str, padding: str) -> None:
    """Points inside, on the rim and outside; three channels, which no tile divides."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((2, 3, *(4, 5, 6)[:n_dims]), generator=generator)
    grid = torch.rand((2, *(3, 4, 2)[:n_dims], n_dims), generator=generator) * 3 - 1.5

    def sampled(x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(x, grid, mode, padding, align_corners=False)

    with_gradient(sampled, x, grid)
