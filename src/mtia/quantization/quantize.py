"""`mtia.quantize(model, plan)`: every linear layer that the plan names, in its scheme; calibration of static scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    name: str
    scheme: str
    weight_bytes: int


def quantize(model: nn.Module, plan: str | Mapping[str, str] | Plan) -> nn.Module:
    """The model with its `nn.Linear` layers in the plan's formats, in place; it is returned too.

    `plan`: a scheme's name for all ("fp8"), or a mapping from glob patterns over module names to names, the first match
    counts ({"lm_head": "bf16", "*.down_proj": "mx8", "*": "mx4"}); layers that nothing matches stay as they are.
    Works before or after the model moves to the device; tied weights are no longer tied where one of them is quantised.
    Raises BadProblem for an unknown scheme, and for a pattern that matches no linear layer.
    """
    plan = Plan.of(plan)
    layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    unused = plan.unused(layers)
    if unused:
        raise BadProblem(
            "quantisation plan", argument="pattern", value=unused[0],
            allowed=f"it matches no linear layer; there are {', '.join(layers[:6]) or 'none'}"
            f"{', ...' if len(layers) > 6 else ''}",
        )  # fmt: skip
    for name in layers:
        scheme = plan.scheme_for(name)
        if scheme is not None and scheme.weight != "bf16":
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], QuantisedLinear(model.get_submodule(name), scheme))  # type: ignore
    return model


def summary(model: nn.Module) -> list[LayerSummary]:
    """Every linear layer, quantised or not, and the bytes of its weights."""
    out = []
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            out.append(LayerSummary(name=name, scheme=module.scheme.name, weight_bytes=module.weight_bytes))
        elif type(module) is nn.Linear:
            kind = str(module.weight.dtype).removeprefix("torch.")
            out.append(LayerSummary(name=name, scheme=kind, weight_bytes=module.weight.nbytes))
    return out


def calibrate(model: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module:
    """Sets the static scales: `run(model)` feeds it examples, and each static layer's scale becomes the largest
    magnitude that it saw / 127. Raises BadProblem where a static layer saw nothing."""
    static = {n: m for n, m in model.named_modules() if isinstance(m, QuantisedLinear) and m.scheme.static}
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(layer: nn.Module, arguments: tuple) -> None:
            largest = arguments[0].detach().abs().amax().float()
            seen[name] = torch.maximum(seen[name], largest) if name in seen else largest
            layer.x_scale = torch.clamp_min(seen[name], 1e-12) / 127.0  # type: ignore[assignment]

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in static.items()]
    try:
        with torch.no_grad():
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    missed = [name for name in static if name not in seen]
    if missed:
        raise BadProblem("calibrating", argument="layer", value=missed[0], allowed="the examples must reach each layer")
    return model


__all__ = ["LayerSummary", "calibrate", "quantize", "summary"]
