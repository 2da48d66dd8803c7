"""Fits at most six figures of a chip to measurements: coordinate descent on mean |ln(predicted / measured)|.

Every figure stays inside the range its chip file states; nothing else of the chip, and nothing in the engine, moves.
One factor scales a whole table (`power.mac_j`), so that it counts once. Rows are a sample that is the same on every
machine (`sampling.sample`); another draw of it, never fitted, is reported beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import exp, log
from pathlib import Path
from typing import Any

from mtia.chips.loader import DATA
from mtia.chips.pooled import calibrated_keys
from mtia.chips.spec import LEAVES, ChipSpec, SourceKind
from mtia.chips.writing import write_figures
from mtia.errors import MtiaError
from mtia.validate.cases import Case
from mtia.validate.predict import Status, answer
from mtia.validate.statistics import Errors, errors_of
from mtia.workloads.prediction import Protocol

MOST_FIGURES = 6
GRAPH_FIGURES = ("launch.replace_s", "launch.control_s", "sram.bytes_per_s", "power.mac_j")
KERNEL_FIGURES = ("dram.efficiency_frac", "sram.bytes_per_s", "power.mac_j", "launch.start_s", "dram.latency_s")
EAGER_FIGURES = ("launch.host_s", "dram.efficiency_frac", "sram.bytes_per_s", "power.mac_j")
TABLES = ("gemm", "attention", "ops_eager", "layer_ops_profiled", "layer_ops_serving")
SCAN_POINTS = 12  # parts of a figure's range, in logarithms, whose ends the first round tries; later steps halve
LEAST_GAIN = 1e-4  # of the objective: less is no improvement

Predict = Callable[[Case, ChipSpec], float]
Told = Callable[[str], Any]


class CannotCalibrate(MtiaError, ValueError):
    """A figure that has no range, too many of them, or no data."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knob:
    """One fitted number: the factor on a figure (or all entries of a table), held to [low, high] in logarithms."""

    key: str
    entries: Mapping[str, float]  # figure -> value at factor 1
    low: float
    high: float

    def changes(self, factor_ln: float) -> dict[str, float]:
        return {key: _kept_type(key, value * exp(factor_ln)) for key, value in self.entries.items()}


@dataclass(slots=True)
class Fit:
    """What came of it. `objective`: mean |ln| over the fitted rows, `n_evaluations` of the whole sample."""

    spec: ChipSpec
    knobs: tuple[Knob, ...]
    factors_ln: dict[str, float]
    before: float
    objective: float
    n_evaluations: int = 0
    history: list[str] = field(default_factory=list)

    @property
    def fitted(self) -> ChipSpec:
        return varied(self.spec, self.knobs, self.factors_ln)


def knobs_of(spec: ChipSpec, keys: Sequence[str]) -> tuple[Knob, ...]:
    """The knobs of figures; raises CannotCalibrate where one has no range, or where there are more than six."""
    _check_number(spec, keys, set())
    knobs = tuple(_knob(spec, key) for key in keys)
    _check_number(spec, keys, calibrated_elsewhere(spec, keys))
    return knobs


def _check_number(spec: ChipSpec, keys: Sequence[str], elsewhere: set[str]) -> None:
    if len(keys) + len(elsewhere) > MOST_FIGURES:
        beside = f" beside {', '.join(sorted(elsewhere))}" if elsewhere else ""
        raise CannotCalibrate(
            f"{spec.name}: {len(keys)} figures to calibrate{beside}, at most {MOST_FIGURES}; leave some out."
        )


def _knob(spec: ChipSpec, key: str) -> Knob:
    if key not in LEAVES:
        raise CannotCalibrate(f"{spec.name}: no figure {key!r}; name one as `mtia chips show {spec.name}` does.")
    entries = [f"{key}.{e}" for e in spec.get(key)] if LEAVES[key].table else [key]
    lows, highs, values = [], [], {}
    for entry in entries:
        figure = spec.figures.get(entry)
        source = figure.source if figure is not None else None
        if source is None or source.kind not in (SourceKind.ASSUMED, SourceKind.CALIBRATED) or not source.low:
            raise CannotCalibrate(
                f"{spec.name}: {entry} has no range above zero to be calibrated in; "
                "only assumed and calibrated figures may be."
            )
        values[entry] = float(spec.get(entry))
        lows.append(log(source.low / values[entry]))
        highs.append(log((source.high or source.low) / values[entry]))
    return Knob(key=key, entries=values, low=max(lows), high=min(highs))


def _kept_type(key: str, value: float) -> float:
    leaf = LEAVES.get(key)
    return round(value) if leaf is not None and leaf.kind is int else value


def varied(spec: ChipSpec, knobs: Sequence[Knob], factors_ln: Mapping[str, float]) -> ChipSpec:
    """The chip with the knobs' factors on its figures."""
    changes: dict[str, float] = {}
    for knob in knobs:
        if factors_ln[knob.key]:
            changes |= knob.changes(factors_ln[knob.key])
    return spec.vary(changes, name=spec.name) if changes else spec


def default_figures(spec: ChipSpec, cases: Sequence[Case]) -> tuple[str, ...]:
    """The figures that these rows can tell, most telling first, as many as six leave beside those calibrated elsewhere:
    the launch path by how latencies were taken, rates, and energy (which is the clock under a power limit)."""
    protocols = {getattr(case, "protocol", None) for case in cases}
    if protocols & {Protocol.GRAPH_CHAIN, Protocol.GRAPH_ONE}:
        found = GRAPH_FIGURES
    else:
        found = KERNEL_FIGURES if Protocol.KERNEL in protocols else EAGER_FIGURES
    return found[: MOST_FIGURES - len(calibrated_elsewhere(spec, found))]


def calibrated_elsewhere(spec: ChipSpec, keys: Sequence[str]) -> set[str]:
    """Figures of the chip that something else has calibrated (collectives): they count among the six."""
    found = {LEAVES[k].key if k in LEAVES else k.rpartition(".")[0] for k in calibrated_keys(spec)}
    return found - set(keys)


# --- the descent ------------------------------------------------------------------------------------------------------


def calibrate(
    spec: ChipSpec, cases: Sequence[Case], keys: Sequence[str], *, rounds: int = 3, predict: Predict | None = None,
    told: Told = lambda line: None,
) -> Fit:  # fmt: skip
    """Coordinate descent: each figure in turn over its whole range, then up or down in steps that halve every round;
    rates two at a time too."""
    knobs = knobs_of(spec, keys)
    if not cases:
        raise CannotCalibrate(f"{spec.name}: no measurements to calibrate on.")
    descent = _Descent(spec, cases, knobs, predict or predicted_s)
    fit = Fit(spec=spec, knobs=knobs, factors_ln={k.key: 0.0 for k in knobs}, before=0.0, objective=0.0)
    fit.before = fit.objective = descent.objective(fit.factors_ln)
    told(f"{spec.name}: mean |ln| {fit.before:.4f} over {len(cases)} rows")
    for turn in range(rounds):
        for knob in knobs:
            if turn == 0:
                _scan(descent, fit, knob)
            else:
                _descend(descent, fit, knob, (knob.high - knob.low) / SCAN_POINTS / 2**turn)
            told(f"round {turn + 1}, {knob.key} x {exp(fit.factors_ln[knob.key]):.3f}: {fit.objective:.4f}")
        for pair in combinations(descent.rate_knobs, 2):
            _descend_pair(descent, fit, pair, 2**-turn)
            told(f"round {turn + 1}, {' and '.join(k.key for k in pair)} together: {fit.objective:.4f}")
    fit.n_evaluations = descent.n_evaluations
    return fit


def _scan(descent: _Descent, fit: Fit, knob: Knob) -> None:
    """The best of a few places over the whole range: a power limit, say, does nothing until it binds."""
    for i in range(SCAN_POINTS + 1):
        _try(descent, fit, knob, knob.low + (knob.high - knob.low) * i / SCAN_POINTS)


def _descend(descent: _Descent, fit: Fit, knob: Knob, step: float) -> None:
    """Up or down as long as that helps."""
    for direction in (1.0, -1.0):
        improved = False
        while _try(descent, fit, knob, fit.factors_ln[knob.key] + direction * step):
            improved = True
        if improved:
            return


def _descend_pair(descent: _Descent, fit: Fit, pair: tuple[Knob, Knob], part: float) -> None:
    """Both at once, the same way or against each other: rates that bound the same rows give way together or not at all
    (more energy a multiply lets the cache be faster)."""
    for signs in ((1, 1), (-1, -1), (1, -1), (-1, 1)):
        steps = {k.key: s * part * (k.high - k.low) / SCAN_POINTS for k, s in zip(pair, signs, strict=True)}
        improved = False
        while _try_all(descent, fit, {k: fit.factors_ln[k.key] + steps[k.key] for k in pair}):
            improved = True
        if improved:
            return


def _try(descent: _Descent, fit: Fit, knob: Knob, factor_ln: float) -> bool:
    """Moves the knob there if that is better."""
    return _try_all(descent, fit, {knob: factor_ln})


def _try_all(descent: _Descent, fit: Fit, to: Mapping[Knob, float]) -> bool:
    """Moves the knobs there if that is better."""
    moved = {knob.key: min(max(factor_ln, knob.low), knob.high) for knob, factor_ln in to.items()}
    if all(abs(at - fit.factors_ln[key]) < 1e-9 for key, at in moved.items()):
        return False
    factors = {**fit.factors_ln, **moved}
    objective = descent.objective(factors)
    if objective >= fit.objective - LEAST_GAIN:
        return False
    fit.factors_ln, fit.objective = factors, objective
    return True


class _Descent:
    """The objective of factors. Latencies are affine in the figures of the launch path, so that each of those costs one
    prediction of the sample and none while it is fitted; the others are predicted anew."""

    def __init__(self, spec: ChipSpec, cases: Sequence[Case], knobs: Sequence[Knob], predict: Predict) -> None:
        self.spec, self.cases, self.knobs, self.predict = spec, cases, knobs, predict
        self.n_evaluations = 0
        self.known: dict[tuple[float, ...], list[float]] = {}
        self.launch_knobs = [k for k in knobs if k.key.startswith("launch.")]
        self.rate_knobs = [k for k in knobs if k not in self.launch_knobs]
        self.per_factor = {k.key: self._launches(k) for k in self.launch_knobs}

    def objective(self, factors_ln: Mapping[str, float]) -> float:
        at = tuple(factors_ln[k.key] for k in self.rate_knobs)
        if at not in self.known:
            self.known[at] = self._predicted({**factors_ln, **{k.key: 0.0 for k in self.launch_knobs}})
        total = 0.0
        for i, (case, seconds) in enumerate(zip(self.cases, self.known[at], strict=True)):
            more = sum(self.per_factor[k.key][i] * (exp(factors_ln[k.key]) - 1) for k in self.launch_knobs)
            total += abs(log(max((seconds + more) / case.measured_s, 1e-3)))  # rates are seconds per byte
        return total / len(self.cases)

    def _launches(self, knob: Knob) -> list[float]:
        """Seconds of each case that are this figure's, at factor 1."""
        step = knob.high if knob.high > -knob.low else knob.low
        none = {k.key: 0.0 for k in self.knobs}
        before, after = self._plain(), self._predicted({**none, knob.key: step})
        return [(b - a) / (exp(step) - 1) for a, b in zip(before, after, strict=True)] if step else [0.0] * len(before)

    def _plain(self) -> list[float]:
        at = (0.0,) * len(self.rate_knobs)
        if at not in self.known:
            self.known[at] = self._predicted({k.key: 0.0 for k in self.knobs})
        return self.known[at]

    def _predicted(self, factors_ln: Mapping[str, float]) -> list[float]:
        self.n_evaluations += 1
        spec = varied(self.spec, self.knobs, factors_ln)
        return [self.predict(case, spec) for case in self.cases]


def predicted_s(case: Case, spec: ChipSpec) -> float:
    """What `mtia validate` predicts for the row. Raises CannotCalibrate where it cannot."""
    return _seconds(case, spec, fast=False)


def quickly_predicted_s(case: Case, spec: ChipSpec) -> float:
    """As `predicted_s`, by the analytical fast path of the operators that have one: 20 times as fast. Its own bias of 1
    to 3 % then goes into the figures."""
    return _seconds(case, spec, fast=True)


def _seconds(case: Case, spec: ChipSpec, *, fast: bool) -> float:
    found = answer(case, {case.system: spec}, fast=fast)
    if found.status is not Status.PREDICTED:
        raise CannotCalibrate(f"{case.where} ({case}): {found.error or found.status.value}")
    return found.seconds


def predictable(spec: ChipSpec, cases: Sequence[Case], predict: Predict | None = None) -> tuple[list[Case], list[str]]:
    """The rows that can be predicted, and why each other one cannot."""
    good, why = [], []
    for case in cases:
        try:
            (predict or predicted_s)(case, spec)
        except CannotCalibrate as error:
            why.append(str(error))
        else:
            good.append(case)
    return good, why


def errors_on(spec: ChipSpec, cases: Sequence[Case], predict: Predict | None = None) -> dict[str, Errors]:
    """Errors by file and over all ("all")."""
    predict = predict or predicted_s
    rows = [(case.file, predict(case, spec), case.measured_s) for case in cases]
    groups = {name: [r for r in rows if r[0] == name] for name in dict.fromkeys(r[0] for r in rows)}
    return {name: errors_of([p for _, p, _ in g], [m for _, _, m in g]) for name, g in {**groups, "all": rows}.items()}


# --- the chip file ----------------------------------------------------------------------------------------------------


def calibrated_figures(fit: Fit, data: str) -> dict[str, tuple[object, dict[str, Any]]]:
    """The fitted figures as a chip file states them; `data` is what they were fitted on. Their ranges stay."""
    return {knob.key: _calibrated(fit, knob, data) for knob in fit.knobs}


def _calibrated(fit: Fit, knob: Knob, data: str) -> tuple[object, dict[str, Any]]:
    values = knob.changes(fit.factors_ln[knob.key])
    sources = {key: fit.spec.figures[key].source for key in values}
    first = next(iter(sources.values()))
    note = (
        first.note
        if first.kind is SourceKind.CALIBRATED
        else f"before: {fit.spec.get(next(iter(values))):.4g}, {first.text}"
    )
    low: dict[str, float] = {key: float(s.low or 0.0) for key, s in sources.items()}
    high: dict[str, float] = {key: float(s.high or 0.0) for key, s in sources.items()}
    ends = {end: _table_or_number(knob.key, bound) for end, bound in (("low", low), ("high", high))}
    return _table_or_number(knob.key, values), {"kind": "calibrated", **ends, "data": data, "note": note}


def _table_or_number(key: str, values: Mapping[str, float]) -> object:
    if LEAVES[key].table:
        return {entry.rpartition(".")[2]: value for entry, value in values.items()}
    return values[key]


def write_chip(fit: Fit, data: str, path: Path | None = None) -> Path:
    """Writes the fitted figures into the chip's file (that of the package by default)."""
    path = path or DATA / f"{fit.spec.name}.toml"
    write_figures(path, calibrated_figures(fit, data))
    return path


__all__ = [
    "EAGER_FIGURES", "GRAPH_FIGURES", "KERNEL_FIGURES", "MOST_FIGURES", "TABLES", "CannotCalibrate", "Fit", "Knob",
    "calibrate",
    "calibrated_figures", "default_figures", "errors_on", "knobs_of", "predictable", "predicted_s",
    "quickly_predicted_s", "varied",
    "write_chip",
]  # fmt: skip
