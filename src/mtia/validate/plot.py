"""Predicted against measured, log-log, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtia.validate.results import RowResult
from mtia.validate.tables import shown


def write_plot(path: Path, rows: Sequence[RowResult], *, title: str) -> Path:
    """A point per row, coloured by file, with the line of no error and those of a factor of two; hover for the row.

    Rates and ratios are left out: they have no place on axes of seconds.
    """
    import plotly.graph_objects as go

    timed = [r for r in rows if r.band != "rates and ratios"]
    figure = go.Figure()
    for file in sorted({r.case.file for r in timed}):
        points = [r for r in timed if r.case.file == file]
        figure.add_trace(go.Scattergl(
            x=[r.measured_s * 1e6 for r in points], y=[r.predicted_s * 1e6 for r in points], mode="markers",
            name=file.removesuffix(".csv"), marker={"size": 4, "opacity": 0.6}, hoverinfo="text",
            text=[_hover(r) for r in points],
        ))  # fmt: skip
    if timed:
        ends = [1e6 * f(x for r in timed for x in (r.measured_s, r.predicted_s)) for f in (min, max)]
        for factor, dash in ((1, "solid"), (2, "dot"), (0.5, "dot")):
            line = {"color": "gray", "width": 1, "dash": dash}
            y = [end * factor for end in ends]
            figure.add_trace(go.Scatter(x=ends, y=y, mode="lines", showlegend=False, hoverinfo="skip", line=line))
    figure.update_layout(
        title=title, template="plotly_white", xaxis={"type": "log", "title": "measured, us"},
        yaxis={"type": "log", "title": "predicted, us"},
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path, include_plotlyjs=True, full_html=True)
    return path


def _hover(row: RowResult) -> str:
    return (
        f"{row.case}<br>{row.chip}, {row.case.where}<br>measured {shown(row, row.measured_s)}, predicted "
        f"{shown(row, row.predicted_s)} ({100 * row.error_frac:+.0f} %)<br>{row.answer.bound}; {row.answer.how}"
    )


__all__ = ["write_plot"]
