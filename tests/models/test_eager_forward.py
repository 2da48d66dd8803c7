"""Eager forward passes on the device against the host: equal outputs, no operator on the host."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import mtia
from mtia.architectures.configs import build, moved

SIX = ("llama", "gpt2", "bert", "t5", "mixtral", "vit")


def first_tensor(output: Any) -> torch.Tensor:
    return next(v for v in output.values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("name", SIX)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward(name: str, dtype: torch.dtype) -> None:
    model, inputs = build(name)
    with torch.no_grad():
        expected = first_tensor(model(**inputs))
        device_model = copy.deepcopy(model).to(dtype).to("mtia")
        before = mtia.host_fallbacks()
        output = first_tensor(device_model(**moved(inputs, dtype, "mtia")))
        after = mtia.host_fallbacks()
    assert after == before, {k: v for k, v in after.items() if before.get(k) != v}
    tolerance = 1e-5 if dtype == torch.float32 else 6e-2
    torch.testing.assert_close(output.float().cpu(), expected, atol=tolerance, rtol=tolerance)


def test_greedy_decode_with_a_static_cache() -> None:
    model, inputs = build("llama")
    options = dict(max_new_tokens=6, do_sample=False, cache_implementation="static", disable_compile=True)
    generate: Any = model.generate
    expected = generate(inputs["input_ids"], **options)
    generate = copy.deepcopy(model).to("mtia").generate
    before = mtia.host_fallbacks()
    got = generate(inputs["input_ids"].to("mtia"), **options)
    after = mtia.host_fallbacks()
    assert after == before, {k: v for k, v in after.items() if before.get(k) != v}
    assert torch.equal(got.cpu(), expected)


def test_sentence_embedding() -> None:
    """A MiniLM-style encoder: mean over real tokens, unit length."""
    model, inputs = build("bert")

    def embed(m: torch.nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
        base: Any = m.base_model
        hidden = base(**given).last_hidden_state
        weight = given["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9), dim=1)

    with torch.no_grad():
        expected = embed(model, inputs)
        before = mtia.host_fallbacks()
        got = embed(copy.deepcopy(model).to("mtia"), {k: v.to("mtia") for k, v in inputs.items()})
        assert mtia.host_fallbacks() == before
    torch.testing.assert_close(got.cpu(), expected, atol=1e-5, rtol=1e-5)
