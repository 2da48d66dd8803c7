"""What low precision costs a model in quality, and buys it in time, energy and memory.

Quality: SmolLM2-135M on CPython's own documentation (`pydoc_data.topics`), windows of tokens spread evenly over it,
computed by the device's kernels on the first chip asked for that multiplies the format (one contract holds for all,
docs/numerics.md). Time: one decode step and one prompt of the compiled model on every chip, values off.
"""

# transformers types its models' fields as unions.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import torch

from mtia.chips.multiply import path_or_none
from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem
from mtia.host_runtime import silicon
from mtia.quantization.plan import Plan
from mtia.quantization.quantize import quantize, summary
from mtia.report import compare, generate, smollm2

KEPT = {"lm_head": "bf16"}
"""The head shares its weights with the embedding, and stays as it is unless a plan says otherwise."""
MODELS = ("smollm2",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One decode step on one chip. `refused`: why there is none."""

    chip: str
    tokens_per_s: float = 0.0
    j_per_token: float = 0.0
    ttft_s: float = 0.0
    refused: str = ""


@dataclass(slots=True, kw_only=True)
class Quality:
    """One plan. `perplexity` over all windows; `agreement_frac`: positions whose likeliest next token is that of the
    bfloat16 model on the same device; `weight_bytes` of all linear layers."""

    plan: str
    chip: str  # that computed the values; "" where none could
    perplexity: float | None = None
    agreement_frac: float | None = None
    weight_bytes: int = 0
    wall_s: float = 0.0
    speeds: list[Speed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """`rows[0]` is bfloat16, which the others are compared with."""

    rows: list[Quality]
    n_tokens: int
    text: str

    def loss_frac(self, row: Quality) -> float | None:
        """How much worse the perplexity is than bfloat16's."""
        base = self.rows[0].perplexity
        return None if row.perplexity is None or not base else row.perplexity / base - 1

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "tokens": self.n_tokens,
                "rows": [{**asdict(r), "loss_frac": self.loss_frac(r)} for r in self.rows]}  # fmt: skip


def windows(n_windows: int, length: int) -> torch.Tensor:
    """Token ids [n_windows, length], evenly spaced over the topics in the order of their names."""
    from pydoc_data.topics import topics

    ids = smollm2.load_tokenizer()("\n\n".join(topics[name] for name in sorted(topics)))["input_ids"]
    step = len(ids) // (n_windows + 1)
    return torch.tensor([ids[step * (i + 1) : step * (i + 1) + length] for i in range(n_windows)])


def plan_of(text: str) -> Plan:
    """A plan from the command line; a lone scheme leaves the head as it is."""
    return Plan.of(text if "=" in text else {**KEPT, "*": text})


def computing_chip(plan: Plan, specs: Sequence[ChipSpec]) -> ChipSpec | None:
    """The first chip that multiplies every format of the plan."""
    formats = {scheme.multiplied for _, scheme in plan.rules}
    return next((s for s in specs if all(path_or_none(s, _rate(f)) is not None for f in formats)), None)


def _rate(fmt: str) -> str:
    return {"mxfp8": "mx8"}.get(fmt, fmt)


def study(
    plans: Sequence[str], specs: Sequence[ChipSpec], *, n_windows: int = 2, length: int = 512, timed: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Study:  # fmt: skip
    """bfloat16 and each plan. Raises BadProblem for windows too short to predict in."""
    if length < 2 or n_windows < 1:
        raise BadProblem("quality", argument="tokens", value=(n_windows, length), allowed="windows of 2 tokens or more")
    tokens = windows(n_windows, length)
    rows: list[Quality] = []
    reference: torch.Tensor | None = None
    for text in ("bf16", *(p for p in plans if p != "bf16")):
        row, choices = _quality(text, specs, tokens, reference)
        reference = choices if reference is None else reference
        if timed:
            row.speeds = speeds(plan_of(text), specs)
        rows.append(row)
        say(f"{text}: perplexity {row.perplexity}, {row.wall_s:.0f} s")
    source = f"pydoc_data.topics of Python {platform.python_version()}"
    return Study(rows=rows, n_tokens=tokens.numel(), text=source)


def _quality(
    text: str, specs: Sequence[ChipSpec], tokens: torch.Tensor, reference: torch.Tensor | None
) -> tuple[Quality, torch.Tensor | None]:
    begin_s, plan = perf_counter(), plan_of(text)
    spec = computing_chip(plan, specs)
    if spec is None:
        return Quality(plan=text, chip=""), None
    model = quantize(smollm2.load_model(torch.bfloat16), plan)
    n_bytes = sum(layer.weight_bytes for layer in summary(model))
    with silicon.use(spec), torch.no_grad():
        model = model.to("mtia")
        losses, choices = zip(*(_scored(model, window) for window in tokens), strict=True)
    chosen = torch.stack(choices)
    agreement = 1.0 if reference is None else (chosen == reference).float().mean().item()
    row = Quality(
        plan=text, chip=spec.name, perplexity=torch.cat(losses).mean().exp().item(), agreement_frac=agreement,
        weight_bytes=n_bytes, wall_s=perf_counter() - begin_s,
    )  # fmt: skip
    return row, chosen


def _scored(model: torch.nn.Module, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative log-likelihood of each token but the first, float32, and the likeliest token at each place."""
    logits = model(window[None].to("mtia")).logits[0].cpu().float()
    log_likelihood = torch.log_softmax(logits[:-1], dim=-1)
    return -log_likelihood.gather(1, window[1:, None])[:, 0], logits.argmax(-1)


def speeds(plan: Plan, specs: Sequence[ChipSpec], *, n_prompt: int = 64) -> list[Speed]:
    """Prompt and decode of the compiled model on every chip, or why not."""
    able = [s for s in specs if computing_chip(plan, [s]) is not None]
    refused = [Speed(chip=s.name, refused=f"no {_missing(plan, s)}") for s in specs if s not in able]
    if not able:
        return refused
    with silicon.use(able[0]):
        model = quantize(smollm2.load_model(torch.bfloat16), plan).to("mtia")
        generator = generate.build(model, length=generate.cache_length(n_prompt, 32), compile=True)
    timings = [compare.time_chip(generator, list(range(1, n_prompt + 1)), spec) for spec in able]
    return [
        *(Speed(chip=t.spec.name, tokens_per_s=t.tokens_per_s, j_per_token=t.j_per_token, ttft_s=t.ttft_s)
          for t in timings), *refused,
    ]  # fmt: skip


def _missing(plan: Plan, spec: ChipSpec) -> str:
    return ", ".join(sorted({s.multiplied for _, s in plan.rules if path_or_none(spec, _rate(s.multiplied)) is None}))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, quality loss) no other point beats in both, by index."""
    return [
        i for i, (x, y) in enumerate(points)
        if not any((a <= x and b <= y) and (a < x or b < y) for a, b in points)
    ]  # fmt: skip


__all__ = ["MODELS", "Quality", "Speed", "Study", "computing_chip", "pareto", "plan_of", "speeds", "study", "windows"]
