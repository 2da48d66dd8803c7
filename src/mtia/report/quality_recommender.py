"""DLRM on MovieLens-100k: area under the ROC curve of a trained model whose tables and MLPs are rounded afterwards.

Tables are rounded row by row (block by block) to the plan's weight format. The simulated chips look up rows as they are
stored in bfloat16: no kernel here reads a table in FP8 or MX, so times have narrow MLPs alone; memory counts the
format's bits.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false, reportReturnType=false
# pyright: reportOperatorIssue=false, reportIndexIssue=false
from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem
from mtia.host_runtime import silicon
from mtia.quantization.emulation import emulate, rounded
from mtia.quantization.recipe import Recipe, apply, shaped
from mtia.quantization.schemes import Scheme
from mtia.report.quality import Row, Speed, Subject, describe
from mtia.report.quality_encoder import timed
from mtia.report.quality_llm import standard_error
from mtia.training.dlrm import DLRM, auc
from mtia.training.loop import Options, Trainer

TABLES = "embeddings"
CALIBRATION_SAMPLES = 2048
PARTS = 16  # of the test samples, for the standard error
TIMED_SAMPLES = 1024


class Recommender(Subject):
    """`steps` of training, 0 a whole pass; `n_samples` of the test set, 0 all of it."""

    name = "dlrm"
    title = "DLRM on MovieLens-100k, AUC"
    unit = "samples"
    loss = "AUC"

    def __init__(self, steps: int = 0, n_samples: int = 0) -> None:
        self.trainer = Trainer(Options(task="dlrm", device="cpu", steps=steps))
        test = self.trainer.task.test_samples
        if n_samples and not PARTS <= n_samples <= len(test):
            raise BadProblem("quality", argument="samples", value=n_samples, allowed=f"{PARTS} to {len(test)}")
        self.samples = test[: n_samples or len(test)]
        self._reference: torch.Tensor | None = None

    @cached_property
    def trained(self) -> DLRM:
        self.trainer.run(lambda step, steps, loss: None)
        return self.trainer.model.requires_grad_(False)

    @property
    def scored(self) -> str:
        return (f"{len(self.samples):,} ratings of MovieLens-100k that were not trained on, after "
                f"{self.trainer.n_steps} steps of {self.trainer.batch} in float32")  # fmt: skip

    def run(self, model: torch.nn.Module) -> None:
        """Feeds the model samples it was trained on."""
        self.logits(model, self.trainer.samples[:CALIBRATION_SAMPLES])

    @torch.no_grad()
    def logits(self, model: torch.nn.Module, samples: torch.Tensor) -> torch.Tensor:
        dense, indices, offsets, _ = self.trainer.task.inputs(samples)
        return model(dense.to(next(model.parameters()).dtype), indices, offsets).float()

    def score(self, recipe: Recipe, row: Row, *, check: int) -> None:
        if check:
            raise BadProblem("quality", argument="--check", value=check, allowed="0 for dlrm: its tables are emulated")
        model = apply(recipe, copy.deepcopy(self.trained), self.run).to(torch.bfloat16)
        describe(row, model)
        weight, scheme = model.embeddings.weight, recipe.plan.scheme_for(TABLES)
        row.memory_bytes += round(weight.numel() * table_bits(scheme, weight.shape[1]) / 8) - weight.nbytes
        if scheme is not None and scheme.weight != "bf16":
            weight.data = rounded_rows(weight.data, scheme).to(weight.dtype)
        found = self.logits(emulate(model), self.samples)
        base = self._reference = found if self._reference is None else self._reference
        labels = self.trainer.task.inputs(self.samples)[-1]
        parts = [auc(b, y) - auc(f, y) for f, b, y in
                 zip(found.chunk(PARTS), base.chunk(PARTS), labels.chunk(PARTS), strict=True)]  # fmt: skip
        whole = auc(base, labels)
        row.loss_frac = 1 - auc(found, labels) / whole
        row.loss_error_frac = standard_error(torch.tensor(parts)) / whole
        row.figures = {"auc": auc(found, labels),
                       "log_loss": float(F.binary_cross_entropy_with_logits(found, labels))}  # fmt: skip

    def speeds(self, recipe: Recipe, specs: Sequence[ChipSpec]) -> list[Speed]:
        """One eager batch of TIMED_SAMPLES, the second one."""
        dense, indices, offsets, _ = self.trainer.task.inputs(self.samples[:TIMED_SAMPLES])
        with silicon.use(specs[0]):
            model = shaped(recipe, copy.deepcopy(self.trained)).to(torch.bfloat16).to("mtia")
            batch = (dense.bfloat16().to("mtia"), indices.to("mtia"), offsets.to("mtia"))
        return [timed(lambda: model(*batch), spec, len(dense)) for spec in specs]


def rounded_rows(table: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """float32 of a table whose rows are held in the scheme's weight format; short rows are padded to a block."""
    block = scheme.weight_block
    short = -table.shape[1] % (1 if block is None else block.cols)
    return rounded(F.pad(table.float(), (0, short)), scheme.weight, block)[:, : table.shape[1]]


def table_bits(scheme: Scheme | None, dim: int) -> float:
    """Bits of an element, scales included."""
    if scheme is None or scheme.weight == "bf16":
        return 16.0
    block = scheme.weight_block
    return 8.0 + 32.0 / dim if block is None else block.bits_per_element


__all__ = ["Recommender", "rounded_rows", "table_bits"]
