"""The launch log: what was submitted while a session was open, with simulated times.

with record.session() as log:
    model(x)
    torch.mtia.synchronize()
for line in log.summary(): print(line.name, line.n_calls, line.time_s)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from mtia.units import fs_to_s


class Kind(StrEnum):
    """What a span is."""

    KERNEL = "kernel"  # work of the chip's grid
    COPY = "copy"  # a transfer over the host link or between chips
    HOST = "host"  # an operator computed by the host (a counted fallback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one span moved and computed. `timing` is whatever explains it (an engine KernelTiming for kernels)."""

    n_bytes: int = 0
    n_flop: int = 0
    energy_j: float = 0.0
    timing: Any = None
    program: Any = None
    bound: str = ""


NO_WORK = Work()


class Span(NamedTuple):
    """One piece of work on the simulated clock. `submit_fs`: when the host had handed it over."""

    name: str
    kind: Kind
    device: int
    stream: int
    submit_fs: int
    start_fs: int
    end_fs: int
    work: Work = NO_WORK

    @property
    def duration_fs(self) -> int:
        return self.end_fs - self.start_fs


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """All spans of one name and kind, together."""

    name: str
    kind: Kind
    n_calls: int
    time_s: float
    n_bytes: int
    n_flop: int
    energy_j: float


@dataclass(slots=True)
class Session:
    """Spans in the order they were submitted."""

    spans: list[Span] = field(default_factory=list)

    def of_kind(self, kind: Kind) -> list[Span]:
        return [s for s in self.spans if s.kind is kind]

    def summary(self) -> list[Line]:
        """One line per (kind, name), longest time first, ties by name."""
        groups: dict[tuple[Kind, str], list[Span]] = {}
        for span in self.spans:
            groups.setdefault((span.kind, span.name), []).append(span)
        lines = [_line(kind, name, spans) for (kind, name), spans in groups.items()]
        return sorted(lines, key=lambda line: (-line.time_s, line.name))

    @property
    def start_fs(self) -> int:
        return min((s.start_fs for s in self.spans), default=0)

    @property
    def end_fs(self) -> int:
        return max((s.end_fs for s in self.spans), default=0)

    @property
    def elapsed_s(self) -> float:
        """From the first start to the last end."""
        return fs_to_s(self.end_fs - self.start_fs)

    @property
    def busy_s(self) -> float:
        """Sum of all durations (more than `elapsed_s` where spans overlap)."""
        return fs_to_s(sum(s.duration_fs for s in self.spans))


def _line(kind: Kind, name: str, spans: list[Span]) -> Line:
    return Line(
        name=name,
        kind=kind,
        n_calls=len(spans),
        time_s=fs_to_s(sum(s.duration_fs for s in spans)),
        n_bytes=sum(s.work.n_bytes for s in spans),
        n_flop=sum(s.work.n_flop for s in spans),
        energy_j=sum(s.work.energy_j for s in spans),
    )


_listeners: list[Callable[[Span], None]] = []


def listen(listener: Callable[[Span], None]) -> None:
    """Call `listener(span)` for each span as it is submitted, until `ignore(listener)`."""
    _listeners.append(listener)


def ignore(listener: Callable[[Span], None]) -> None:
    _listeners.remove(listener)


@contextmanager
def session() -> Iterator[Session]:
    """Record every span submitted in the block, by any thread. Sessions nest; each gets all."""
    log = Session()
    listener = log.spans.append
    listen(listener)
    try:
        yield log
    finally:
        ignore(listener)


def is_recording() -> bool:
    return bool(_listeners)


def add(span: Span) -> None:
    """Hand a span to all who listen (the clock does)."""
    for listener in _listeners:
        listener(span)


__all__ = ["NO_WORK", "Kind", "Line", "Session", "Span", "Work", "add", "ignore", "is_recording", "listen", "session"]
