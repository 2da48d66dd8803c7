"""Greedy generation with a static KV cache: two functions, each compiled once, on any device.

`prefill` takes the prompt padded to a multiple of PAD tokens; what the padding wrote into the cache lies beyond its
length, is never attended to, and is overwritten by the tokens that follow. So one compiled prefill serves every prompt
of a bucket, and the values are those of the unpadded prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mtia.units import ceil_div

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, StaticCache

PAD = 64


def prefill(
    model: LlamaForCausalLM, cache: StaticCache, tokens_1S: torch.Tensor, n_prompt_1: torch.Tensor
) -> torch.Tensor:
    """First new token [1, 1] after the first `n_prompt_1` (int64 [1]) of `tokens_1S`; fills an empty cache."""
    output = model(tokens_1S, past_key_values=cache, use_cache=True, logits_to_keep=n_prompt_1 - 1)
    for layer in cache.layers:
        layer.cumulative_length.copy_(n_prompt_1[0])
    return output.logits.argmax(-1)


def decode(model: LlamaForCausalLM, cache: StaticCache, token_11: torch.Tensor) -> torch.Tensor:
    """The token [1, 1] after `token_11`; appends to the cache."""
    return model(token_11, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)


def next_logits(model: LlamaForCausalLM, cache: StaticCache, token_11: torch.Tensor) -> torch.Tensor:
    """As `decode`, but the logits [vocabulary] themselves."""
    return model(token_11, past_key_values=cache, use_cache=True).logits[0, -1]


@dataclass(frozen=True, kw_only=True)
class Generator:
    """A model on a device with its cache and its two step functions.

    `step` is called round each prefill and each decode with its name; the demo hangs its clock there.
    """

    model: LlamaForCausalLM
    cache: StaticCache
    prefill: Callable[..., torch.Tensor]
    decode: Callable[..., torch.Tensor]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def reset(self) -> None:
        """Empty the cache. The keys need no clearing: nothing beyond the length is read with weight above zero."""
        for layer in self.cache.layers:
            layer.cumulative_length.zero_()

    def start(self, prompt: list[int]) -> torch.Tensor:
        """Run the prompt; the first new token [1, 1], on the device."""
        tokens = torch.tensor([prompt + [0] * (padded(len(prompt)) - len(prompt))])
        self.reset()
        return self.prefill(self.model, self.cache, tokens.to(self.device), torch.tensor([len(prompt)]).to(self.device))

    def tokens(self, prompt: list[int], n_new: int, stop: frozenset[int] = frozenset()) -> Iterator[int]:
        """Up to `n_new` greedy tokens, as they come; a token of `stop` ends the answer and is not given out."""
        token = self.start(prompt)
        for i in range(n_new):
            value = int(token)
            if value in stop:
                return
            yield value
            if i + 1 < n_new:
                token = self.decode(self.model, self.cache, token)


def padded(n_tokens: int) -> int:
    """Prompt length after padding."""
    return ceil_div(n_tokens, PAD) * PAD


def cache_length(n_prompt: int, n_new: int) -> int:
    """Cache length for a run: a multiple of PAD, so that runs of like length share compiled code."""
    return padded(max(padded(n_prompt), n_prompt + n_new))


def build(model: LlamaForCausalLM, *, length: int, compile: bool) -> Generator:
    """A generator for `model`, where it is, with a KV cache of `length` tokens."""
    from transformers import StaticCache

    config, weight = model.config, model.lm_head.weight
    cache = StaticCache(config=config, max_cache_len=length)
    cache.early_initialization(
        batch_size=1, num_heads=config.num_key_value_heads, dtype=weight.dtype, device=weight.device,
        head_dim=config.hidden_size // config.num_attention_heads,
    )  # fmt: skip
    wrap = compiled if compile else (lambda function: function)
    return Generator(model=model, cache=cache, prefill=wrap(prefill), decode=wrap(decode))


def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function through torch.compile: one graph, shapes fixed."""
    return torch.compile(function, fullgraph=True, dynamic=False)
