"""What a prediction is, and how launches become a latency under the protocol of a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mtia.chips.spec import ChipSpec
from mtia.engine.timeline import KernelTiming
from mtia.units import fs_to_s


class Protocol(StrEnum):
    """How a latency was taken."""

    GRAPH_CHAIN = "graph chain"  # mean of many like operators back to back in one replayed graph
    GRAPH_ONE = "graph one"  # one operator per graph replay, replays back to back
    EAGER = "eager"  # host enqueues, then waits for the device
    COMPILED = "compiled"  # as eager, through the guards and wrappers of a compiled graph
    KERNEL = "kernel"  # a profiler's duration of the kernels alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Predicted latency in seconds. `bound`: what took most of it. `parts`: seconds by cause, summing to `seconds`."""

    seconds: float
    bound: str
    parts: Mapping[str, float] = field(default_factory=dict)
    timings: tuple[KernelTiming, ...] = ()
    how: str = ""  # tiling, split, algorithm: what was chosen


COMPILED_CALLS = 3.75  # host path of a compiled graph's call, in eager calls: LLMCompass fits 45 us against 12 us
AFTER_LAUNCH_FRAC = 0.2  # of it, after the launch: the device works meanwhile


def launch_overhead_s(spec: ChipSpec, protocol: Protocol, n_launches: int) -> float:
    """Time of the launch path around and between `n_launches` dependent kernels (figures: `spec.launch`)."""
    path = spec.launch
    between = path.replace_s * (n_launches - 1)
    match protocol:
        case Protocol.KERNEL:  # a profiler's kernel begins when the grid is launched, before its first instruction
            return path.start_s * n_launches
        case Protocol.GRAPH_CHAIN:
            alike = path.overlap_s if n_launches == 1 else 0.0  # a chain of one kernel
            return between + path.replace_s - alike
        case Protocol.GRAPH_ONE:
            return between + path.control_s + path.start_s + path.finish_s
        case Protocol.EAGER:
            return between + path.host_s + path.control_s + path.start_s + path.finish_s
        case Protocol.COMPILED:
            return between + COMPILED_CALLS * (path.host_s + path.control_s + path.start_s + path.finish_s)


def extended(timing: KernelTiming, factor: float) -> KernelTiming:
    """A launch `factor` times as long as the part of it that was simulated, each cause in proportion.

    Time alone: bytes, operations and energy stay those of the part (a Prediction's `seconds` is what is extended).
    """
    if factor == 1.0:
        return timing
    parts = {name: round(fs * factor) for name, fs in timing.critical_fs.items()}
    return replace(timing, makespan_fs=sum(parts.values()), critical_fs=parts)


def predicted(spec: ChipSpec, protocol: Protocol, timings: Sequence[KernelTiming], how: str = "") -> Prediction:
    """The latency of dependent kernels one after the other."""
    launch_s = launch_overhead_s(spec, protocol, len(timings))
    if protocol is Protocol.COMPILED:  # what the host does after the launch hides behind the device's work
        launch_s -= min(AFTER_LAUNCH_FRAC * launch_s, sum(fs_to_s(t.makespan_fs) for t in timings))
    parts: dict[str, float] = {"launch": launch_s}
    for timing in timings:
        for part, fs in timing.critical_fs.items():
            parts[part] = parts.get(part, 0.0) + fs_to_s(fs)
    seconds = launch_s + sum(fs_to_s(t.makespan_fs) for t in timings)
    bound = max(parts, key=lambda part: parts[part])
    return Prediction(seconds=seconds, bound=bound, parts=parts, timings=tuple(timings), how=how)


__all__ = ["Prediction", "Protocol", "extended", "launch_overhead_s", "predicted"]
