"""The architectures: `transformers` models from small configurations, seeded random weights, no dropout, no download.

Two layers, 48 to 64 wide, so that a compiled training step takes seconds on a laptop. Sizes that a family asks for
(stages of Swin, convolutions of Wav2Vec2) are as small as it allows. Inputs carry `labels`, so the model gives a loss.
"""

# transformers types its configurations as they come from JSON.
# pyright: reportCallIssue=false, reportArgumentType=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf

VOCABULARY = 160
BATCH, TOKENS = 2, 11
SEED = 7

Inputs = dict[str, Any]
Built = tuple[torch.nn.Module, Inputs]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table. `build` draws weights from torch's global generator: seed it first (`build()` does)."""

    name: str
    family: str
    build: Callable[[], Built]


ARCHITECTURES: dict[str, Architecture] = {}


def _architecture(family: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    def enter(build: Callable[[], Built]) -> Callable[[], Built]:
        name = build.__name__
        ARCHITECTURES[name] = Architecture(name, family, build)
        return build

    return enter


def build(name: str, *, training: bool = False) -> Built:
    """The model with seeded weights, and its keyword inputs, on the host. `training`: in training mode, with labels.

    Without it the model is in evaluation mode and `labels` (what stands for it) is left out.
    """
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name].build()
    if training:
        return model.train(), inputs
    return model.eval(), {k: v for k, v in inputs.items() if k not in ("labels", "return_loss")}


def moved(inputs: Inputs, dtype: torch.dtype | None = None, device: str = "cpu") -> Inputs:
    """The inputs on `device`, floating-point tensors in `dtype` (None: as they are)."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None) if torch.is_tensor(value) else value
        for name, value in inputs.items()
    }


# --- inputs -----------------------------------------------------------------------------------------------------------


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _ids(batch: int = BATCH, length: int = TOKENS) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (batch, length), generator=_generator())


def _mask() -> torch.Tensor:
    """The second sequence has seven tokens, the rest is padding."""
    mask = torch.ones((BATCH, TOKENS), dtype=torch.int64)
    mask[1, 7:] = 0
    return mask


def _text() -> Inputs:
    return dict(input_ids=_ids(), labels=_ids(), use_cache=False)


def _masked_text() -> Inputs:
    labels = _ids().masked_fill(_mask() == 0, -100)
    return dict(input_ids=_ids(), attention_mask=_mask(), labels=labels)


def _image(size: int = 32) -> Inputs:
    return dict(pixel_values=torch.randn((BATCH, 3, size, size), generator=_generator()), labels=torch.tensor([0, 1]))


# --- text decoders ----------------------------------------------------------------------------------------------------

_DECODER = dict(
    vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_GROUPED = {**_DECODER, "num_key_value_heads": 2}


@_architecture("text decoder")
def llama() -> Built:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**_GROUPED)), _text()


@_architecture("text decoder")
def mistral() -> Built:
    """Sliding window of eight tokens."""
    return tf.MistralForCausalLM(tf.MistralConfig(**_GROUPED, head_dim=12, sliding_window=8)), _text()


@_architecture("text decoder")
def qwen2() -> Built:
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**_GROUPED)), _text()


@_architecture("text decoder")
def qwen3() -> Built:
    return tf.Qwen3ForCausalLM(tf.Qwen3Config(**_GROUPED, head_dim=12)), _text()


@_architecture("text decoder")
def gemma2() -> Built:
    """Soft-capped scores, and a sliding window in every other layer."""
    config = tf.Gemma2Config(**_GROUPED, head_dim=12, query_pre_attn_scalar=12, sliding_window=8)
    return tf.Gemma2ForCausalLM(config), _text()


@_architecture("text decoder")
def gemma3() -> Built:
    config = tf.Gemma3TextConfig(**_GROUPED, head_dim=12, query_pre_attn_scalar=12, sliding_window=8)
    return tf.Gemma3ForCausalLM(config), _text()


@_architecture("text decoder")
def phi3() -> Built:
    return tf.Phi3ForCausalLM(tf.Phi3Config(**_GROUPED)), _text()


@_architecture("text decoder")
def olmo2() -> Built:
    return tf.Olmo2ForCausalLM(tf.Olmo2Config(**_GROUPED)), _text()


@_architecture("text decoder")
def starcoder2() -> Built:
    config = tf.Starcoder2Config(**_GROUPED, residual_dropout=0.0, embedding_dropout=0.0)
    return tf.Starcoder2ForCausalLM(config), _text()


@_architecture("text decoder")
def gpt2() -> Built:
    config = tf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0,
        resid_pdrop=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return tf.GPT2LMHeadModel(config), _text()


@_architecture("text decoder")
def gpt_neox() -> Built:
    return tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_DECODER)), _text()


@_architecture("text decoder")
def opt() -> Built:
    config = tf.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=48, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4,
        word_embed_proj_dim=48, max_position_embeddings=64, dropout=0.0,
    )  # fmt: skip
    return tf.OPTForCausalLM(config), _text()


@_architecture("text decoder")
def falcon() -> Built:
    """One key and value head for all query heads."""
    config = tf.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, multi_query=True,
        hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return tf.FalconForCausalLM(config), _text()


@_architecture("text decoder")
def bloom() -> Built:
    """Positions as a bias on scores (ALiBi)."""
    config = tf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=48, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0
    )
    return tf.BloomForCausalLM(config), _text()


# --- mixtures of experts ----------------------------------------------------------------------------------------------


@_architecture("mixture of experts")
def mixtral() -> Built:
    return tf.MixtralForCausalLM(tf.MixtralConfig(**_GROUPED, num_local_experts=4)), _text()


@_architecture("mixture of experts")
def qwen3_moe() -> Built:
    config = tf.Qwen3MoeConfig(
        **_GROUPED, head_dim=12, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, decoder_sparse_step=1
    )
    return tf.Qwen3MoeForCausalLM(config), _text()


@_architecture("mixture of experts")
def olmoe() -> Built:
    return tf.OlmoeForCausalLM(tf.OlmoeConfig(**_GROUPED, num_experts=4, num_experts_per_tok=2)), _text()


_LATENT = dict(
    q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, n_routed_experts=4,
    n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=32, first_k_dense_replace=1,
)  # fmt: skip
"""Latent attention; the first layer is dense, the second has experts."""


@_architecture("mixture of experts")
def deepseek_v2() -> Built:
    config = tf.DeepseekV2Config(**_DECODER, **_LATENT, n_group=2, topk_group=1, topk_method="group_limited_greedy")
    return tf.DeepseekV2ForCausalLM(config), _text()


@_architecture("mixture of experts")
def deepseek_v3() -> Built:
    config = tf.DeepseekV3Config(**_DECODER, num_key_value_heads=4, **_LATENT, n_group=2, topk_group=1)
    return tf.DeepseekV3ForCausalLM(config), _text()


# --- text encoders ----------------------------------------------------------------------------------------------------

_ENCODER = dict(
    **_DECODER, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip


@_architecture("text encoder")
def bert() -> Built:
    return tf.BertForMaskedLM(tf.BertConfig(**_ENCODER)), _masked_text()


@_architecture("text encoder")
def roberta() -> Built:
    return tf.RobertaForMaskedLM(tf.RobertaConfig(**_ENCODER)), _masked_text()


@_architecture("text encoder")
def distilbert() -> Built:
    config = tf.DistilBertConfig(
        vocab_size=VOCABULARY, dim=48, hidden_dim=96, n_layers=2, n_heads=4, max_position_embeddings=64, dropout=0.0,
        attention_dropout=0.0,
    )  # fmt: skip
    return tf.DistilBertForMaskedLM(config), _masked_text()


@_architecture("text encoder")
def deberta_v2() -> Built:
    """Disentangled attention: content to position and position to content, in buckets."""
    config = tf.DebertaV2Config(
        **_ENCODER, relative_attention=True, position_buckets=8, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False,
    )  # fmt: skip
    return tf.DebertaV2ForMaskedLM(config), _masked_text()


@_architecture("text encoder")
def modernbert() -> Built:
    config = tf.ModernBertConfig(
        **_DECODER, local_attention=8, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2
    )
    return tf.ModernBertForMaskedLM(config), _masked_text()


# --- encoder-decoders -------------------------------------------------------------------------------------------------


def _sequence_pair() -> Inputs:
    return dict(input_ids=_ids(), decoder_input_ids=_ids(BATCH, 5), labels=_ids(BATCH, 5), use_cache=False)


@_architecture("encoder-decoder")
def t5() -> Built:
    config = tf.T5Config(
        vocab_size=VOCABULARY, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    return tf.T5ForConditionalGeneration(config), _sequence_pair()


@_architecture("encoder-decoder")
def bart() -> Built:
    config = tf.BartConfig(
        vocab_size=VOCABULARY, d_model=48, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=64, dropout=0.0,
    )  # fmt: skip
    return tf.BartForConditionalGeneration(config), _sequence_pair()


# --- vision -----------------------------------------------------------------------------------------------------------

_VISION = dict(
    hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, image_size=32, patch_size=8
)


@_architecture("vision")
def vit() -> Built:
    return tf.ViTForImageClassification(tf.ViTConfig(**_VISION)), _image()


@_architecture("vision")
def deit() -> Built:
    return tf.DeiTForImageClassification(tf.DeiTConfig(**_VISION)), _image()


@_architecture("vision")
def beit() -> Built:
    config = tf.BeitConfig(**_VISION, drop_path_rate=0.0, use_relative_position_bias=True)
    return tf.BeitForImageClassification(config), _image()


@_architecture("vision")
def dinov2() -> Built:
    return tf.Dinov2ForImageClassification(tf.Dinov2Config(**_VISION)), _image()


@_architecture("vision")
def swin() -> Built:
    """Shifted windows; two stages with patches merged between them."""
    config = tf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4, drop_path_rate=0.0
    )
    return tf.SwinForImageClassification(config), _image()


@_architecture("vision")
def convnext() -> Built:
    config = tf.ConvNextConfig(patch_size=4, hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, drop_path_rate=0.0)
    return tf.ConvNextForImageClassification(config), _image()


@_architecture("vision and text")
def clip() -> Built:
    text = dict(**_DECODER, projection_dim=32)
    config = tf.CLIPConfig(text_config=text, vision_config=dict(**_VISION, projection_dim=32), projection_dim=32)
    return tf.CLIPModel(config), dict(input_ids=_ids(), pixel_values=_image()["pixel_values"], return_loss=True)


# --- audio ------------------------------------------------------------------------------------------------------------


@_architecture("audio")
def whisper() -> Built:
    config = tf.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=16, d_model=48, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96,
        max_source_positions=20, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, dropout=0.0,
    )  # fmt: skip
    features = torch.randn((BATCH, 16, 40), generator=_generator())
    ids = _ids(BATCH, 6)
    return tf.WhisperForConditionalGeneration(config), dict(
        input_features=features, decoder_input_ids=ids, labels=ids, use_cache=False
    )


@_architecture("audio")
def wav2vec2() -> Built:
    """Convolutions over the wave form, a transformer, and the loss of connectionist temporal classification."""
    config = tf.Wav2Vec2Config(
        vocab_size=20, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        conv_dim=(16, 16, 16), conv_stride=(5, 4, 4), conv_kernel=(10, 8, 4), num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4, hidden_dropout=0.0, attention_dropout=0.0,
        activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0, mask_time_prob=0.0,
        ctc_loss_reduction="mean", pad_token_id=0,
    )  # fmt: skip
    wave = torch.randn((BATCH, 1600), generator=_generator())
    labels = torch.randint(1, 20, (BATCH, 4), generator=_generator())
    return tf.Wav2Vec2ForCTC(config), dict(input_values=wave, labels=labels)


# --- state space and recurrent ----------------------------------------------------------------------------------------


@_architecture("state space")
def mamba() -> Built:
    config = tf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, use_cache=False)
    return tf.MambaForCausalLM(config), dict(input_ids=_ids(), labels=_ids())


@_architecture("state space")
def mamba2() -> Built:
    config = tf.Mamba2Config(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, num_heads=4, head_dim=16, n_groups=1,
        chunk_size=8, use_cache=False,
    )  # fmt: skip
    return tf.Mamba2ForCausalLM(config), dict(input_ids=_ids(), labels=_ids())


@_architecture("state space")
def recurrent_gemma() -> Built:
    """Gated linear recurrence in two of three layers, local attention in the third."""
    config = tf.RecurrentGemmaConfig(
        vocab_size=VOCABULARY, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, head_dim=12, attention_window_size=8, lru_width=48,
    )  # fmt: skip
    return tf.RecurrentGemmaForCausalLM(config), _text()


__all__ = ["ARCHITECTURES", "Architecture", "build", "moved"]
