"""Tiny transformers models with random weights, one per architecture, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

VOCABULARY = 160


def _ids(batch: int = 2, length: int = 11) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(7))


def _mask() -> torch.Tensor:
    mask = torch.ones((2, 11), dtype=torch.int64)
    mask[1, 7:] = 0
    return mask


def llama() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return tf.LlamaForCausalLM(config), dict(input_ids=_ids())


def gpt2() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
    )
    return tf.GPT2LMHeadModel(config), dict(input_ids=_ids())


def bert() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )
    return tf.BertModel(config), dict(input_ids=_ids(), attention_mask=_mask())


def t5() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.T5Config(vocab_size=VOCABULARY, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4)
    return tf.T5ForConditionalGeneration(config), dict(input_ids=_ids(), decoder_input_ids=_ids(2, 5))


def mixtral() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    return tf.MixtralForCausalLM(config), dict(input_ids=_ids())


def vit() -> tuple[torch.nn.Module, dict[str, Any]]:
    config = tf.ViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8
    )
    pixels = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(7))
    return tf.ViTModel(config), dict(pixel_values=pixels)


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, dict[str, Any]]]] = {
    "llama": llama,
    "gpt2": gpt2,
    "bert": bert,
    "t5": t5,
    "mixtral": mixtral,
    "vit": vit,
}


def build(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The model in evaluation mode with seeded weights, and its keyword inputs, on the host."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    return model.eval(), inputs
