"""What is asked for by name, and what is refused."""

from __future__ import annotations

import pytest
import torch

from mtia.architectures.configs import ARCHITECTURES, build
from mtia.architectures.result import Unit
from mtia.architectures.units import units
from mtia.errors import BadProblem


def test_at_least_25_architectures_of_every_kind() -> None:
    assert len(ARCHITECTURES) >= 25
    families = {a.family for a in ARCHITECTURES.values()}
    assert {"text decoder", "mixture of experts", "text encoder", "encoder-decoder", "vision", "audio",
            "state space"} <= families  # fmt: skip


def test_units_by_wildcard_in_the_order_of_the_table() -> None:
    assert units(["gpt*"], ["float32", "bfloat16"]) == [
        Unit("gpt2", "float32"), Unit("gpt_neox", "float32"), Unit("gpt2", "bfloat16"), Unit("gpt_neox", "bfloat16"),
    ]  # fmt: skip
    assert [u.name for u in units()] == list(ARCHITECTURES)


def test_a_name_that_matches_nothing_is_refused() -> None:
    with pytest.raises(BadProblem, match=r"'lama'; no architecture is called that. Did you mean 'llama'\?"):
        units(["lama"])


def test_a_dtype_without_a_tolerance_is_refused() -> None:
    with pytest.raises(BadProblem, match="'int8'; known: float32, bfloat16, float16"):
        units(["llama"], ["int8"])


@pytest.mark.parametrize("name", ["llama", "vit", "wav2vec2"])
def test_weights_and_inputs_are_the_same_every_time(name: str) -> None:
    (model, inputs), (other, others) = build(name, training=True), build(name, training=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert torch.equal(model(**inputs).loss, other(**others).loss)
    assert torch.equal(model(**inputs).loss, other(**others).loss)  # no dropout: training mode repeats itself


def test_without_labels_in_evaluation_mode() -> None:
    model, inputs = build("llama")
    assert not model.training and "labels" not in inputs
