"""Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing open: launches in simulated time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mtia.report.summary import Launch

US_PER_S = 1e6  # the format's unit of time


def write(path: Path, runs: Iterable[tuple[str, Sequence[Launch]]]) -> Path:
    """One process per (title, launches): a track of steps, a track of kernels per stream, a counter of power."""
    events: list[dict[str, Any]] = []
    for pid, (title, launches) in enumerate(runs, start=1):
        events += trace_events(pid, title, launches)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, separators=(",", ":")))
    return path


def trace_events(pid: int, title: str, launches: Sequence[Launch]) -> Iterator[dict[str, Any]]:
    """The events of one run."""
    yield _name("process_name", pid, 0, title)
    yield _name("thread_name", pid, 0, "steps")
    for stream in sorted({launch.stream for launch in launches}):
        yield _name("thread_name", pid, 1 + stream, f"stream {stream}")
    for step, group in groupby(launches, key=lambda launch: launch.step):
        held = list(group)
        if step:
            yield _span(pid, 0, step, held[0].start_s, held[-1].end_s, {"launches": len(held)})
    for launch in launches:
        yield _span(pid, 1 + launch.stream, launch.name, launch.start_s, launch.end_s, _arguments(launch))


def _arguments(launch: Launch) -> dict[str, Any]:
    return {
        "grid": list(launch.grid), "FLOP": launch.flop, "DRAM bytes": launch.dram_bytes,
        "SRAM bytes": launch.sram_bytes, "energy J": launch.energy_j, "roof us": launch.roof_s * US_PER_S,
        **{f"{part} us": round(time_s * US_PER_S, 6) for part, time_s in launch.parts_s.items() if time_s},
    }  # fmt: skip


def _name(kind: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": {"name": name}}


def _span(pid: int, tid: int, name: str, start_s: float, end_s: float, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start_s * US_PER_S,
            "dur": (end_s - start_s) * US_PER_S, "args": arguments}  # fmt: skip
