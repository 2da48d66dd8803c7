"""Compensated rounding: numbers of the format, never worse on its examples than rounding alone, exact where it can be."""

from __future__ import annotations

import pytest
import torch

from mtia.errors import BadProblem
from mtia.quantization.compensation import best_scales, codes_of, compensated
from mtia.quantization.emulation import elements, scales, widened
from mtia.quantization.operands import numbers, quantise
from mtia.quantization.schemes import scheme_named

FORMATS = ["int8", "fp8", "mx8:fit", "mx8s:fit", "mx4", "mxfp4"]


def examples(depth: int = 96, rows: int = 400) -> torch.Tensor:
    """Correlated inputs, as a model's are."""
    random = torch.Generator().manual_seed(0)
    mixing = torch.randn(depth, depth, generator=random) / depth**0.5
    return torch.randn(rows, depth, generator=random) @ mixing @ mixing


def weights(n: int = 40, depth: int = 96) -> torch.Tensor:
    return torch.randn(n, depth, generator=torch.Generator().manual_seed(1))


def output_error(x: torch.Tensor, w: torch.Tensor, held: tuple[torch.Tensor, torch.Tensor], name: str) -> float:
    scheme = scheme_named(name)
    wide = numbers(*held, scheme.weight, scheme.weight_block)
    return float(((x.double() @ (wide - w.double()).T) ** 2).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_the_output_error_is_less_than_half_that_of_plain_rounding(name: str) -> None:
    x, w, scheme = examples(), weights(), scheme_named(name)
    plain = quantise(w, scheme.weight, scheme.weight_block)
    held = compensated(w, x.T @ x, scheme)
    assert [t.shape for t in held] == [t.shape for t in plain] and [t.dtype for t in held] == [t.dtype for t in plain]
    assert output_error(x, w, held, name) < 0.5 * output_error(x, w, plain, name)


@pytest.mark.parametrize("name", FORMATS)
def test_independent_inputs_leave_nothing_to_make_good(name: str) -> None:
    """With moments in proportion to the identity each weight is rounded by itself, at the best scale."""
    w, scheme = weights(), scheme_named(name)
    codes, scale = compensated(w, torch.eye(96), scheme)
    got = numbers(codes, scale, scheme.weight, scheme.weight_block).float()
    block = scheme.weight_block
    if block is None:
        factors = best_scales(w, torch.ones(96), scheme.weight, None)
        expected = elements(w / factors, scheme.weight, None) * factors
    else:
        parts = w.split(block.cols, 1)
        found = [widened(best_scales(p, torch.ones(block.cols), "", block), block, len(w)) for p in parts]
        expected = torch.cat([elements(p / f, "", block) * f for p, f in zip(parts, found, strict=True)], 1)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_format_holds_stays(name: str) -> None:
    scheme = scheme_named(name)
    held = quantise(weights(), scheme.weight, scheme.weight_block)
    w = numbers(*held, scheme.weight, scheme.weight_block).float()
    got = numbers(*compensated(w, examples().T @ examples(), scheme), scheme.weight, scheme.weight_block).float()
    torch.testing.assert_close(got, w, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["int8", "fp8", "mx4"])
def test_the_best_scale_is_no_worse_than_the_rules(name: str) -> None:
    scheme, w = scheme_named(name), weights(16, 16)
    block = scheme.weight_block

    def error(factors: torch.Tensor) -> torch.Tensor:
        wide = factors if block is None else widened(factors, block, 16)
        return ((elements(w / wide, scheme.weight, block) * wide - w) ** 2).sum(1)

    best, rule = best_scales(w, torch.ones(16), scheme.weight, block), scales(w, scheme.weight, block)
    assert (error(best) <= error(rule)).all()
    assert name == "int8" or (error(best) < error(rule)).any()


def test_a_weight_that_does_not_matter_is_saturated() -> None:
    w, importance = weights(16, 16), torch.ones(16)
    w[:, 0], importance[0] = 5.0, 0.0
    assert best_scales(w, importance, "int8", None).mean() < 0.9 * scales(w, "int8", None).mean()


@pytest.mark.parametrize("name", FORMATS)
def test_codes_of_the_numbers_that_quantise_gives(name: str) -> None:
    scheme = scheme_named(name)
    codes, scale = quantise(weights(), scheme.weight, scheme.weight_block)
    factors, block = scales(weights(), scheme.weight, scheme.weight_block), scheme.weight_block
    wide = factors if block is None else widened(factors, block, 40)
    got = codes_of(elements(weights() / wide, scheme.weight, block), factors, scheme.weight, block)
    assert torch.equal(got[1], scale) and (got[0] != codes).sum() <= 2  # x * (1 / s) beside x / s


def test_moments_of_another_depth_are_refused() -> None:
    with pytest.raises(BadProblem, match=r"moments = \(4, 4\); \(96, 96\)"):
        compensated(weights(), torch.eye(4), scheme_named("int8"))
