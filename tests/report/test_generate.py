"""SmolLM2 and generation: on the CPU against transformers' own generate, on the device against the CPU."""

# transformers types `generate` and `to` loosely.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportUnhashable=false
from __future__ import annotations

import pytest
import torch

from mtia.host_runtime import fallback
from mtia.report import demo, generate, smollm2

PROMPTS = ("Why is the sky blue?", "Name three fruits.", "Write a haiku about rivers.")


@pytest.fixture(scope="module")
def model():
    return smollm2.load_model()


@pytest.fixture(scope="module")
def tokenizer():
    return smollm2.load_tokenizer()


def test_dequantize_q4_1_by_hand() -> None:
    scale_min = torch.tensor([0.5, -1.0], dtype=torch.float16).view(torch.uint8)
    codes = torch.arange(16, dtype=torch.uint8) | (15 << 4)  # low halves 0 to 15, high halves 15
    stored = smollm2.StoredTensor(kind="Q4_1", shape=(1, 32), offset_bytes=0, n_bytes=20)
    weight = smollm2.dequantize(torch.cat([scale_min, codes]), stored)
    assert weight[0, :16].tolist() == [0.5 * q - 1 for q in range(16)]
    assert weight[0, 16:].tolist() == [6.5] * 16


def test_tokenizer_round_trip(tokenizer) -> None:
    text = "Hello, wörld 2024!\n  x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert demo.prompt_tokens(tokenizer, "hi")[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_padded_static_cache_gives_transformers_tokens(model, tokenizer, prompt: str) -> None:
    ids = demo.prompt_tokens(tokenizer, prompt)
    ours = list(generate.build(model, length=generate.cache_length(len(ids), 12), compile=False).tokens(ids, 12))
    theirs = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                            max_new_tokens=12, do_sample=False)  # fmt: skip
    assert theirs[0, len(ids) : len(ids) + 12].tolist() == ours[: theirs.shape[1] - len(ids)]


def test_stop_token_ends_the_answer(model, tokenizer) -> None:
    ids = demo.prompt_tokens(tokenizer, PROMPTS[0])
    generator = generate.build(model, length=64, compile=False)
    first = next(generator.tokens(ids, 1))
    assert list(generator.tokens(ids, 5, frozenset({first}))) == []


@pytest.mark.slow
def test_three_answers_on_the_device_equal_the_cpus(tokenizer) -> None:
    """The first 48 greedy tokens of three prompts in float32, compiled; no operator on the host."""
    prompts = [demo.prompt_tokens(tokenizer, p) for p in PROMPTS]
    model = smollm2.load_model()
    on_cpu = generate.build(model, length=128, compile=False)
    expected = [list(on_cpu.tokens(ids, 48)) for ids in prompts]
    model = model.to("mtia")
    model.tie_weights()
    fallback.reset()
    generator = generate.build(model, length=128, compile=True)
    assert [list(generator.tokens(ids, 48)) for ids in prompts] == expected
    assert fallback.counts() == {}


@pytest.mark.slow
def test_bfloat16_logits_agree_within_the_format(tokenizer) -> None:
    """bfloat16 keeps 8 bits: each rounding is at most 2^-9 relative, and CPU and device round in different orders over
    30 layers; against float32 the device may err no more than twice what the CPU's own bfloat16 does."""
    ids = demo.prompt_tokens(tokenizer, PROMPTS[0])

    def logits(dtype: torch.dtype, device: str) -> torch.Tensor:
        model = smollm2.load_model(dtype).to(device)
        model.tie_weights()
        generator = generate.build(model, length=64, compile=device == "mtia")
        return generator.start(ids, end="prompt_logits").float().cpu()[0, 0]

    exact, cpu, mtia = logits(torch.float32, "cpu"), logits(torch.bfloat16, "cpu"), logits(torch.bfloat16, "mtia")
    cpu_error, mtia_error = ((x - exact).norm() / exact.norm() for x in (cpu, mtia))
    assert mtia_error <= 2 * cpu_error and mtia_error < 0.05
    assert exact.argmax() == mtia.argmax()
