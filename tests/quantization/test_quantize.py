"""Quantised linear layers: the device against the host's definition, plans, checkpoints, errors."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import mtia
from mtia import knobs
from mtia.engine.functional import executor
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.quantization.cache import KeyValueCache
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.plan import Plan
from mtia.quantization.quantize import calibrate, summary
from mtia.quantization.schemes import SCHEMES, scheme_named

LOW = [name for name in SCHEMES if name != "bf16"]
BITS = {"int8": 8, "fp8": 8, "mx8": 8.5, "mx8s": 8.03125, "mx4": 4.5, "mxfp8": 8.25, "mxfp4": 4.25}


def layer(k: int = 96, n: int = 48, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(k, n, bias=bias)


def inputs(k: int = 96, rows: int = 40) -> torch.Tensor:
    return torch.randn(2, rows // 2, k, generator=torch.Generator().manual_seed(1))


def quantised(name: str, source: nn.Module) -> nn.Module:
    model = mtia.quantize(nn.Sequential(copy.deepcopy(source)), name)
    return calibrate(model, lambda m: m(inputs())) if scheme_named(name).static else model


@pytest.mark.parametrize("name", LOW)
def test_the_device_computes_the_definition(name: str) -> None:
    """Same codes, sums in float32 beside float64: equal to a few units of float32."""
    host = quantised(name, layer())
    expected = host(inputs())
    with mtia.use("mtia400"), torch.no_grad():
        before = mtia.host_fallbacks()
        got = copy.deepcopy(host).to("mtia")(inputs().to("mtia"))
        assert mtia.host_fallbacks() == before
    torch.testing.assert_close(got.cpu(), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", LOW)
def test_quantised_on_the_device_or_the_host_is_the_same_model(name: str) -> None:
    source = layer()
    with mtia.use("mtia400"):
        there = mtia.quantize(nn.Sequential(copy.deepcopy(source).to("mtia")), name)
        here = mtia.quantize(nn.Sequential(source), name)
        assert torch.equal(there[0].codes.cpu(), here[0].codes)  # type: ignore[index]
        assert torch.equal(there[0].scale.cpu(), here[0].scale)  # type: ignore[index]


@pytest.mark.parametrize("name", LOW)
def test_the_native_executor_gives_the_interpreters_bits(name: str) -> None:
    host = quantised(name, layer())
    with mtia.use("mtia400"), torch.no_grad():
        model, x = copy.deepcopy(host).to("mtia"), inputs().to("mtia")
        before = executor.counts.copy()
        native = model(x).cpu()
        assert (executor.counts - before)["interpreted"] == 0
        with knobs.scope(interpret=True):
            assert torch.equal(model(x).cpu(), native)


@pytest.mark.parametrize("name", LOW)
def test_error_is_that_of_the_narrowest_format(name: str) -> None:
    """Relative to the exact layer: below 1 % for 8-bit formats but below 4 % for E4M3's 3 mantissa bits, 20 % for 4."""
    source, scheme = layer(bias=False), scheme_named(name)
    exact = source(inputs())
    error = (quantised(name, source)(inputs()) - exact).norm() / exact.norm()
    limit = 0.2 if "mx4" in name or name == "mxfp4" else 0.015 if "int8" in scheme.weight else 0.045
    limit = 0.09 if scheme.weight == "mxfp6e3m2" else limit  # two mantissa bits
    assert 0 < error < limit


@pytest.mark.parametrize("name", ["int8", "fp8", "mx8", "mx8s", "mx4", "mxfp8", "mxfp4"])
def test_weights_take_the_formats_bits(name: str) -> None:
    (held,) = summary(mtia.quantize(nn.Sequential(layer(128, 64)), name))
    row_scales = 4 * 64 if name in ("int8", "fp8") else 0
    assert held.weight_bytes == 128 * 64 * BITS[name] / 8 + row_scales


def test_a_depth_that_is_no_multiple_of_the_block_is_padded() -> None:
    source = layer(70, 24)
    host = mtia.quantize(nn.Sequential(copy.deepcopy(source)), "mx8")
    with mtia.use("mtia450"), torch.no_grad():
        got = copy.deepcopy(host).to("mtia")(inputs(70).to("mtia"))
    torch.testing.assert_close(got.cpu(), host(inputs(70)), atol=2e-5, rtol=1e-5)


def block() -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = {f"layer{i}": nn.ModuleDict({n: nn.Linear(32, 32) for n in ("up", "down")}) for i in range(2)}
    return nn.ModuleDict({**parts, "head": nn.Linear(32, 8)})


def test_a_plan_names_each_layer_by_its_first_match() -> None:
    model = mtia.quantize(block(), {"head": "bf16", "*.down": "mx8", "layer1.*": "fp8"})
    schemes = {s.name: s.scheme for s in summary(model)}
    assert schemes == {"layer0.up": "float32", "layer0.down": "mx8", "layer1.up": "fp8", "layer1.down": "mx8",
                       "head": "float32"}  # fmt: skip
    text = "head=bf16,*.down=mx8,layer1.*=fp8"
    assert str(Plan.of(text)) == text and str(Plan.of("mx4")) == "mx4"


def test_checkpoints_save_and_load() -> None:
    plan = {"head": "int8", "*.down": "mx4", "*": "fp8-weight"}
    model = mtia.quantize(block(), plan)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    torch.manual_seed(9)
    fresh = mtia.quantize(nn.ModuleDict({k: copy.deepcopy(v) for k, v in block().items()}), plan)
    for p in fresh.buffers():
        p.zero_()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 32)
    for name in ("layer0.up", "layer1.down", "head"):
        assert torch.equal(fresh.get_submodule(name)(x), model.get_submodule(name)(x))


def test_a_checkpoint_of_another_plan_is_refused() -> None:
    saved = mtia.quantize(nn.Sequential(layer()), "mx8").state_dict()
    with pytest.raises(Exception, match="scheme = 'mx8'; the layer's own, fp8; quantize the model with the plan"):
        mtia.quantize(nn.Sequential(layer()), "fp8").load_state_dict(saved)


def test_casting_a_model_leaves_codes_and_scales() -> None:
    model = mtia.quantize(nn.Sequential(layer()), "fp8")
    held = model[0].scale.clone()  # type: ignore[index]
    model.to(torch.bfloat16)
    assert torch.equal(model[0].scale, held) and model[0].bias.dtype is torch.bfloat16  # type: ignore[index]
    assert model(inputs().to(torch.bfloat16)).dtype is torch.bfloat16


def test_compiled_is_eager() -> None:
    with mtia.use("mtia400"), torch.no_grad():
        model = mtia.quantize(nn.Sequential(layer(), nn.ReLU(), nn.Linear(48, 32)).to("mtia"), "mx8")
        x = inputs().to("mtia")
        assert torch.equal(torch.compile(model)(x).cpu(), model(x).cpu())


REFUSED = ("fp8", "mx8", "mx8s", "mx4", "mxfp8", "mxfp4", "mx4-mx8")
"""Schemes with formats that MTIA 100 and 200 neither multiply nor convert to."""


@pytest.mark.parametrize("chip", ["mtia100", "mtia200"])
@pytest.mark.parametrize("name", [n for n in LOW if n != "fp8-weight"])
def test_older_chips_run_a_scheme_or_say_why_not(name: str, chip: str) -> None:
    host = quantised(name, layer())
    with mtia.use(chip), torch.no_grad():
        model, x = copy.deepcopy(host).to("mtia"), inputs().to("mtia")
        if name in REFUSED:
            said = rf"{chip} has no (fp8|mx4|mx8).*since MTIA (300|400)\. In software: keep .* [\d.]+ T/s elements.* multiply at"
            with pytest.raises(UnsupportedDtype, match=said):
                model(x)
        else:
            torch.testing.assert_close(model(x).cpu(), host(inputs()), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("chip", ["mtia100", "mtia200"])
def test_older_chips_refuse_scaled_products_and_8_bit_caches(chip: str) -> None:
    said = rf"{chip} has no fp8; it supports bf16, fp16, int8\. fp8 is supported since MTIA 300\. In software: keep fp8"
    with mtia.use(chip):
        x = torch.zeros(32, 32, dtype=torch.uint8, device="mtia").view(torch.float8_e4m3fn)
        one = torch.ones(1, device="mtia")
        with pytest.raises(UnsupportedDtype, match=said):
            torch._scaled_mm(x, x.t(), one, one, out_dtype=torch.bfloat16)  # pyright: ignore[reportPrivateImportUsage]
        cache = KeyValueCache(batch=1, heads=1, tokens=4, head_dim=16)
        k = torch.zeros(1, 1, 2, 16, device="mtia")
        with pytest.raises(UnsupportedDtype, match=said):
            cache.update(k, k)


def test_errors_name_what_is_known() -> None:
    with pytest.raises(BadProblem, match="format = 'mx5'; known: bf16, int8"):
        mtia.quantize(nn.Sequential(layer()), "mx5")
    with pytest.raises(
        BadProblem, match="no generation's engine multiplies it, so weights alone: mxint8-weight; known"
    ):
        mtia.quantize(nn.Sequential(layer()), "mxint8")
    with pytest.raises(BadProblem, match=r"use kernels.quantise_mx and F.scaled_mm; known"):
        mtia.quantize(nn.Sequential(layer()), "nvfp4")
    with pytest.raises(BadProblem, match=r"pattern = '\*.gate'; it matches no linear layer; there are 0"):
        mtia.quantize(nn.Sequential(layer()), {"*.gate": "fp8"})
    with pytest.raises(BadProblem, match="layer = '0'; the examples must reach each layer"):
        calibrate(mtia.quantize(nn.Sequential(layer()), "int8-static"), lambda m: None)
    model = mtia.quantize(nn.Sequential(layer()), "mx4")
    assert isinstance(model[0], QuantisedLinear)  # type: ignore[index]
    with mtia.use("mtia200"), pytest.raises(UnsupportedDtype, match=r"mtia200 has no mx4.*since MTIA 400.*In software"):
        model.to("mtia")(inputs().to("mtia"))
