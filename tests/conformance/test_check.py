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
