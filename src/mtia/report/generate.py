"""Greedy generation with a static KV cache, compiled by region: begin, one decoder layer, end, on any device.

The modules are transformers' own; only the loop over layers is here, so that torch.compile sees one layer once and all
thirty share its code (compiling takes seconds, not minutes). Shapes are fixed: one prefill shape, one decode shape.

The prompt is padded to a multiple of PAD tokens. What the padding wrote into the cache lies beyond its length, is never
attended to, and is overwritten by the tokens that follow, so the values are those of the unpadded prompt.
"""

# transformers types a cache's layers, and a config's fields, as unions of all kinds.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportUnhashable=false
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mtia.units import ceil_div

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, StaticCache
    from transformers.cache_utils import StaticLayer

PAD = 64
Hidden = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]  # hidden, mask, cos, sin


class LayerCache:
    """One layer's part of a StaticCache, as the layer sees it. It asks for no layer number, so layers share code."""

    def __init__(self, held: StaticLayer) -> None:
        self.held = held

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self.held.update(keys, values)


def begin_prompt(model: LlamaForCausalLM, cache: StaticCache, tokens_1S: torch.Tensor) -> Hidden:
    """What comes before the layers, for a prompt into an empty cache."""
    cache.layers[0].cumulative_length.zero_()
    return _begin(model, cache, tokens_1S)


def begin_token(model: LlamaForCausalLM, cache: StaticCache, token_11: torch.Tensor) -> Hidden:
    """What comes before the layers, for one more token."""
    return _begin(model, cache, token_11)


def _begin(model: LlamaForCausalLM, cache: StaticCache, tokens_1S: torch.Tensor) -> Hidden:
    """Embeddings, causal mask over the whole cache, rotary cosines and sines: as LlamaModel.forward makes them."""
    from transformers.masking_utils import create_causal_mask

    hidden = model.model.embed_tokens(tokens_1S)
    seen = cache.layers[0].cumulative_length
    positions = (torch.arange(tokens_1S.shape[1], device=hidden.device) + seen).unsqueeze(0)
    mask = create_causal_mask(
        config=model.config, inputs_embeds=hidden, attention_mask=None, cache=cache, position_ids=positions,
        allow_is_causal_skip=False,
    )  # fmt: skip
    cos, sin = model.model.rotary_emb(hidden, position_ids=positions)
    return hidden, mask, cos, sin


def prompt_layer(
    layer: torch.nn.Module, cache: LayerCache, hidden: torch.Tensor, mask: torch.Tensor, cos: torch.Tensor,
    sin: torch.Tensor, n_prompt_1: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """One layer over the prompt, into an empty cache that holds `n_prompt_1` tokens afterwards."""
    cache.held.cumulative_length.zero_()
    out = layer(hidden, attention_mask=mask, cache=cache, position_embeddings=(cos, sin))
    cache.held.cumulative_length.copy_(n_prompt_1[0])
    return out


def token_layer(
    layer: torch.nn.Module, cache: LayerCache, hidden: torch.Tensor, mask: torch.Tensor, cos: torch.Tensor,
    sin: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """One layer over one token, appended to the cache."""
    return layer(hidden, attention_mask=mask, cache=cache, position_embeddings=(cos, sin))


def prompt_logits(model: LlamaForCausalLM, hidden: torch.Tensor, n_prompt_1: torch.Tensor) -> torch.Tensor:
    """Logits [1, 1, vocabulary] after the prompt's last token."""
    return model.lm_head(model.model.norm(hidden[:, n_prompt_1 - 1]))


def token_logits(model: LlamaForCausalLM, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [1, 1, vocabulary]."""
    return model.lm_head(model.model.norm(hidden))


def end_prompt(model: LlamaForCausalLM, hidden: torch.Tensor, n_prompt_1: torch.Tensor) -> torch.Tensor:
    """The first new token [1, 1]."""
    return prompt_logits(model, hidden, n_prompt_1).argmax(-1)


def end_token(model: LlamaForCausalLM, hidden: torch.Tensor) -> torch.Tensor:
    """The next token [1, 1]."""
    return token_logits(model, hidden).argmax(-1)


REGIONS = (begin_prompt, prompt_layer, end_prompt, begin_token, token_layer, end_token, prompt_logits, token_logits)


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A model where it is, its cache, and the regions (compiled or plain) by name."""

    model: LlamaForCausalLM
    cache: StaticCache
    layer_caches: tuple[LayerCache, ...]
    regions: dict[str, Callable[..., Any]]

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def start(self, prompt: list[int], *, end: str = "end_prompt") -> torch.Tensor:
        """Run the prompt through an emptied cache: the first new token [1, 1] (or what region `end` gives)."""
        padding = [0] * (padded(len(prompt)) - len(prompt))
        tokens = torch.tensor([prompt + padding]).to(self.device)
        n_prompt = torch.tensor([len(prompt)]).to(self.device)
        hidden, *shared = self.regions["begin_prompt"](self.model, self.cache, tokens)
        for layer, cache in zip(self.model.model.layers, self.layer_caches, strict=True):
            hidden = self.regions["prompt_layer"](layer, cache, hidden, *shared, n_prompt)
        return self.regions[end](self.model, hidden, n_prompt)

    @torch.no_grad()
    def decode(self, token_11: torch.Tensor, *, end: str = "end_token") -> torch.Tensor:
        """The token [1, 1] after `token_11` (or what region `end` gives); appends to the cache."""
        hidden, *shared = self.regions["begin_token"](self.model, self.cache, token_11)
        for layer, cache in zip(self.model.model.layers, self.layer_caches, strict=True):
            hidden = self.regions["token_layer"](layer, cache, hidden, *shared)
        return self.regions[end](self.model, hidden)

    def tokens(self, prompt: list[int], n_new: int, stop: frozenset[int] = frozenset()) -> Iterator[int]:
        """Up to `n_new` greedy tokens, as they come; a token of `stop` ends the answer and is not given out."""
        token = self.start(prompt)
        for i in range(n_new):
            value = int(token)
            if value in stop:
                return
            yield value
            if i + 1 < n_new:
                token = self.decode(token)


def padded(n_tokens: int) -> int:
    """Prompt length after padding."""
    return ceil_div(n_tokens, PAD) * PAD


def cache_length(n_prompt: int, n_new: int) -> int:
    """Cache length for a run: a multiple of PAD, so that runs of like length share compiled code."""
    return padded(max(padded(n_prompt), n_prompt + n_new))


def build(model: LlamaForCausalLM, *, length: int, compile: bool) -> Generator:
    """A generator for `model`, where it is, with a KV cache of `length` tokens."""
    from transformers import StaticCache

    config, weight = model.config, model.get_input_embeddings().weight  # the head may be quantised
    cache = StaticCache(config=config, max_cache_len=length)
    cache.early_initialization(
        batch_size=1, num_heads=config.num_key_value_heads, dtype=weight.dtype, device=weight.device,
        head_dim=config.hidden_size // config.num_attention_heads,
    )  # fmt: skip
    return Generator(
        model=model, cache=cache, layer_caches=tuple(LayerCache(layer) for layer in cache.layers),
        regions={f.__name__: compiled(f) if compile else f for f in REGIONS},
    )  # fmt: skip


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile: one graph, shapes fixed."""
    return torch.compile(function, fullgraph=True, dynamic=False)
