"""Outliers of activations moved into weights, exactly: what comes before a product is divided channel by channel by
what the product's weights are multiplied by (Xiao et al., SmoothQuant, 2022).

Where channels can be scaled for nothing depends on the model: in decoder blocks of transformers' Llama family the norm
before q, k, v and gate, up has a weight per channel; the channels of down are the rows of up.
"""

# Submodules are typed as Tensor | Module by torch.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportOperatorIssue=false
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mtia.errors import BadProblem

_SMALLEST = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """The layers `readers` multiply channels that `writer` scales: a norm's weight [K] or a linear's [K, in]."""

    writer: str
    readers: tuple[str, ...]


def channels(model: nn.Module) -> Iterator[Channels]:
    """Every place of a Llama-like model where channels may be scaled. Raises BadProblem where there is none."""
    blocks = [name for name, module in model.named_modules() if hasattr(module, "self_attn") and hasattr(module, "mlp")]
    for name in blocks:
        attention, mlp = f"{name}.self_attn", f"{name}.mlp"
        yield Channels(writer=f"{name}.input_layernorm", readers=tuple(f"{attention}.{p}_proj" for p in "qkv"))
        yield Channels(writer=f"{name}.post_attention_layernorm", readers=(f"{mlp}.gate_proj", f"{mlp}.up_proj"))
        yield Channels(writer=f"{mlp}.up_proj", readers=(f"{mlp}.down_proj",))
    if not blocks:
        raise BadProblem("migrating outliers", argument="model", value=type(model).__name__,
                         allowed="decoder blocks with self_attn and mlp; use a recipe with migrate = 0")  # fmt: skip


def migrate(model: nn.Module, largest: Mapping[str, torch.Tensor], strength: float) -> dict[str, torch.Tensor]:
    """Channels of the model scaled in place; its function stays the same. Returns what each reader's inputs were
    divided by, float32 [K].

    The scale is largest activation ** strength / largest weight ** (1 - strength), to the nearest power of two, so that
    no weight is rounded. `largest`: by layer, float32 [K], magnitudes it was fed. `strength`: 0 to 1.
    """
    scaled = {}
    for place in channels(model):
        layers = [model.get_submodule(name) for name in place.readers]
        weights = torch.stack([layer.weight.abs().amax(0) for layer in layers]).amax(0).float().clamp_min(_SMALLEST)
        fed = largest[place.readers[0]].clamp_min(_SMALLEST)
        exponent = strength * fed.log2() - (1 - strength) * weights.log2()
        scale = torch.exp2((exponent - exponent.mean()).round())
        for layer in layers:
            layer.weight.data = (layer.weight * scale).to(layer.weight.dtype)
        writer = model.get_submodule(place.writer)
        divisor = scale if writer.weight.dim() == 1 else scale[:, None]
        writer.weight.data = (writer.weight / divisor).to(writer.weight.dtype)
        scaled |= dict.fromkeys(place.readers, scale)
    return scaled


__all__ = ["Channels", "channels", "migrate"]
