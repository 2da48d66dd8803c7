"""SmolLM2-135M on CPython's documentation: perplexity, divergence from bfloat16, agreement on the next token."""

# transformers types its models' fields as unions.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem
from mtia.host_runtime import silicon
from mtia.quantization.emulation import emulate
from mtia.quantization.recipe import Recipe, apply, shaped
from mtia.quantization.search import Found, search
from mtia.report import compare, generate, smollm2, text
from mtia.report.quality import Row, Speed, Subject, describe

CALIBRATION_TOKENS = 2048
SENSITIVITY_TOKENS = 1024
PROMPT_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """[windows, length] each but `hidden` [windows, length, K]: negative log-likelihood of each token but the first,
    the likeliest next token, the divergence from the reference at each place, the state before the head."""

    nll: torch.Tensor
    choices: torch.Tensor
    divergence: torch.Tensor | None
    hidden: torch.Tensor


class Llm(Subject):
    """`n_windows` of `length` tokens."""

    name = "smollm2"
    title = "SmolLM2-135M-Instruct, perplexity"
    unit = "tokens"
    loss = "perplexity"
    kept = {"lm_head": "bf16"}  # noqa: RUF012

    def __init__(self, n_windows: int = 4, length: int = 512) -> None:
        if length < 2:
            raise BadProblem("quality", argument="length", value=length, allowed="windows of 2 tokens or more")
        self.length, self.tokens = length, text.scored(n_windows, length)
        self._reference: Scores | None = None
        self._head: torch.Tensor | None = None

    @property
    def scored(self) -> str:
        n_windows = len(self.tokens)
        return (f"{n_windows * (self.length - 1):,} tokens of {text.SOURCE} in {n_windows} windows of {self.length}, "
                "each paragraph once; calibrated plans: on other paragraphs")  # fmt: skip

    def run(self, model: torch.nn.Module) -> None:
        """Feeds the model the calibration text."""
        for window in text.calibration(max(1, CALIBRATION_TOKENS // self.length), self.length):
            model(window[None])

    def model(self, recipe: Recipe) -> Any:
        """Quantised from the float32 weights; the rest in bfloat16."""
        return apply(recipe, smollm2.load_model(), self.run).to(torch.bfloat16)

    def score(self, recipe: Recipe, row: Row, *, check: int) -> None:
        model = self.model(recipe)
        describe(row, model)
        checked = _on_device(model, self.tokens[0, :check]) if check else None
        found = scores(emulate(model), self.tokens, self._reference, self._head)
        if self._reference is None:
            self._reference, self._head = found, model.lm_head.wide
        base = self._reference
        added = (found.nll - base.nll).mean(1)
        row.loss_frac = float(added.mean().expm1())
        row.loss_error_frac = standard_error(added) * (1 + row.loss_frac)
        row.figures = {
            "perplexity": float(found.nll.mean().exp()),
            "kl_nats": 0.0 if found.divergence is None else float(found.divergence.mean()),
            "same_frac": float((found.choices == base.choices).float().mean()),
        }
        if checked is not None:
            row.figures["device_off_nats"] = float((checked - found.nll[0, : check - 1]).mean())

    def speeds(self, recipe: Recipe, specs: Sequence[ChipSpec]) -> list[Speed]:
        """One decode step and one prompt of the compiled model; values off: shapes alone decide its time."""
        with silicon.use(specs[0]):
            model = shaped(recipe, smollm2.load_model()).to(torch.bfloat16).to("mtia")
            generator = generate.build(model, length=generate.cache_length(PROMPT_TOKENS, 32), compile=True)
        timings = [compare.time_chip(generator, list(range(1, PROMPT_TOKENS + 1)), spec) for spec in specs]
        return [
            Speed(chip=t.spec.name, per_s=t.tokens_per_s, j_each=t.j_per_token, first_s=t.ttft_s, bound=t.decode.bound)
            for t in timings
        ]

    def search(self, scheme: str, **options: Any) -> Found:
        """The best recipe for the scheme, found on calibration text alone (quantization/search.py)."""
        tokens = text.calibration(max(1, SENSITIVITY_TOKENS // self.length), self.length)
        return search(smollm2.load_model(), scheme, tokens, self.run, **options)


@torch.no_grad()
def scores(model: Any, tokens: torch.Tensor, reference: Scores | None, head: torch.Tensor | None) -> Scores:
    """Of an emulated model, window by window. `head` float32 [vocabulary, K]: of the reference."""
    nll, choices, divergence, hidden = [], [], [], []
    for i, window in enumerate(tokens):
        state = model.model(window[None]).last_hidden_state
        log_p = torch.log_softmax(model.lm_head(state)[0].float(), -1)
        nll.append(-log_p[:-1].gather(1, window[1:, None])[:, 0])
        choices.append(log_p.argmax(-1))
        hidden.append(state[0])
        if reference is not None and head is not None:
            exact = torch.log_softmax(F.linear(reference.hidden[i].float(), head).bfloat16().float(), -1)
            divergence.append((exact.exp() * (exact - log_p)).sum(-1))
    return Scores(nll=torch.stack(nll), choices=torch.stack(choices), hidden=torch.stack(hidden),
                  divergence=torch.stack(divergence) if divergence else None)  # fmt: skip


def standard_error(each: torch.Tensor) -> float:
    """Of the mean of paired differences, one a window; NaN for a single one."""
    return float(each.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")


@torch.no_grad()
def _on_device(model: Any, window: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihoods by the device's kernels; the model is left on the host."""
    logits = model.to("mtia")(window[None].to("mtia")).logits[0].cpu().float()
    model.to("cpu")
    return -torch.log_softmax(logits[:-1], -1).gather(1, window[1:, None])[:, 0]


__all__ = ["Llm", "Scores", "scores", "standard_error"]
