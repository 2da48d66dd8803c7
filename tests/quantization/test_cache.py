"""Keys and values in 8 bits: the device writes the definition's bytes, attention is near float64's, time is bytes'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mtia
from mtia import knobs
from mtia.engine.functional import executor
from mtia.errors import BadProblem, KernelAssertion
from mtia.host_runtime import silicon
from mtia.host_runtime.launch import residency_of
from mtia.host_runtime.record import session
from mtia.quantization.cache import FORMATS, KeyValueCache, numbers
from mtia.units import fs_to_s

B, H, G, S, D = 2, 3, 2, 600, 48


def tokens(n: int, heads: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(B, heads, n, D, generator=torch.Generator().manual_seed(seed)).to(dtype)


def filled(form: str, device: str, parts: tuple[int, ...], dtype: torch.dtype) -> tuple[KeyValueCache, torch.Tensor]:
    """A cache written in parts, and the last part's attention."""
    cache = KeyValueCache(batch=B, heads=H, tokens=S, head_dim=D, form=form, device=device)
    out = torch.empty(0)
    for i, n in enumerate(parts):
        cache.update(tokens(n, H, 2 * i, dtype).to(device), tokens(n, H, 2 * i + 1, dtype).to(device))
        out = cache.attend(tokens(n, H * G, 90 + i, dtype).to(device))
    return cache, out.cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parts", [(70,), (300, 1), (5, 3, 1)], ids=str)
@pytest.mark.parametrize("form", FORMATS)
def test_the_device_is_the_definition(form: str, parts: tuple[int, ...], dtype: torch.dtype) -> None:
    """Bytes and scales are equal; attention of them differs from float64's by roundings of its own type."""
    with mtia.use("mtia400"):
        before = mtia.host_fallbacks()
        there, got = filled(form, "mtia", parts, dtype)
        assert mtia.host_fallbacks() == before
    here, expected = filled(form, "cpu", parts, dtype)
    for a, b in zip((there.keys, there.values, *there.scales), (here.keys, here.values, *here.scales), strict=True):
        assert torch.equal(a.cpu(), b)
    tolerance = 2e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", FORMATS)
def test_error_is_that_of_three_mantissa_bits(form: str) -> None:
    """Against attention of the exact numbers in float64: half a step of E4M3 (1/16) bounds each key and value, and the
    results too: errors of keys move weights by as much, those of values are averaged, both at random."""
    cache, got = filled(form, "cpu", (200,), torch.float32)
    for held, scale, exact in zip((cache.keys, cache.values), cache.scales, (0, 1), strict=True):
        x = tokens(200, H, exact).double()
        stored = numbers(held, scale)[:, :, :200]
        assert ((stored - x).abs() <= x.abs() / 16 + x.abs().amax() * 2**-10).all()
    q, k, v = tokens(200, H * G, 90), tokens(200, H, 0), tokens(200, H, 1)
    wide = torch.nn.functional.scaled_dot_product_attention(
        q.double(), k.double().repeat_interleave(G, 1), v.double().repeat_interleave(G, 1), is_causal=True
    )
    error = (got - wide).norm() / wide.norm()
    assert 0.001 < error < 1 / 16


@pytest.mark.parametrize("form", FORMATS)
def test_interpreter_and_native_executor_agree(form: str) -> None:
    with mtia.use("mtia400"):
        before = executor.counts.copy()
        _, native = filled(form, "mtia", (20, 1), torch.bfloat16)
        assert (executor.counts - before)["interpreted"] == 0
        with knobs.scope(interpret=True):
            _, defined = filled(form, "mtia", (20, 1), torch.bfloat16)
    assert torch.equal(native, defined)


def test_a_scale_that_is_given_is_kept_and_saturates() -> None:
    one = torch.ones(H)
    cache = KeyValueCache(batch=B, heads=H, tokens=S, head_dim=D, device="cpu", scale=(one, one))
    x = torch.full((B, H, 1, D), 1000.0)
    cache.update(x, x)
    assert (numbers(cache.keys, cache.scales[0])[:, :, 0] == 448).all() and torch.equal(cache.scales[1], one)


@pytest.mark.parametrize(("form", "bits"), [("fp8", 8), ("mx8", 8.5)])
def test_decode_takes_its_bytes(form: str, bits: float, tmp_path: Path) -> None:
    """32768 tokens of 8 sequences on MTIA 450: each byte is read once, at more than 80 % of what HBM gives."""
    batch, heads, room, dim = 8, 8, 32768, 128
    with knobs.scope(cache_dir=tmp_path), silicon.use("mtia450") as spec:
        with knobs.scope(values=False):
            cache = KeyValueCache(batch=batch, heads=heads, tokens=room, head_dim=dim, form=form)
        cache.seen = torch.tensor(room).to("mtia")
        with knobs.scope(values=False):
            q = torch.empty(batch, 4 * heads, 1, dim, dtype=torch.bfloat16, device="mtia")
            cache.attend(q)
            residency_of(0, spec).clear()
            with session() as done:
                cache.attend(q)
        timing = done.spans[0].work.timing
    assert timing is not None
    expected = 2 * batch * heads * room * dim * bits / 8
    assert timing.dram_read_bytes == pytest.approx(expected, rel=0.01)
    assert expected / fs_to_s(timing.makespan_fs) > 0.8 * spec.dram.bytes_per_s * spec.dram.efficiency_frac


def test_errors_say_what_fits() -> None:
    def make(**changes: object) -> KeyValueCache:
        return KeyValueCache(**{**dict(batch=B, heads=H, tokens=4, head_dim=D, device="cpu"), **changes})  # type: ignore[arg-type]

    with pytest.raises(BadProblem, match="format = 'mx4'; known: fp8, mx8"):
        make(form="mx4")
    with pytest.raises(BadProblem, match="head_dim = 40; a multiple of 16 for mx8"):
        make(form="mx8", head_dim=40)
    with pytest.raises(BadProblem, match="tokens = 5; at most 4"):
        make().update(tokens(5, H, 0), tokens(5, H, 1))
    with pytest.raises(BadProblem, match=r"shape = .*\[2, 3, new tokens, 48\]"):
        make().update(tokens(2, H + 1, 0), tokens(2, H + 1, 1))


# --- transformers -----------------------------------------------------------------------------------------------------


def small_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
        )
    ).eval()


@pytest.mark.parametrize("form", FORMATS)
def test_a_model_of_transformers_runs_on_it(form: str) -> None:
    """Prompt and one more token through an 8-bit static cache, near the exact model; `generate` too."""
    from mtia.quantization.static_cache import static_cache

    model = small_llama()
    ids = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), mtia.use("mtia400"):
        exact = model(ids).logits
        before = mtia.host_fallbacks()
        held, x = model.to("mtia"), ids.to("mtia")
        cache = static_cache(held, tokens=16, form=form)
        parts = [held(part, cache=cache, use_cache=True).logits for part in (x[:, :11], x[:, 11:])]
        assert int(cache.get_seq_length()) == 12
        got = torch.cat(parts, 1).cpu()
        assert mtia.host_fallbacks() == before
        cache.reset()
        assert held.generate(x, cache=cache, max_new_tokens=3, do_sample=False).shape == (1, 15)
        with pytest.raises(KernelAssertion, match="more tokens than the cache has room for"):
            held(x, cache=cache, use_cache=True)
            torch.mtia.synchronize()
    assert (got - exact).norm() / exact.norm() < 0.04


def test_static_cache_refuses_what_it_has_not() -> None:
    from mtia.quantization.static_cache import static_cache

    model = small_llama()
    with pytest.raises(BadProblem, match=r"'mx4', 'StaticLayer'.*fp8 or mx8, and layers that attend to all tokens"):
        static_cache(model, tokens=8, form="mx4")
    static_cache(model, tokens=8)
    with pytest.raises(BadProblem, match="the cache that static_cache"):
        model(torch.zeros(1, 2, dtype=torch.int64), use_cache=False)
