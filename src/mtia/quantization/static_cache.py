"""transformers' static cache with keys and values in 8 bits.

    model = LlamaForCausalLM(...).to("mtia")
    cache = static_cache(model, tokens=1024, form="mx8")     # in place of StaticCache; sets the model's attention
    out = model.generate(**inputs, cache=cache)

A layer's `update` writes the new tokens in 8 bits and hands the cache on in place of keys and values; the model's
attention function, which transformers looks up by name, reads it. Attention is causal: prompts must not be padded.
"""

# transformers is imported where a cache is made; its own annotations are unions of all kinds.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from mtia.errors import BadProblem
from mtia.quantization.cache import FORMATS, KeyValueCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, StaticCache

ATTENTION = "mtia_8bit_cache"


def attention(
    module: torch.nn.Module, query: torch.Tensor, key: Any, value: Any, attention_mask: torch.Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """What transformers calls: query [batch, heads, tokens, head dim], a cache in place of keys and values."""
    if not isinstance(key, KeyValueCache):
        raise BadProblem(
            "attention over an 8-bit cache", argument="cache", value=type(key).__name__,
            allowed="the cache that static_cache(model, ...) made; model.set_attn_implementation('sdpa') undoes it",
        )  # fmt: skip
    if attention_mask is not None or dropout:
        raise BadProblem(
            "attention over an 8-bit cache", argument="attention_mask or dropout",
            value=None if attention_mask is None else tuple(attention_mask.shape),
            allowed="none: attention is causal over all tokens; give prompts of one length, without padding",
        )  # fmt: skip
    return key.attend(query, scale=scaling).transpose(1, 2), None


def static_cache(model: PreTrainedModel, *, tokens: int, form: str = "fp8", batch: int = 1) -> StaticCache:
    """A StaticCache for `model` with room for `tokens`, whose layers hold keys and values in `form` (fp8, mx8).

    Sets the model's attention function to one that reads them. Raises BadProblem for an unknown form, and for a model
    with layers of sliding windows.
    """
    from transformers import StaticCache
    from transformers.cache_utils import StaticLayer
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = model.config.get_text_config(decoder=True)
    plain = StaticCache(config=config, max_cache_len=tokens)
    if form not in FORMATS or any(type(layer) is not StaticLayer for layer in plain.layers):
        kinds = sorted({type(layer).__name__ for layer in plain.layers})
        raise BadProblem(
            "an 8-bit static cache", argument="form, layers", value=(form, *kinds),
            allowed=f"{' or '.join(FORMATS)}, and layers that attend to all tokens (StaticLayer)",
        )  # fmt: skip
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = dict(batch=batch, heads=config.num_key_value_heads, tokens=tokens, head_dim=head_dim)
    plain.layers = [_layer(StaticLayer, KeyValueCache(**shape, form=form, device=model.device)) for _ in plain.layers]
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention)
    model.set_attn_implementation(ATTENTION)
    return plain


def _layer(base: type, held: KeyValueCache) -> Any:
    """A layer of `base`'s kind over `held`: its keys, values and length are the held ones."""

    class EightBitLayer(base):
        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
            held.append(key_states, value_states)
            return held, held

        def reset(self) -> None:
            held.reset()

    layer = EightBitLayer(held.shape[2])
    layer.keys, layer.values, layer.cumulative_length = held.keys, held.values, held.seen
    layer.device, layer.is_initialized = held.keys.device, True
    layer.batch_size, layer.num_heads = held.shape[:2]
    layer.k_head_dim = layer.v_head_dim = held.shape[3]
    return layer


__all__ = ["ATTENTION", "attention", "static_cache"]
