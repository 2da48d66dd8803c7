"""What torch.profiler shows of the device: rows in simulated time, each with the operator that submitted it.

The C++ Kineto plug-in (`csrc/profiler.cpp`) calls `start` when a profile begins and `stop` when it ends. Kernels and
copies are rows of the device; an operator that the host computes is a row of the host's MTIA runtime.
"""

from __future__ import annotations

from mtia import _C
from mtia.host_runtime import record
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind, Span
from mtia.units import FS_PER_S

FS_PER_NS = FS_PER_S // 10**9

Row = tuple[str, str, int, int, int, int, int, int, int, int]
"""name, what bounds it, is of the host, device, stream, start and duration (ns), correlation id, bytes, flop."""

_spans: list[tuple[Span, int]] = []
_start_fs: int | None = None


def start() -> None:
    """Begin to collect. A profile that never ended is dropped."""
    global _start_fs
    if _start_fs is not None:
        record.ignore(_collect)
    _spans.clear()
    _start_fs = clock().host_fs
    record.listen(_collect)


def _collect(span: Span) -> None:
    _spans.append((span, _C.correlation_id()))


def stop() -> list[Row]:
    """The rows since `start`, times counted from it."""
    global _start_fs
    if _start_fs is None:
        return []
    record.ignore(_collect)
    begun, _start_fs = _start_fs, None
    return [_row(span, correlation, begun) for span, correlation in _spans]


def _row(span: Span, correlation: int, begun_fs: int) -> Row:
    start_ns = (span.start_fs - begun_fs) // FS_PER_NS
    duration_ns = max(1, round(span.duration_fs / FS_PER_NS))  # Kineto keeps whole nanoseconds
    is_host = int(span.kind is Kind.HOST)
    return (
        span.name, span.work.bound, is_host, span.device, span.stream, start_ns, duration_ns, correlation,
        span.work.n_bytes, span.work.n_flop,
    )  # fmt: skip


__all__ = ["Row", "start", "stop"]
