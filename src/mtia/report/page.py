"""Self-contained HTML pages: inline SVG and CSS, no script, no network; readable in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mtia.report.summary import BOUNDS, KernelSummary, Launch
from mtia.units import format_si, format_time

COLORS = {
    "launch": "#8d99ae", "DRAM": "#d1495b", "SRAM": "#edae49", "DPE": "#2a6f97", "vector": "#52a175", "NoC": "#9d6b9f",
    "issue": "#7a6c5d", "latency": "#c08552", "host": "#444b58",
}  # fmt: skip
assert set(COLORS) == set(BOUNDS)

_STYLE = """
:root{--ink:#1c2430;--soft:#667085;--line:#d9dee7;--paper:#fff;--card:#f6f7fa}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#333c4b;--paper:#12161d;--card:#1a202a}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1080px;margin:2rem auto;padding:0 1.2rem}h1{font-size:1.5rem;margin:0}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p.lead,.note{color:var(--soft)}.note{font-size:.87rem}blockquote{background:var(--card);border-left:3px solid #2a6f97;
margin:.8rem 0;padding:.7rem 1rem;white-space:pre-wrap}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;
font-size:.86rem;font-variant-numeric:tabular-nums}th,td{padding:.35rem .6rem;border-bottom:1px solid var(--line);
text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:600}tr.strong td{font-weight:700}small{color:var(--soft)}
svg{width:100%;height:auto;font:12px system-ui,sans-serif}svg text{fill:var(--ink)}svg .soft{fill:var(--soft)}
svg line{stroke:var(--ink)}.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.82rem;margin:.3rem 0}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em}
details{border-bottom:1px solid var(--line);padding:.3rem 0}summary{cursor:pointer}code{font-size:.9em}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One stacked bar: `parts_s` by name of BOUNDS; `low` and `high` bound the sum where figures are assumed."""

    label: str
    parts_s: Mapping[str, float]
    low: float | None = None
    high: float | None = None


def write(path: Path, *, title: str, lead: str, body: Iterable[str]) -> Path:
    """The page from sections that the functions below give."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{"".join(body)}</body></html>\n'
    )
    return path


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def quote(text: str) -> str:
    return f"<blockquote>{escape(text)}</blockquote>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, strong: int = -1) -> str:
    """A table; row number `strong` stands out."""
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    lines = [
        f"<tr{' class=strong' if i == strong else ''}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for i, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def kernels(rows: Sequence[KernelSummary], everything: KernelSummary) -> str:
    """The table of kernels."""
    headings = ("kernel", "calls", "time", "share", "DRAM", "SRAM", "FLOP", "energy", "bound by", "of roof")
    return table(headings, [_kernel_cells(r, everything.time_s) for r in (*rows, everything)], strong=len(rows))


def _kernel_cells(row: KernelSummary, total_s: float) -> tuple[str, ...]:
    return (
        row.name, f"{row.calls:,}", format_time(row.time_s), f"{100 * row.time_s / (total_s or 1):.1f}%",
        format_si(row.dram_bytes, "B"), format_si(row.sram_bytes, "B"), format_si(row.flop, ""),
        format_si(row.energy_j, "J"), f"{row.bound} {100 * row.bound_frac:.0f}%", f"{100 * row.roof_frac:.1f}%",
    )  # fmt: skip


def bars(held: Sequence[Bar], *, width: int = 1000) -> str:
    """Stacked horizontal bars on one scale, with a whisker where there is an interval."""
    left, right, step = 130, 110, 34
    top = max([sum(b.parts_s.values()) for b in held] + [b.high or 0.0 for b in held]) or 1.0
    scale = (width - left - right) / top
    drawn = [_bar(bar, left, 8 + i * step, scale) for i, bar in enumerate(held)]
    used = [part for part in BOUNDS if any(bar.parts_s.get(part) for bar in held)]
    return f'{key(used)}<svg viewBox="0 0 {width} {len(held) * step + 10}">{"".join(drawn)}</svg>'


def _bar(bar: Bar, left: float, y: float, scale: float) -> str:
    x, out = left, [f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(bar.label)}</text>']
    for part in BOUNDS:
        width = bar.parts_s.get(part, 0.0) * scale
        if width > 0:
            out.append(_rectangle(x, y, width, 20, COLORS[part], f"{part}: {format_time(bar.parts_s[part])}"))
            x += width
    end = max(x, left + (bar.high or 0.0) * scale)
    if bar.low is not None and bar.high is not None:
        out.append(_whisker(left + bar.low * scale, left + bar.high * scale, y + 25))
    out.append(f'<text x="{end + 8:.1f}" y="{y + 15}">{format_time(sum(bar.parts_s.values()))}</text>')
    return "".join(out)


def _whisker(x0: float, x1: float, y: float) -> str:
    ends = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3}" y2="{y + 3}"/>' for x in (x0, x1))
    return f'<line x1="{x0:.1f}" x2="{x1:.1f}" y1="{y}" y2="{y}"/>{ends}'


def timeline(launches: Sequence[Launch], *, width: int = 1000, rows: int = 4) -> str:
    """Launches in order, wrapped over `rows` lines, coloured by what binds each; hover for the name."""
    if not launches:
        return note("no launches")
    start, end = launches[0].start_s, launches[-1].end_s
    per_row = (end - start) / rows or 1.0
    drawn = [piece for launch in launches for piece in _pieces(launch, start, per_row, width)]
    labels = [f'<text class="soft" x="2" y="{11 + r * 44}">{format_time(r * per_row)}</text>' for r in range(rows)]
    used = [part for part in BOUNDS if any(_binding(launch) == part for launch in launches)]
    return f'{key(used)}<svg viewBox="0 0 {width} {rows * 44}">{"".join(labels + drawn)}</svg>'


def _pieces(launch: Launch, start_s: float, per_row_s: float, width: int) -> Iterable[str]:
    """The rectangles of one launch: more than one where it goes over the end of a line."""
    title = f"{launch.name}: {format_time(launch.end_s - launch.start_s)}, bound by {_binding(launch)}"
    at, end = launch.start_s - start_s, launch.end_s - start_s
    while end - at > 1e-15:
        row = int(at / per_row_s + 1e-9)
        stop = min(end, (row + 1) * per_row_s)
        if stop <= at:
            return
        x0, x1 = (at - row * per_row_s) / per_row_s * width, (stop - row * per_row_s) / per_row_s * width
        yield _rectangle(x0, 15 + row * 44, max(x1 - x0 - 0.3, 0.2), 22, COLORS[_binding(launch)], title)
        at = stop


def _binding(launch: Launch) -> str:
    return max(launch.parts_s, key=lambda part: launch.parts_s[part], default="launch")


def key(parts: Sequence[str]) -> str:
    items = "".join(f'<span><i style="background:{COLORS[p]}"></i>{p}</span>' for p in parts)
    return f'<div class="key">{items}</div>'


def _rectangle(x: float, y: float, width: float, height: float, color: str, title: str) -> str:
    return (f'<rect x="{x:.2f}" y="{y:g}" width="{width:.2f}" height="{height:g}" fill="{color}">'
            f"<title>{escape(title)}</title></rect>")  # fmt: skip


def fold(summary: str, inner: str) -> str:
    """A section that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
