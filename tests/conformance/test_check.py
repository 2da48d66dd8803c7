"""How a device's result is judged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtia.conformance import check


def test_an_error_that_rounding_makes_usual_is_not_wrong() -> None:
    """The CPU happens to be exact for these inputs; for their neighbours it is off by 1e-4."""
    x = torch.linspace(1, 2, 5)
    sample = SimpleNamespace(input=x, args=(), kwargs={})

    def compute(arguments: Any) -> torch.Tensor:
        given = arguments[0]
        is_exact = given.dtype == torch.float64 or torch.equal(given, x)
        return given if is_exact else given + 1e-4

    check._close((x + 1.5e-4).to("mtia"), x, compute, sample)
    with pytest.raises(check.Wrong, match="not close"):
        check._close((x + 1e-3).to("mtia"), x, compute, sample)
    with pytest.raises(check.Wrong, match="not close"):
        check._close((x / 0).to("mtia"), x, compute, sample)


@pytest.mark.parametrize("p, is_random", [(0.5, True), (0.0, False)])
@pytest.mark.parametrize("seeded", [False, True])
def test_what_is_random_is_what_another_seed_changes(p: float, is_random: bool, seeded: bool) -> None:
    """Dropout draws whatever its rate; and OpInfo's wrappers set a seed of their own."""

    def info(x: torch.Tensor) -> torch.Tensor:
        if seeded:
            torch.manual_seed(42)
        return torch.where(torch.rand(8) < p, x, -x)

    assert check._is_random(info, SimpleNamespace(input=torch.ones(8), args=(), kwargs={})) is is_random


def test_an_exact_reference_of_integers_is_in_float64() -> None:
    (found,) = check._exactly(lambda arguments: arguments[0].sqrt(), (torch.arange(5), (), {}))
    assert found.dtype == torch.float64 and torch.get_default_dtype() == torch.float32
