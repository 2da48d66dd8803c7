"""Recipes: migration leaves the function, shifts and wide inputs are given back, files, search, sensitivities."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import mtia
from mtia.errors import BadProblem
from mtia.quantization.calibration import Inputs, Moments, add_moments, fed
from mtia.quantization.emulation import EmulatedLinear, emulate
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.migration import migrate
from mtia.quantization.plan import Plan
from mtia.quantization.recipe import RECIPES, Prepared, Recipe, apply, shaped
from mtia.quantization.schemes import scheme_named
from mtia.quantization.search import Choice, allotted, by_kind, search
from mtia.quantization.sensitivity import sensitivities
from mtia.report import generate

FULL = Recipe(plan=Plan.of({"lm_head": "bf16", "*": "int8"}), migrate=0.5, shift=True, compensate=True,
              wide={"*.down_proj": 3})  # fmt: skip


def model() -> LlamaForCausalLM:
    """Two small layers, with outliers and means as trained models have them."""
    torch.manual_seed(0)
    built = LlamaForCausalLM(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64)).eval().requires_grad_(False)  # fmt: skip
    for name, p in built.named_parameters():
        p.data *= 6 if p.dim() == 2 else 1
        if name.endswith("layernorm.weight"):
            p.data[3] = 40.0
    built.model.embed_tokens.weight.data[:, 3] += 4.0
    return built


def tokens(n: int = 6) -> torch.Tensor:
    return torch.randint(0, 64, (n, 24), generator=torch.Generator().manual_seed(2))


def run(m: nn.Module) -> None:
    m(tokens())


def logits(m: nn.Module, given: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return m(tokens(2) if given is None else given).logits


def test_migration_leaves_the_function_and_rounds_no_weight() -> None:
    base, moved = model(), model()
    inputs = fed(moved, run)
    scales = migrate(moved, {name: i.largest for name, i in inputs.items()}, 0.5)
    torch.testing.assert_close(logits(moved), logits(base), rtol=1e-4, atol=1e-4)
    assert set(scales) == {n for n in inputs if n != "lm_head" and "o_proj" not in n}
    assert all(torch.equal(torch.frexp(s).mantissa, torch.full_like(s, 0.5)) for s in scales.values())
    after, name = fed(moved, run), "model.layers.0.self_attn.q_proj"
    torch.testing.assert_close(after[name].largest, inputs[name].divided(scales[name]).largest, rtol=1e-4, atol=1e-4)
    spread = [(i.largest.amax() / i.largest.median()) for i in (inputs[name], after[name])]
    assert spread[1] <= 0.5 * spread[0]


def test_migration_asks_for_decoder_blocks() -> None:
    with pytest.raises(BadProblem, match="model = 'Sequential'; decoder blocks with self_attn and mlp"):
        migrate(nn.Sequential(nn.Linear(4, 4)), {}, 0.5)


def test_layers_fed_one_tensor_share_what_is_known_of_it() -> None:
    found = fed(model(), run)
    q, k, gate = (found[f"model.layers.1.{n}_proj"] for n in ("self_attn.q", "self_attn.k", "mlp.gate"))
    assert q is k and q is not gate and q.n_rows == tokens().numel()


def test_moments_are_those_of_the_rounded_rows() -> None:
    x = torch.randn(50, 8)
    layer = nn.Sequential(nn.Linear(8, 4))
    held = Moments(lambda rows: rows.round())
    add_moments(layer, lambda m: m(x), {"0": held})
    torch.testing.assert_close(held.sum, x.round().T @ x.round())
    seen = Inputs()
    seen.add(x)
    torch.testing.assert_close(seen.variance, x.var(0, unbiased=False), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.largest, (x - x.mean(0)).abs().amax(0))


@pytest.mark.parametrize("scheme", ["int8", "fp8", "mx4"])
def test_a_shift_and_wide_inputs_lose_less(scheme: str) -> None:
    """Rows about a mean, and one input far larger than the rest."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 32), torch.randn(200, 64) + 5.0
    x[:, 7] *= 50.0
    exact, held = layer(x).detach(), scheme_named(scheme)

    @torch.no_grad()
    def error(**corrections: torch.Tensor) -> float:
        return float((QuantisedLinear(layer, held, **corrections)(x) - exact).norm() / exact.norm())  # type: ignore[arg-type]

    plain, shifted = error(), error(shift=x.mean(0))
    both = error(shift=x.mean(0), wide=torch.tensor([7]))
    assert both < shifted < plain and both < 0.5 * plain


def test_the_device_computes_a_corrected_layer() -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 64) + 3.0
    host = QuantisedLinear(nn.Linear(64, 32), scheme_named("int8"), shift=x.mean(0), wide=torch.tensor([1, 9]))
    with mtia.use("mtia400"), torch.no_grad():
        got = copy.deepcopy(host).to("mtia")(x.to("mtia"))
    torch.testing.assert_close(got.cpu(), host(x), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(EmulatedLinear(host)(x), host(x), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["int8", "fp8", "mx8:fit"])
def test_the_device_computes_the_emulated_model(scheme: str) -> None:
    """In float32 between layers; a rounding that falls the other way after a sum in another order moves a logit by less
    than a tenth of what the format itself does."""
    base, host = logits(model()), mtia.quantize(model(), scheme)
    with mtia.use("mtia400"), torch.no_grad():
        got = copy.deepcopy(host).to("mtia")(tokens(2).to("mtia")).logits.cpu()
    emulated = logits(emulate(host))
    assert (got - emulated).norm() < 0.1 * (emulated - base).norm()


def test_a_recipe_loses_less_than_its_plan_alone() -> None:
    base = logits(model())
    plain = logits(apply(Recipe(plan=FULL.plan), model()))
    best = logits(apply(FULL, model(), run))
    assert (best - base).norm() < 0.7 * (plain - base).norm()


def test_a_checkpoint_with_corrections_loads_into_a_model_without_examples() -> None:
    saved = apply(FULL, model(), run)
    fresh = shaped(FULL, model())
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(logits(fresh), logits(saved))
    plain = mtia.quantize(model(), FULL.plan)
    plain.load_state_dict(saved.state_dict())
    assert torch.equal(logits(plain), logits(saved))


def test_a_cast_keeps_what_was_taken_off_equal_to_what_is_given_back() -> None:
    layer = apply(FULL, model(), run).to(torch.bfloat16).get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, QuantisedLinear) and layer.shift is not None and layer.bias is not None
    assert layer.shift.dtype is torch.bfloat16 and layer.bias.dtype is torch.float32
    again = layer.shift.float()
    assert torch.equal(again.to(torch.bfloat16).float(), again)


def test_files_hold_recipes(tmp_path: Path) -> None:
    path = FULL.save(tmp_path / "r.json")
    assert Recipe.load(path) == FULL
    (tmp_path / "x.json").write_text('{"plan": {"*": "int8"}, "shft": true}')
    with pytest.raises(BadProblem, match="field = 'shft'; known: plan, migrate"):
        Recipe.load(tmp_path / "x.json")
    with pytest.raises(BadProblem, match=r"No such file.*`mtia quality --search` writes one"):
        Recipe.load(tmp_path / "none.json")
    with pytest.raises(BadProblem, match=r"it is calibrated; give run\(model\)"):
        apply(FULL, model())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda p: p.stem)
def test_recipes_of_the_package_load_and_say_what_share_is_low(path: Path) -> None:
    assert Recipe.load(path).made["low_frac"] >= 0.5


def test_sensitivities_add_up_to_the_divergence() -> None:
    """Second order and independence: the sum over layers is the measured divergence within a factor of two."""
    base, given = model(), tokens(8)
    prepared = Prepared(base, 0.0, run)
    stand_ins = {n: EmulatedLinear(prepared.layer(n, scheme_named("int8"), shift=False)) for n in prepared.layers}
    estimate = sum(s.divergence_nats for s in sensitivities(base, stand_ins, given))
    exact = torch.log_softmax(logits(base, given), -1)
    low = torch.log_softmax(logits(emulate(mtia.quantize(model(), "int8")), given), -1)
    measured = float((exact.exp() * (exact - low)).sum(-1).mean())
    assert 0.5 < estimate / measured < 2


def test_choices_are_taken_by_most_saved_for_a_multiply() -> None:
    def choice(n: int, mac: float, nats: float) -> Choice:
        return Choice(n_wide=n, n_mac_wide=mac, divergence_nats=nats)

    choices = {"a": [choice(0, 0, 1.0), choice(1, 1, 0.2), choice(9, 9, 0.0)],
               "b": [choice(0, 0, 3.0), choice(9, 9, 0.0)]}  # fmt: skip
    assert {n: c.n_wide for n, c in allotted(choices, 0).items()} == {"a": 0, "b": 0}
    assert {n: c.n_wide for n, c in allotted(choices, 1).items()} == {"a": 1, "b": 0}
    assert {n: c.n_wide for n, c in allotted(choices, 10).items()} == {"a": 1, "b": 9}
    assert {n: c.n_wide for n, c in allotted(choices, 18).items()} == {"a": 9, "b": 9}
    assert {n: c.n_wide for n, c in allotted(choices, 18, least_nats=0.9).items()} == {"a": 9, "b": 9}
    assert {n: c.n_wide for n, c in allotted(choices, 18, least_nats=1.5).items()} == {"a": 0, "b": 9}


def test_kinds_add_up_their_layers() -> None:
    held = [Choice(n_wide=n, n_mac_wide=2.0 * n, divergence_nats=1.0 - n) for n in (0, 1)]
    kinds = by_kind({"a.0.up": held, "a.1.up": held, "head": held})
    assert list(kinds) == ["*.up", "head"] and kinds["head"] == held
    assert [(c.n_wide, c.n_mac_wide, c.divergence_nats) for c in kinds["*.up"]] == [(0, 0, 2), (1, 4, 0)]


@pytest.mark.parametrize("alike", [True, False])
def test_search_keeps_the_share_and_lowers_the_divergence(alike: bool) -> None:
    found = search(model(), "mx4", tokens(4), run, low_frac=0.8, alike=alike)
    assert all(("*" in pattern) == alike for pattern in found.recipe.wide if pattern != "lm_head")
    assert 0.8 <= found.low_frac < 1 and found.divergence_nats < found.plain_nats
    assert found.recipe.made["low_frac"] == pytest.approx(found.low_frac, abs=1e-3)
    apply(found.recipe, model(), run)
    with pytest.raises(BadProblem, match=r"low_frac = 1\.5; 0 to 1"):
        search(model(), "mx4", tokens(1), run, low_frac=1.5)


def test_a_model_with_a_quantised_head_generates() -> None:
    low = shaped(Recipe(plan=Plan.of("int8"), shift=True, wide={"lm_head": 4}), model())
    assert isinstance(low, LlamaForCausalLM)
    assert list(generate.build(low, length=64, compile=False).tokens([1, 2, 3], 2)) != []
