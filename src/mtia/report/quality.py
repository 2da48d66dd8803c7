"""What low precision costs a model in quality, and buys it in time, energy and memory.

Quality: on real data that installs with Python packages, once for each plan, whatever the chips: one contract of
multiply and add holds for all of them (docs/numerics.md). The numbers are those that the device multiplies, summed by
the host's float32 (quantization/emulation.py), which is affordable; `check` runs a little of it on the device beside.
Time, energy: the device's kernels on every chip. Memory: weights in their formats.

A `Subject` is a model with its data: quality_llm.py, quality_encoder.py, quality_recommender.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from torch import nn

from mtia.chips.multiply import multiply_path, path_or_none
from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, UnsupportedDtype
from mtia.quantization.calibration import linears
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.plan import Plan
from mtia.quantization.quantize import summary
from mtia.quantization.recipe import RECIPES, Recipe

BASELINE = "bf16"
BEST = "best:"
FILE = ".json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One unit of work (a token, a sentence, a sample) on one chip. `refused`: why there is none."""

    chip: str
    per_s: float = 0.0
    j_each: float = 0.0
    first_s: float | None = None  # of a prompt
    bound: str = ""
    refused: str = ""


@dataclass(slots=True, kw_only=True)
class Row:
    """One plan. `figures`: by name, a name that ends in _frac is a share. `loss_frac`: how much worse than bfloat16,
    by the subject's own measure, `loss_error_frac` the standard error of that difference. `low_frac`: of the linear
    layers' multiplies, those in the plan's formats. `memory_bytes`: all parameters and caches."""

    plan: str
    figures: dict[str, float] = field(default_factory=dict)
    loss_frac: float = 0.0
    loss_error_frac: float = 0.0
    low_frac: float = 0.0
    linear_bytes: int = 0
    memory_bytes: int = 0
    wall_s: float = 0.0
    speeds: list[Speed] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """`rows[0]` is bfloat16. `scored` says what was scored and how much of it; `unit`: what speeds count."""

    title: str
    scored: str
    unit: str
    loss: str
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Subject(ABC):
    """A model and the data that it is scored on. `kept`: layers that a lone scheme's name leaves as they are."""

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    loss: ClassVar[str]  # what `loss_frac` is of
    kept: ClassVar[dict[str, str]] = {}

    @property
    @abstractmethod
    def scored(self) -> str:
        """What is scored, and how much of it."""

    @abstractmethod
    def score(self, recipe: Recipe, row: Row, *, check: int) -> None:
        """Fills in the quality, shares and bytes; bfloat16 comes first. `check`: of the data, on the device too."""

    @abstractmethod
    def speeds(self, recipe: Recipe, specs: Sequence[ChipSpec]) -> list[Speed]:
        """Of chips that multiply every format of the recipe."""

    def recipe_of(self, text: str) -> Recipe:
        """A plan from the command line: a scheme (`kept` layers stay), PATTERN=SCHEME,..., a recipe's file, or
        best:SCHEME, a recipe that comes with the package. Raises BadProblem for what is none of them."""
        if text.startswith(BEST):
            path = RECIPES / f"{self.name}-{text.removeprefix(BEST)}.json"
            if not path.is_file():
                known = sorted(BEST + p.stem.removeprefix(f"{self.name}-") for p in RECIPES.glob(f"{self.name}-*.json"))
                raise BadProblem("quality", argument="plan", value=text, allowed=f"known: {', '.join(known) or 'none'}")
            return Recipe.load(path)
        if text.endswith(FILE):
            return Recipe.load(Path(text))
        return Recipe(plan=Plan.of(text if "=" in text else {**self.kept, "*": text}))


def study(
    subject: Subject, plans: Sequence[str], specs: Sequence[ChipSpec], *, timed: bool = True, check: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Study:  # fmt: skip
    """bfloat16 and each plan."""
    rows: list[Row] = []
    recipes = {text: subject.recipe_of(text) for text in dict.fromkeys((BASELINE, *plans))}
    for text, recipe in recipes.items():
        row, begin_s = Row(plan=Path(text).stem if text.endswith(FILE) else text), perf_counter()
        subject.score(recipe, row, check=check)
        scored_s = perf_counter()
        if timed:
            row.speeds = on_chips(subject, recipe, specs)
        row.wall_s, score_s = perf_counter() - begin_s, scored_s - begin_s
        say(f"{text}: {subject.loss} {row.loss_frac:+.2%} +- {row.loss_error_frac:.2%}; "
            f"{score_s:.0f} s for its quality, {row.wall_s - score_s:.0f} s for its time")  # fmt: skip
        rows.append(row)
    return Study(title=subject.title, scored=subject.scored, unit=subject.unit, loss=subject.loss, rows=rows)


def on_chips(subject: Subject, recipe: Recipe, specs: Sequence[ChipSpec]) -> list[Speed]:
    """A speed for each chip, in their order; a chip without one of the formats says what it has instead."""
    refusals = {spec.name: refusal(recipe.plan, spec) for spec in specs}
    able = [spec for spec in specs if not refusals[spec.name]]
    found = {speed.chip: speed for speed in (subject.speeds(recipe, able) if able else [])}
    return [found.get(spec.name, Speed(chip=spec.name, refused=refusals[spec.name])) for spec in specs]


def refusal(plan: Plan, spec: ChipSpec) -> str:
    """Why the chip does not multiply the plan: what it has, since when the format is there, the way in software."""
    for fmt in sorted({scheme.multiplied for _, scheme in plan.rules}):
        if path_or_none(spec, _rate(fmt)) is None:
            try:
                multiply_path(spec, _rate(fmt))
            except UnsupportedDtype as error:
                return str(error)
    return ""


def _rate(fmt: str) -> str:
    return {"mxfp8": "mx8"}.get(fmt, fmt)


def describe(row: Row, model: nn.Module) -> None:
    """Shares and bytes of a quantised model. Tied weights count once."""
    wide = sum(m.in_features * m.out_features for m in linears(model).values())
    low = [m for m in model.modules() if isinstance(m, QuantisedLinear)]
    n_low = sum((1 - m.wide_frac) * m.in_features * m.out_features for m in low)
    n_all = wide + sum(m.in_features * m.out_features for m in low)
    row.low_frac = n_low / n_all if n_all else 0.0
    row.linear_bytes = sum(layer.weight_bytes for layer in summary(model))
    held = {t.data_ptr(): t.nbytes for t in (*model.parameters(), *model.buffers())}
    row.memory_bytes = sum(held.values())


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which (cost, quality loss) no other point beats in both, by index."""
    return [
        i for i, (x, y) in enumerate(points)
        if not any((a <= x and b <= y) and (a < x or b < y) for a, b in points)
    ]  # fmt: skip


__all__ = ["BASELINE", "BEST", "Row", "Speed", "Study", "Subject", "describe", "on_chips", "pareto", "refusal", "study"]
