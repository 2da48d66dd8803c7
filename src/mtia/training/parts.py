"""Where the simulated time and energy of a training step go: each piece of work belongs to a part of the model.

Values are computed when work is submitted, so the part in force at that moment owns it. Forward, a part is in force
while its module runs; backward, from when the gradient of its output is known until another part's is. What runs
between parts belongs to the phase: "loss", "backward", "optimiser". Time in which the device has nothing to do is
"launch gaps": an eager step waits for the host, which enqueues kernels one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mtia.chips.spec import ChipSpec
from mtia.host_runtime import record, silicon
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind, Span
from mtia.units import fs_to_s

GAPS = "launch gaps"
PartOf = Callable[[str, nn.Module], str | None]


@dataclass(slots=True, kw_only=True)
class Part:
    """Work of one part: launches, time on the device that no earlier work covers, energy."""

    n_calls: int = 0
    time_fs: int = 0
    energy_j: float = 0.0

    @property
    def time_s(self) -> float:
        return fs_to_s(self.time_fs)


@dataclass(slots=True, kw_only=True)
class StepCost:
    """One step. The parts' times sum to `time_fs`, simulated time from its start until the device is done."""

    time_fs: int
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def time_s(self) -> float:
        return fs_to_s(self.time_fs)

    @property
    def energy_j(self) -> float:
        return sum(part.energy_j for part in self.parts.values())


class PartMeter:
    """Hooks on a model's modules. `part_of(name, module)` names the part of a module, None: not a part of its own."""

    def __init__(self, model: nn.Module, part_of: PartOf) -> None:
        self._stack = [""]
        self._marks: list[tuple[int, str]] = []
        self._log: record.Session | None = None
        self._spec: ChipSpec | None = None
        self.steps: list[StepCost] = []
        self._hooks = [hook for name, module in model.named_modules() if (part := part_of(name, module))
                       for hook in self._watch(module, part)]  # fmt: skip

    def _watch(self, module: nn.Module, part: str) -> list[Any]:
        def enter(module: nn.Module, inputs: Any) -> None:
            self._stack.append(part)
            self._mark(part)

        def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
            self._stack.pop()
            self._mark(self._stack[-1])
            for output in tree_leaves(outputs):
                if isinstance(output, torch.Tensor) and output.requires_grad:
                    output.register_hook(lambda grad: self._mark(f"{part} backward"))

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _mark(self, part: str) -> None:
        """From here on, work belongs to `part`."""
        if self._log is not None:
            self._marks.append((len(self._log.spans), part))

    def phase(self, name: str) -> None:
        """What is in no part from here on belongs to `name`."""
        self._stack[0] = name
        self._mark(name)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measure the block as one step: it starts with an idle device and ends when the device is done."""
        begin_fs = clock().now_fs
        clock().advance_host(begin_fs - clock().host_fs)
        self._marks, self._spec = [], silicon.chip()
        with record.session() as log:
            self._log = log
            try:
                yield
            finally:
                self._log = None
        torch.mtia.synchronize()
        self.steps.append(cost_of(log.spans, self._marks, self._spec, begin_fs, clock().now_fs))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def cost_of(
    spans: Sequence[Span], marks: Sequence[tuple[int, str]], spec: ChipSpec, begin_fs: int, end_fs: int
) -> StepCost:
    """Spans to parts. `marks`: (index of the first span, its part), ascending. Overlap counts once, for what started
    first; idle time burns idle power, as do transfers, whose energy the engine does not model."""
    cost, free_fs = StepCost(time_fs=end_fs - begin_fs), begin_fs
    owned = sorted(
        zip(spans, _owners(len(spans), marks), strict=True), key=lambda pair: (pair[0].start_fs, pair[0].end_fs)
    )
    for span, part in owned:
        gap_fs = max(0, span.start_fs - free_fs)
        _add(cost, GAPS, 0, gap_fs, fs_to_s(gap_fs) * spec.power.idle_w)
        own_fs = max(0, span.end_fs - max(free_fs, span.start_fs))
        energy_j = span.work.energy_j if span.kind is Kind.KERNEL else fs_to_s(own_fs) * spec.power.idle_w
        _add(cost, part, 1, own_fs, energy_j)
        free_fs = max(free_fs, span.end_fs)
    rest_fs = max(0, end_fs - free_fs)
    _add(cost, GAPS, 0, rest_fs, fs_to_s(rest_fs) * spec.power.idle_w)
    return cost


def _owners(n: int, marks: Sequence[tuple[int, str]]) -> list[str]:
    owners, part, at = [], "", 0
    for i in range(n):
        while at < len(marks) and marks[at][0] <= i:
            part = marks[at][1]
            at += 1
        owners.append(part)
    return owners


def _add(cost: StepCost, name: str, n_calls: int, time_fs: int, energy_j: float) -> None:
    part = cost.parts.setdefault(name, Part())
    part.n_calls += n_calls
    part.time_fs += time_fs
    part.energy_j += energy_j


def mean(steps: Sequence[StepCost]) -> StepCost:
    """Mean over steps, part by part. Calls are rounded to whole ones; times to whole femtoseconds."""
    n = max(1, len(steps))
    out = StepCost(time_fs=sum(s.time_fs for s in steps) // n)
    for name in dict.fromkeys(name for s in steps for name in s.parts):
        found = [s.parts[name] for s in steps if name in s.parts]
        out.parts[name] = Part(n_calls=round(sum(p.n_calls for p in found) / n),
                               time_fs=sum(p.time_fs for p in found) // n,
                               energy_j=sum(p.energy_j for p in found) / n)  # fmt: skip
    return out


__all__ = ["GAPS", "Part", "PartMeter", "PartOf", "StepCost", "cost_of", "mean"]
