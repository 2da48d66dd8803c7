"""What is trained on what. A task makes a model and batches from a seed alone, so that a run can be repeated.

| task | model | data |
| --- | --- | --- |
| dlrm | DLRM, six tables | MovieLens-100k: is a rating 4 or 5 |
| gpt2, llama | two layers of transformers' models | titles of MovieLens' films, byte by byte: the next byte |
| bert | two layers | the same titles: bytes that were masked |
| vit | two layers | drawn here: which way a noisy grating runs, of four |

The transformers are small on purpose: one core computes their values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import BadProblem, did_you_mean
from mtia.training import movielens
from mtia.training.dlrm import DLRM, auc

TENSORS = tuple[torch.Tensor, ...]
EVALUATION_BATCH = 2048


class Task(ABC):
    """`seed` decides weights, data and order."""

    name: ClassVar[str]
    batch: ClassVar[int]  # samples of a step unless the user says otherwise
    learning_rate: ClassVar[dict[str, float]]  # by optimizer

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model on the host; torch's generator is seeded by the caller."""

    @property
    @abstractmethod
    def samples(self) -> torch.Tensor:
        """Samples to train on, int64."""

    @abstractmethod
    def inputs(self, samples: torch.Tensor) -> TENSORS:
        """A batch on the host."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: TENSORS) -> torch.Tensor:
        """Mean loss of a batch."""

    @abstractmethod
    def part_of(self, name: str, module: nn.Module) -> str | None:
        """The part of a step that a module is (parts.py)."""

    def compiled(self, model: nn.Module) -> nn.Module:
        """The model compiled as a whole; its parts cannot be told apart then."""
        return torch.compile(model)  # type: ignore[return-value]

    def evaluate(self, model: nn.Module, device: str) -> dict[str, float]:
        """Metrics on data that was not trained on; empty where a task keeps none apart."""
        return {}


class RatingTask(Task):
    name = "dlrm"
    batch = 1024
    learning_rate: ClassVar = {"adagrad": 0.02, "adamw": 2e-3, "sgd": 0.1, "shampoo": 5e-3, "rowwise-adagrad": 0.05}
    row_gradients = True

    @cached_property
    def data(self) -> movielens.MovieLens:
        return movielens.load()

    @cached_property
    def _split(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.data.split(self.seed)

    def model(self) -> nn.Module:
        return DLRM(self.data.rows, len(movielens.DENSE), row_gradients=self.row_gradients)

    @property
    def samples(self) -> torch.Tensor:
        return self._split[0]

    @property
    def test_samples(self) -> torch.Tensor:
        """Samples that are not trained on, int64."""
        return self._split[1]

    def inputs(self, samples: torch.Tensor) -> TENSORS:
        return tuple(self.data.batch(samples))

    def loss(self, model: nn.Module, inputs: TENSORS) -> torch.Tensor:
        *features, labels = inputs
        return F.binary_cross_entropy_with_logits(model(*features).float(), labels)

    def part_of(self, name: str, module: nn.Module) -> str | None:
        return {"embeddings": "embedding", "bottom": "bottom MLP", "interaction": "interaction", "top": "top MLP"}.get(
            name
        )

    def compiled(self, model: nn.Module) -> nn.Module:
        """MLPs and interaction compiled; the embedding's kernels stay what they are."""
        for name in ("bottom", "interaction", "top"):
            setattr(model, name, torch.compile(getattr(model, name), dynamic=False))
        return model

    def evaluate(self, model: nn.Module, device: str) -> dict[str, float]:
        scores, labels = [], []
        with torch.no_grad():
            for samples in self.test_samples.split(EVALUATION_BATCH):
                *features, label = (t.to(device) for t in self.inputs(samples))
                scores.append(model(*features).float().cpu())
                labels.append(label.cpu())
        score, label = torch.cat(scores), torch.cat(labels)
        return {"test_loss": float(F.binary_cross_entropy_with_logits(score, label)), "test_auc": auc(score, label)}


class TextTask(Task):
    """Bytes of film titles in rows of LENGTH."""

    batch = 8
    learning_rate: ClassVar = {"adamw": 3e-3, "sgd": 0.1, "adagrad": 0.02, "shampoo": 5e-3, "rowwise-adagrad": 5e-3}
    LENGTH, VOCABULARY = 32, 256

    @cached_property
    def text(self) -> torch.Tensor:
        """int64 [samples, LENGTH]."""
        data = "\n".join(movielens.load().titles).encode("latin-1", errors="replace")
        tokens = torch.tensor(list(data), dtype=torch.int64)
        return tokens[: len(tokens) // self.LENGTH * self.LENGTH].view(-1, self.LENGTH)

    @property
    def samples(self) -> torch.Tensor:
        return torch.arange(self.text.shape[0])

    def inputs(self, samples: torch.Tensor) -> TENSORS:
        return (self.text[samples],)

    def loss(self, model: nn.Module, inputs: TENSORS) -> torch.Tensor:
        return model(input_ids=inputs[0], labels=inputs[0]).loss

    def part_of(self, name: str, module: nn.Module) -> str | None:
        return transformer_part(name)


class Gpt2Task(TextTask):
    name = "gpt2"

    def model(self) -> nn.Module:
        import transformers as tf

        return tf.GPT2LMHeadModel(tf.GPT2Config(
            vocab_size=self.VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=self.LENGTH, attn_pdrop=0.0,
            embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False))  # fmt: skip


class LlamaTask(TextTask):
    name = "llama"

    def model(self) -> nn.Module:
        import transformers as tf

        return tf.LlamaForCausalLM(tf.LlamaConfig(
            vocab_size=self.VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=self.LENGTH,
            use_cache=False))  # fmt: skip


class BertTask(TextTask):
    """Fifteen bytes in a hundred are masked, the same ones in every epoch."""

    name = "bert"
    MASK, MASKED_FRAC, IGNORED = 0, 0.15, -100

    def model(self) -> nn.Module:
        import transformers as tf

        return tf.BertForMaskedLM(tf.BertConfig(
            vocab_size=self.VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=128, max_position_embeddings=self.LENGTH, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0))  # fmt: skip

    @cached_property
    def masked(self) -> torch.Tensor:
        random = torch.Generator().manual_seed(self.seed)
        return torch.rand(self.text.shape, generator=random) < self.MASKED_FRAC

    def inputs(self, samples: torch.Tensor) -> TENSORS:
        text, masked = self.text[samples], self.masked[samples]
        return torch.where(masked, self.MASK, text), torch.where(masked, text, self.IGNORED)

    def loss(self, model: nn.Module, inputs: TENSORS) -> torch.Tensor:
        return model(input_ids=inputs[0], labels=inputs[1]).loss


class GratingTask(Task):
    name = "vit"
    batch = 16
    learning_rate: ClassVar = {"adamw": 2e-3, "sgd": 0.05, "adagrad": 0.02, "shampoo": 5e-3, "rowwise-adagrad": 5e-3}
    SAMPLES, SIZE, CLASSES, NOISE = 1024, 32, 4, 0.5

    def model(self) -> nn.Module:
        import transformers as tf

        return tf.ViTForImageClassification(tf.ViTConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=self.SIZE,
            patch_size=8, id2label={i: str(i) for i in range(self.CLASSES)}, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0))  # fmt: skip

    @cached_property
    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 [samples, 3, SIZE, SIZE] and their class: the angle of the stripes, in quarters of a half turn."""
        random = torch.Generator().manual_seed(self.seed)
        label = torch.randint(0, self.CLASSES, (self.SAMPLES,), generator=random)
        phase = 2 * math.pi * torch.rand((self.SAMPLES, 1, 1), generator=random)
        angle = (label * math.pi / self.CLASSES).view(-1, 1, 1)
        x = torch.arange(self.SIZE, dtype=torch.float32)
        stripes = torch.sin((x.view(1, 1, -1) * angle.cos() + x.view(1, -1, 1) * angle.sin()) * 0.8 + phase)
        noise = torch.randn((self.SAMPLES, 3, self.SIZE, self.SIZE), generator=random)
        return stripes.unsqueeze(1) + self.NOISE * noise, label

    @property
    def samples(self) -> torch.Tensor:
        return torch.arange(self.SAMPLES)

    def inputs(self, samples: torch.Tensor) -> TENSORS:
        images, labels = self.images
        return images[samples], labels[samples]

    def loss(self, model: nn.Module, inputs: TENSORS) -> torch.Tensor:
        return model(pixel_values=inputs[0], labels=inputs[1]).loss

    def part_of(self, name: str, module: nn.Module) -> str | None:
        return transformer_part(name)


_PARTS_BY_NAME = {
    "wte": "embedding", "wpe": "embedding", "embed_tokens": "embedding", "embeddings": "embedding",
    "attn": "attention", "self_attn": "attention", "attention": "attention", "rotary_emb": "attention",
    "mlp": "MLP", "intermediate": "MLP", "output": "MLP", "lm_head": "head", "cls": "head", "classifier": "head",
    "ln_1": "norm", "ln_2": "norm", "ln_f": "norm", "norm": "norm", "input_layernorm": "norm", "layernorm": "norm",
    "post_attention_layernorm": "norm", "layernorm_before": "norm", "layernorm_after": "norm",
}  # fmt: skip


def transformer_part(name: str) -> str | None:
    """Part of a module of transformers' models by its name; none inside a module that is a part."""
    *above, last = name.replace("_orig_mod.", "").split(".")
    if any(word in _PARTS_BY_NAME for word in above):
        return None
    return _PARTS_BY_NAME.get(last)


TASKS: dict[str, Callable[[int], Task]] = {
    task.name: task for task in (RatingTask, Gpt2Task, LlamaTask, BertTask, GratingTask)
}


def task_named(name: str, seed: int) -> Any:
    """Raises BadProblem on an unknown name."""
    if name not in TASKS:
        raise BadProblem("mtia train", argument="task", value=name,
                         allowed=f"one of {', '.join(TASKS)}{did_you_mean(name, TASKS)}")  # fmt: skip
    return TASKS[name](seed)


__all__ = ["TASKS", "Task", "task_named"]
