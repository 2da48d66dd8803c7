"""A validation as text: rich tables on the terminal, markdown and JSON in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtia.validate.aims import Verdict, verdicts
from mtia.validate.constants import constants, counts
from mtia.validate.fast_path import FastGap
from mtia.validate.intervals import Coverage, coverage
from mtia.validate.results import RowResult
from mtia.validate.statistics import Errors
from mtia.validate.tables import ErrorTable, Line, error_tables, explanation, milliseconds, shown, worst
from mtia.validate.validation import Results

LEGEND = (
    "errors are |predicted / measured - 1|; bias: geometric mean of predicted / measured, above 0 is too slow; "
    "abs ln: mean |ln(predicted / measured)|; rank: Spearman; roof: mean error of the spec roofline; cal.: of the "
    "roofline fitted to these measurements (3 figures per chip, operator and number format of 12 rows and more)"
)
HEADINGS = ("n", "median", "mean", "p90", "bias", "abs ln", "rank", "roof", "cal.")
ON_TERMINAL = ("all", "by_file", "by_chip", "by_dtype", "by_band", "by_bound")


def cells(line: Line) -> list[str]:
    ours = line.ours
    rank = "–" if ours.spearman is None else f"{ours.spearman:.3f}"
    return [f"{ours.n:,}", _percent(ours.median_frac), _percent(ours.mean_frac), _percent(ours.p90_frac),
            f"{100 * ours.bias_frac:+.1f}", f"{ours.mean_abs_ln:.3f}", rank, _mean(line.roofline),
            _mean(line.calibrated)]  # fmt: skip


def _mean(errors: Errors | None) -> str:
    return "–" if errors is None else _percent(errors.mean_frac)


def _percent(frac: float) -> str:
    return f"{100 * frac:.1f}" if frac < 9.995 else f"{100 * frac:.0f}"


# --- terminal ---------------------------------------------------------------------------------------------------------


def print_results(console: Console, results: Results, *, n_worst: int, everything: bool = False) -> None:
    """The page, most wanted last: it is what stays on the screen."""
    for part in page(results, n_worst=n_worst, everything=everything):
        console.print(part)


def page(results: Results, *, n_worst: int, everything: bool) -> Iterator[RenderableType]:
    yield Text(f"{results.folder}: {results.note}")
    yield chips_table(results, everything=everything)
    for table in error_tables(results.rows):
        if everything or table.name in ON_TERMINAL:
            yield rich_errors(table)
    if results.rows:
        yield Text(LEGEND, style="dim")
    if n_worst and results.rows:
        yield Text("\nWorst rows", style="bold")
        yield from (Text(line) for row in worst(results.rows, n_worst) for line in worst_lines(row))
    if found := verdicts(results.rows, pooled=results.pooled):
        yield rich_verdicts(found)
    if results.intervals:
        yield rich_coverage(coverage_of(results))
    if results.fast_gaps:
        yield rich_fast_gaps(results.fast_gaps)
    yield speed_table(results)
    if lines := list(warning_lines(results)):
        yield Text("\n".join(lines), style="yellow")
    yield not_predicted(results)


def _plain(title: str) -> Table:
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))


def rich_errors(table: ErrorTable) -> Table:
    made = _plain(f"{table.title}, errors in %")
    made.add_column("", overflow="fold", min_width=16)
    for heading in HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for line in table.lines:
        made.add_row(line.label, *cells(line))
    return made


def rich_verdicts(found: Sequence[Verdict]) -> Table:
    made = _plain("Aims")
    made.add_column("", overflow="fold")
    for heading in ("rows", "aim", "found", "cal.", ""):
        made.add_column(heading, justify="right", no_wrap=True)
    for verdict in found:
        made.add_row(*verdict_cells(verdict), style="" if verdict.met else "yellow")
    return made


def verdict_cells(verdict: Verdict) -> list[str]:
    calibrated = "–" if verdict.calibrated_frac is None else f"{100 * verdict.calibrated_frac:.1f} %"
    return [verdict.title, f"{verdict.n:,}", f"{100 * verdict.most_frac:.0f} %", f"{100 * verdict.found_frac:.1f} %",
            calibrated, "met" if verdict.met else "missed"]  # fmt: skip


FAST_HEADINGS = ("rows", "median", "p90", "beyond 10 %", "fast ms", "engine ms")


def rich_fast_gaps(found: Sequence[FastGap]) -> Table:
    made = _plain("Fast path against the engine, |fast / engine - 1|")
    made.add_column("", overflow="fold")
    for heading in FAST_HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for gap in found:
        made.add_row(*fast_cells(gap))
    return made


def fast_cells(gap: FastGap) -> list[str]:
    return [gap.label, f"{gap.n:,}", f"{100 * gap.median_frac:.1f} %", f"{100 * gap.p90_frac:.1f} %",
            f"{100 * gap.outside_frac:.0f} %", f"{gap.fast_ms:.1f}", f"{gap.engine_ms:.1f}"]  # fmt: skip


COVERAGE_HEADINGS = ("rows", "inside", "interval", "by figures", "interval")


def coverage_of(results: Results) -> list[Coverage]:
    return coverage(results.intervals, lambda r: f"{r.case.file.removesuffix('.csv')}, {r.case.operator}")


def rich_coverage(found: Sequence[Coverage]) -> Table:
    made = _plain("Inside the 90 % interval; by figures: only the ranges of figures, not the engine's own residual")
    made.add_column("", overflow="fold")
    for heading in COVERAGE_HEADINGS:
        made.add_column(heading, justify="right", no_wrap=True)
    for line in found:
        made.add_row(*coverage_cells(line))
    return made


def coverage_cells(line: Coverage) -> list[str]:
    return [line.label, f"{line.n:,}", f"{100 * line.inside_frac:.0f} %", f"x/ {line.factor:.2f}",
            f"{100 * line.inside_figures_frac:.0f} %", f"x/ {line.figures_factor:.2f}"]  # fmt: skip


def worst_lines(row: RowResult) -> list[str]:
    said = explanation(row)
    return [
        f"{row.chip} {row.case} ({row.case.where})",
        f"  measured {shown(row, row.measured_s)}, predicted {shown(row, row.predicted_s)} "
        f"({100 * row.error_frac:+.0f} %), bound by {row.answer.bound or 'not said'}{f': {said}' if said else ''}",
    ]


def chips_table(results: Results, *, everything: bool) -> RenderableType:
    """Which chip a `system` is, and figures nobody published: calibrated ones in full, the assumed ones if asked."""
    found = constants({spec.name: spec for spec in results.chips.values()}.values())
    made = _plain("Chips")
    for heading in ("system", "chip", "from", "not published"):
        made.add_column(heading, overflow="fold")
    for system, spec in sorted(results.chips.items()):
        kinds = ", ".join(f"{n} {kind}" for kind, n in counts(found[spec.name]).items()) or "none"
        made.add_row(system, spec.name, results.origins.get(system, ""), kinds)
    return Group(made, *_constant_tables(found, everything))


def _constant_tables(found: dict[str, dict[str, dict[str, Any]]], everything: bool) -> Iterator[Table]:
    made = _plain("Figures that are calibrated" + (" or assumed" if everything else " (--constants: and assumed)"))
    for heading in ("chip", "figure", "value", "range", "source"):
        made.add_column(heading, overflow="fold")
    for chip, figures in sorted(found.items()):
        for key, figure in figures.items():
            if everything or figure["kind"] == "calibrated":
                made.add_row(chip, key, figure["text"], figure["range"], f"{figure['kind']}: {figure['source']}")
    if made.rows:
        yield made


def speed_table(results: Results) -> RenderableType:
    made = _plain(f"Processor milliseconds per prediction (whole run: {results.wall_s:.1f} s)")
    made.add_column("")
    for heading in ("rows", "median", "mean", "largest"):
        made.add_column(heading, justify="right")
    for name, of in milliseconds(results.rows, lambda r: r.case.file.removesuffix(".csv")).items():
        made.add_row(name, f"{of.n:,}", f"{of.median_ms:.1f}", f"{of.mean_ms:.1f}", f"{of.largest_ms:.0f}")
    return made


def not_predicted(results: Results) -> Text:
    """What is missing from the tables above, and why; "every row was predicted" otherwise."""
    lines = list(not_predicted_lines(results))
    return Text("\n".join(lines) if lines else "every row was predicted", style="yellow" if lines else "green")


def not_predicted_lines(results: Results, *, shown_rows: int = 10) -> Iterator[str]:
    for reason, n in _counted(results.missing, lambda r: f"{r.case.file}: no predictor yet ({r.answer.error})"):
        yield f"{reason}: {n:,} rows"
    for reason, n in _counted(results.later, lambda r: f"{r.case.file}: not predicted yet (serving is a later issue)"):
        yield f"{reason}: {n:,} rows"
    if results.failed:
        yield f"{len(results.failed):,} rows failed:"
        kinds = _counted(results.failed, lambda r: r.answer.error)
        for reason, n in kinds[:shown_rows]:
            first = next(r for r in results.failed if r.answer.error == reason)
            yield f"  {first.case.where} {first.chip} {first.case}: {reason}{f' ({n} rows like it)' if n > 1 else ''}"
        if len(kinds) > shown_rows:
            yield f"  ... {len(kinds) - shown_rows} more kinds (errors.json lists every row)"
    for line in results.skipped:
        yield f"skipped: {line}"


def warning_lines(results: Results, *, shown_kinds: int = 5) -> Iterator[str]:
    """What the simulator warned of while it predicted, each once, with the first row."""
    warned = [row for row in results.rows if row.answer.warning]
    kinds = _counted(warned, lambda r: r.answer.warning)
    for warning, n in kinds[:shown_kinds]:
        first = next(row for row in warned if row.answer.warning == warning)
        yield f"warning: {first.chip} {first.case}{f' and {n - 1} more' if n > 1 else ''}: {warning}"
    if len(kinds) > shown_kinds:
        yield f"... and {len(kinds) - shown_kinds} more warnings (errors.json lists every one)"


def _counted(rows: Sequence[RowResult], reason: Callable[[RowResult], str]) -> list[tuple[str, int]]:
    found: dict[str, int] = {}
    for row in rows:
        found[reason(row)] = found.get(reason(row), 0) + 1
    return sorted(found.items(), key=lambda item: -item[1])


# --- JSON and markdown ------------------------------------------------------------------------------------------------


def to_json(results: Results, *, n_worst: int) -> dict[str, Any]:
    """Everything but the rows themselves; `speed` is wall clock, the rest is the same for the same input."""
    speed = milliseconds(results.rows, lambda r: r.case.file.removesuffix(".csv"))
    return {
        "folder": results.folder,
        "note": results.note,
        "tables": {table.name: table.to_json() for table in error_tables(results.rows)},
        "aims": {verdict.title: verdict.to_json() for verdict in verdicts(results.rows, pooled=results.pooled)},
        "intervals": {line.label: line.to_json() for line in coverage_of(results)},
        "fast_path": {gap.label: gap.to_json() for gap in results.fast_gaps},
        "worst": [row_json(row) for row in worst(results.rows, n_worst)],
        "not_predicted": {
            "failed": [{"row": r.case.where, "chip": r.chip, "case": str(r.case), "error": r.answer.error}
                       for r in results.failed],
            "no_predictor": dict(_counted(results.missing, lambda r: f"{r.case.file}: {r.answer.error}")),
            "later": dict(_counted(results.later, lambda r: f"{r.case.file}: {r.answer.status}")),
            "skipped": list(results.skipped),
        },
        "warnings": dict(_counted([r for r in results.rows if r.answer.warning], lambda r: r.answer.warning)),
        "chips": {system: {"chip": spec.name, "from": results.origins.get(system, ""), "fingerprint": spec.fingerprint}
                  for system, spec in sorted(results.chips.items())},
        "constants": constants({spec.name: spec for spec in results.chips.values()}.values()),
        "calibrated_rooflines": {group: {"flop_frac": f.flop_frac, "byte_frac": f.byte_frac, "floor_s": f.floor_s}
                                 for group, f in sorted(results.fits.items())},
        "speed": {"wall_s": results.wall_s, "ms_per_prediction": {name: asdict(of) for name, of in speed.items()}},
    }  # fmt: skip


def row_json(row: RowResult) -> dict[str, Any]:
    return {
        "row": row.case.where, "chip": row.chip, "case": str(row.case), "measured": row.measured_s,
        "predicted": row.predicted_s, "error_frac": row.error_frac, "bound": row.answer.bound,
        "parts_s": dict(row.answer.parts or {}), "how": row.answer.how, "roofline_s": row.roofline_s,
        "calibrated_roofline_s": row.calibrated_s,
    }  # fmt: skip


def write_folder(folder: Path, results: Results, *, n_worst: int) -> list[Path]:
    """errors.md, errors.json, rows.csv (every predicted row)."""
    folder.mkdir(parents=True, exist_ok=True)
    markdown, plain, rows = folder / "errors.md", folder / "errors.json", folder / "rows.csv"
    markdown.write_text("\n".join(_markdown(results, n_worst)) + "\n", encoding="utf-8")
    plain.write_text(json.dumps(to_json(results, n_worst=n_worst), indent=1) + "\n", encoding="utf-8")
    rows.write_text("\n".join(_csv(results)) + "\n", encoding="utf-8")
    return [markdown, plain, rows]


def _csv(results: Results) -> Iterator[str]:
    yield "file,line,system,chip,operator,dtype,measured,predicted,roofline,calibrated_roofline,bound,how"
    for row in results.rows:
        case, how = row.case, row.answer.how.replace('"', "'")
        numbers = (row.measured_s, row.predicted_s, row.roofline_s, row.calibrated_s)
        said = ",".join("" if v is None else f"{v:.6g}" for v in numbers)
        who = f"{case.file},{case.line},{case.system},{row.chip},{case.operator},{case.dtype}"
        yield f'{who},{said},{row.answer.bound},"{how}"'


def _markdown(results: Results, n_worst: int) -> Iterator[str]:
    yield f"# Errors on {results.folder}"
    yield ""
    if results.note:
        yield f"{results.note}\n"
    yield f"{LEGEND[0].upper()}{LEGEND[1:]}. Errors in %.\n"
    if found := verdicts(results.rows, pooled=results.pooled):
        yield from _md_table("Aims", ("", "rows", "aim", "found", "cal.", ""), [verdict_cells(v) for v in found])
    if results.intervals:
        lines = [coverage_cells(line) for line in coverage_of(results)]
        yield from _md_table("Inside the 90 % interval", ("", *COVERAGE_HEADINGS), lines)
    if results.fast_gaps:
        yield from _md_table(
            "Fast path against the engine", ("", *FAST_HEADINGS), [*map(fast_cells, results.fast_gaps)]
        )
    for table in error_tables(results.rows):
        yield from _md_table(table.title, ("", *HEADINGS), [[line.label, *cells(line)] for line in table.lines])
    yield "## Worst rows\n"
    for row in worst(results.rows, n_worst):
        first, second = worst_lines(row)
        yield f"- {first}:{second.replace('  ', ' ')}"
    yield "\n## Not predicted\n"
    yield from (f"- {line.strip()}" for line in not_predicted_lines(results))
    yield from (f"- {line}" for line in warning_lines(results, shown_kinds=100))
    yield "\n## Constants\n"
    for chip, figures in sorted(constants({s.name: s for s in results.chips.values()}.values()).items()):
        lines = [[key, f["text"], f["range"], f["kind"], f["source"]] for key, f in figures.items()]
        yield from _md_table(chip, ("figure", "value", "range", "kind", "source"), lines, level=3)


def _md_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {title}\n"
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


__all__ = ["page", "print_results", "to_json", "write_folder"]
