"""The page of `mtia quality`: a table and, for each chip, quality loss against time per token (Pareto front marked)."""

from __future__ import annotations

from html import escape
from pathlib import Path

from mtia.report import page
from mtia.report.quality import Quality, Study, pareto

HEADINGS = ("plan", "perplexity", "loss", "agreement", "linear weights", "values on")


def cells(study: Study, row: Quality) -> tuple[str, ...]:
    loss = study.loss_frac(row)
    return (
        row.plan, "-" if row.perplexity is None else f"{row.perplexity:.3f}", "-" if loss is None else f"{loss:+.2%}",
        "-" if row.agreement_frac is None else f"{row.agreement_frac:.2%}", f"{row.weight_bytes / 1e6:.1f} MB",
        row.chip or "no chip asked for has it",
    )  # fmt: skip


def speed_rows(study: Study) -> list[tuple[str, ...]]:
    """(chip, plan, tokens/s, J/token, first token) or why not."""
    return [
        (s.chip, row.plan, s.refused, "", "") if s.refused else
        (s.chip, row.plan, f"{s.tokens_per_s:.0f}", f"{s.j_per_token:.3g} J", f"{s.ttft_s * 1e3:.3g} ms")
        for row in study.rows for s in row.speeds
    ]  # fmt: skip


def write(study: Study, path: Path) -> Path:
    """A self-contained HTML page."""
    body = [page.table(HEADINGS, [cells(study, row) for row in study.rows])]
    if any(row.speeds for row in study.rows):
        body += [page.heading("Time and energy of one decode step"),
                 page.table(("chip", "plan", "tokens/s", "J/token", "first token"), speed_rows(study))]  # fmt: skip
    for chip in dict.fromkeys(s.chip for row in study.rows for s in row.speeds):
        body += [page.heading(f"{chip}: quality against speed"), plot(study, chip)]
    return page.write(path, title="Low precision: quality beside speed", body=body,
                      lead=f"SmolLM2-135M on {study.text}, {study.n_tokens:,} tokens")  # fmt: skip


def plot(study: Study, chip: str, *, width: int = 900, height: int = 320) -> str:
    """Loss of perplexity (up) against time per token (right); the front is filled."""
    held = [
        (1 / s.tokens_per_s, loss, row.plan)
        for row in study.rows for s in row.speeds
        if s.chip == chip and not s.refused and (loss := study.loss_frac(row)) is not None
    ]  # fmt: skip
    if not held:
        return page.note("this chip multiplies none of the plans")
    front = pareto([(x, y) for x, y, _ in held])
    right, top = max(x for x, _, _ in held) * 1.15, max(max(y for _, y, _ in held) * 1.15, 0.01)
    drawn = [_point(x / right * width, height - 30 - max(0.0, y / top) * (height - 50), name, i in front)
             for i, (x, y, name) in enumerate(held)]  # fmt: skip
    axis = f'<line x1="0" x2="{width}" y1="{height - 30}" y2="{height - 30}"/>'
    words = f"time per token, to {right * 1e3:.3g} ms; up: loss, to {top:.1%}"
    label = f'<text class="soft" x="0" y="{height - 8}">{words}</text>'
    return f'<svg viewBox="0 0 {width} {height}">{axis}{label}{"".join(drawn)}</svg>'


def _point(x: float, y: float, name: str, on_front: bool) -> str:
    fill = "#2a6f97" if on_front else "none"
    return (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#2a6f97"/>'
            f'<text x="{x + 9:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')  # fmt: skip
