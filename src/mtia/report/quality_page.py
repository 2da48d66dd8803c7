"""The tables and the page of `mtia quality`: quality by plan, speed by chip and plan, and for each chip loss against
time (Pareto front marked)."""

from __future__ import annotations

from html import escape
from pathlib import Path

from mtia.report import page
from mtia.report.quality import Row, Speed, Study, pareto
from mtia.units import format_si, format_time

SPEED_HEADINGS = ("chip", "plan", "a second", "energy each", "first", "bound by", "memory")
NOTE = (
    "loss: of {loss}, beside bfloat16; work low: share of the linear layers' multiplies in the plan's formats; values: "
    "the device's numbers, summed by the host in float32"
)


def headings(study: Study) -> tuple[str, ...]:
    names = (name.removesuffix("_frac").replace("_", " ") for name in study.rows[-1].figures)
    return ("plan", "loss", "std error", *names, "work low", "memory")


def cells(study: Study, row: Row) -> tuple[str, ...]:
    """The row under `headings`; a figure that a row has not is a dash."""
    is_base = row is study.rows[0]
    figures = (_figure(name, row.figures[name]) if name in row.figures else "-" for name in study.rows[-1].figures)
    return (
        row.plan, "-" if is_base else f"{row.loss_frac:+.2%}", "-" if is_base else f"{row.loss_error_frac:.2%}",
        *figures, f"{row.low_frac:.1%}", format_si(row.memory_bytes, "B"),
    )  # fmt: skip


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name.endswith("_frac") else f"{value:.4g}"


def speed_rows(study: Study) -> list[tuple[str, ...]]:
    """Under SPEED_HEADINGS, chip by chip."""
    chips = dict.fromkeys(s.chip for row in study.rows for s in row.speeds)
    return [_speed_cells(s, row) for chip in chips for row in study.rows for s in row.speeds
            if s.chip == chip and not s.refused]  # fmt: skip


def _speed_cells(s: Speed, row: Row) -> tuple[str, ...]:
    first = "-" if s.first_s is None else format_time(s.first_s)
    return (s.chip, row.plan, f"{s.per_s:,.0f}", format_si(s.j_each, "J"), first, s.bound,
            format_si(row.memory_bytes, "B"))  # fmt: skip


def refusals(study: Study) -> list[str]:
    """One sentence a chip and plan that do not go together."""
    return [f"{row.plan} on {s.chip}: {s.refused}" for row in study.rows for s in row.speeds if s.refused]


def write(study: Study, path: Path) -> Path:
    """A self-contained HTML page."""
    body = [page.table(headings(study), [cells(study, row) for row in study.rows])]
    body.append(page.note(NOTE.format(loss=study.loss)))
    if any(row.speeds for row in study.rows):
        body += [page.heading(f"Simulated {study.unit} a second, energy of one, memory")]
        body += [page.table(SPEED_HEADINGS, speed_rows(study)), *(page.note(line) for line in refusals(study))]
    for chip in dict.fromkeys(s.chip for row in study.rows for s in row.speeds):
        body += [page.heading(f"{chip}: quality against speed"), plot(study, chip)]
    return page.write(path, title=f"Low precision: {study.title}", body=body, lead=study.scored)


def plot(study: Study, chip: str, *, width: int = 900, height: int = 320) -> str:
    """Loss (up) against time of one unit (right); the front is filled."""
    held = [(1 / s.per_s, row.loss_frac, row.plan) for row in study.rows for s in row.speeds
            if s.chip == chip and not s.refused]  # fmt: skip
    if not held:
        return page.note("this chip multiplies none of the plans")
    front = pareto([(x, y) for x, y, _ in held])
    right, top = max(x for x, _, _ in held) * 1.15, max(max(y for _, y, _ in held) * 1.15, 0.001)
    drawn = [_point(x / right * width, height - 30 - max(0.0, y / top) * (height - 50), name, i in front)
             for i, (x, y, name) in enumerate(held)]  # fmt: skip
    axis = f'<line x1="0" x2="{width}" y1="{height - 30}" y2="{height - 30}"/>'
    words = f"time of one of the {study.unit}, to {format_time(right)}; up: loss of {study.loss}, to {top:.1%}"
    label = f'<text class="soft" x="0" y="{height - 8}">{escape(words)}</text>'
    return f'<svg viewBox="0 0 {width} {height}">{axis}{label}{"".join(drawn)}</svg>'


def _point(x: float, y: float, name: str, on_front: bool) -> str:
    fill = "#2a6f97" if on_front else "none"
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#2a6f97"/>'
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')  # fmt: skip
