"""From a folder and options to `Results`: read, choose, predict, compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtia.chips.pooled import pooled
from mtia.chips.spec import ChipSpec
from mtia.errors import did_you_mean
from mtia.fabric.nodes import nodes
from mtia.validate.cases import Case
from mtia.validate.chip_book import ChipBook, chip_book
from mtia.validate.fast_path import fast_gaps
from mtia.validate.intervals import intervals
from mtia.validate.predict import Status
from mtia.validate.reading import MeasuredDataError, MeasuredDataErrors, grouped
from mtia.validate.results import collect, with_rooflines
from mtia.validate.rows import MeasuredTable, read_folder
from mtia.validate.run import run_cases
from mtia.validate.sampling import chosen_files, sample
from mtia.validate.validation import Results


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`files`, `chips`, `dtypes`: only these (empty: all). `sample_n` 0: every row. `pooled`: no calibrated figure."""

    folder: Path
    files: Sequence[str] = ()
    chips: Sequence[str] = ()
    dtypes: Sequence[str] = ()
    sample_n: int = 0
    draw: int = 0
    jobs: int = 2
    fast: bool = False
    compare_fast: bool = False  # both the engine and the fast path, and how far they are apart
    pooled: bool = False
    published: bool = False  # chips from chips.json beside the data, where it has them
    n_draws: int = 0  # of chips within their ranges, for intervals; 0: no intervals
    skip_unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What there is to predict, on which chips, and what was skipped."""

    tables: Sequence[MeasuredTable]
    everything: Sequence[Case]  # of the tables, before chips and sample were chosen
    cases: Sequence[Case]
    book: ChipBook
    skipped: Sequence[str]


def select(options: Options) -> Selection:
    """The rows to predict. Raises MeasuredDataErrors on rows that cannot be used, unless they are to be skipped."""
    tables, errors = read_folder(options.folder)
    tables = chosen_files(tables, options.files)
    errors += [error for table in tables for error in table.errors]
    cases = [case for table in tables for case in table.cases]
    book, unknown = chip_book(
        (c for c in cases if c.table != "e2e_serving"), options.folder, published_first=options.published
    )
    errors += unknown
    if errors and not options.skip_unknown:
        raise MeasuredDataErrors(str(options.folder), errors)
    lost = {(error.file, error.line) for error in unknown}
    everything = [c for c in cases if (c.file, c.line) not in lost]
    chosen = _of_dtypes(_of_chips(everything, book, options.chips), options.dtypes)
    if options.sample_n:
        chosen = sample(chosen, options.sample_n, draw=options.draw)
    return Selection(tables=tables, everything=everything, cases=chosen, book=book, skipped=grouped(errors))


def _of_chips(cases: Sequence[Case], book: ChipBook, words: Sequence[str]) -> list[Case]:
    """The cases of the named chips: the chip's name, that of its machine, or as the rows write it. Raises on others."""
    if not words:
        return list(cases)
    chip_in = {name: node.chip for name, node in nodes().items()}
    names = {s: {s.lower(), spec.name.lower(), chip_in.get(s, s).lower()} for s, spec in book.specs.items()}
    known = sorted({name for both in names.values() for name in both})
    for word in words:
        if word.lower() not in known:
            raise MeasuredDataError("--chip", value=word, problem="has no rows here",
                                    allowed=f"There are {', '.join(known)}.{did_you_mean(word, known)}")  # fmt: skip
    wanted = {word.lower() for word in words}
    return [case for case in cases if names.get(case.system, set()) & wanted]


def _of_dtypes(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    known = sorted({case.dtype for case in cases})
    for word in words:
        if word not in known:
            raise MeasuredDataError("--dtype", value=word, problem="has no rows here",
                                    allowed=f"There are {', '.join(known)}.{did_you_mean(word, known)}")  # fmt: skip
    return [case for case in cases if not words or case.dtype in words]


def validate(
    options: Options, *, selection: Selection | None = None, progress: Callable[[int], Any] = lambda done: None
) -> Results:
    """Predict and compare. Raises MeasuredDataErrors, ChipFileError."""
    chosen = selection or select(options)
    specs = _specs(chosen.book.specs, options)
    start = time.perf_counter()
    answers = run_cases(chosen.cases, specs, jobs=options.jobs, fast=options.fast, progress=progress)
    wall_s = time.perf_counter() - start
    by_status = collect(chosen.cases, answers, specs)
    rows, fits = with_rooflines(by_status[Status.PREDICTED], chosen.everything, specs)
    results = Results(
        folder=str(options.folder), rows=rows, failed=by_status[Status.FAILED],
        missing=by_status[Status.NO_PREDICTOR], later=by_status[Status.LATER], skipped=chosen.skipped,
        chips={s: spec for s, spec in specs.items() if any(c.system == s for c in chosen.cases)},
        origins=chosen.book.origins, fits=fits, wall_s=wall_s, note=_note(options, len(chosen.cases)),
        pooled=options.pooled,
    )  # fmt: skip
    if options.compare_fast:
        quick = run_cases([r.case for r in rows], specs, jobs=options.jobs, fast=True, progress=progress)
        gaps = fast_gaps(rows, quick, lambda r: f"{r.case.file.removesuffix('.csv')}, {r.case.dtype}")
        results = replace(results, fast_gaps=gaps)
    if not options.n_draws:
        return results
    found = intervals(rows, specs, n_draws=options.n_draws, jobs=options.jobs, progress=progress)
    return replace(results, intervals=found)


def n_predictions(options: Options, selection: Selection) -> int:
    """How many predictions `validate` makes, for a progress bar (rows that fail are not drawn again)."""
    return len(selection.cases) * (1 + options.n_draws + options.compare_fast)


def _specs(specs: Mapping[str, ChipSpec], options: Options) -> dict[str, ChipSpec]:
    return {system: pooled(spec) if options.pooled else spec for system, spec in specs.items()}


def _note(options: Options, n_rows: int) -> str:
    """What is not the plain run over all rows."""
    said = [f"{n_rows:,} rows"]
    if options.sample_n:
        said.append(f"draw {options.draw} of {options.sample_n} rows per file and chip")
    if options.fast:
        said.append("analytical fast path where there is one")
    if options.pooled:
        said.append("every calibrated figure replaced by the value pooled over the other chips")
    if options.published:
        said.append("chips from their published figures alone, their own chip files unread")
    if options.n_draws:
        said.append(f"intervals from {options.n_draws} chips drawn from the ranges of each")
    return "; ".join(said)


__all__ = ["Options", "Selection", "n_predictions", "select", "validate"]
