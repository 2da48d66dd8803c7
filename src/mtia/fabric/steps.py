"""A collective as the steps of one rank, and their time.

All ranks run the same steps shifted by one neighbour, so one rank stands for all: what it awaits from its neighbour in
step j arrives when it has itself stored step j - 1 and a step's latency has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from mtia.fabric.transport import Transport
from mtia.units import fs_to_s, s_to_fs

STEADY_LOOPS = 3  # equal loops simulated before the rest is taken to be like the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Bytes of one step of one rank. A step awaits the arrival of the one before, but for the first.

    `sends`: onto its links. `takes`: read where arrivals are staged. `copies`: moved inside the chip by the same
    movers. `adds`: reduced with own data. `beside`: copied meanwhile by movers of its own.
    """

    sends_bytes: float = 0.0
    takes_bytes: float = 0.0
    copies_bytes: float = 0.0
    adds_bytes: float = 0.0
    beside_bytes: float = 0.0
    peers: int = 1
    more_s: float = 0.0  # latency beyond the transport's step
    awaits: bool = True  # the arrival of the step before; else it follows at once

    def part(self, frac: float) -> Step:
        """The step with a part of its bytes."""
        return replace(
            self,
            sends_bytes=self.sends_bytes * frac,
            takes_bytes=self.takes_bytes * frac,
            copies_bytes=self.copies_bytes * frac,
            adds_bytes=self.adds_bytes * frac,
            beside_bytes=self.beside_bytes * frac,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Steps of one rank by one algorithm over one transport. `movers_per_peer`: 0 lets all movers serve any peer."""

    algorithm: str
    transport: Transport
    link_bytes_per_s: float
    memory_bytes_per_s: float
    steps: tuple[Step, ...]
    movers_per_peer: int = 0
    launch_s: float = 0.0

    @property
    def sent_bytes(self) -> float:
        """Bytes of data one rank puts on its links."""
        return sum(step.sends_bytes for step in self.steps)

    @property
    def pes_taken(self) -> int:
        """PEs that kernels cannot have meanwhile: all that move data, none where message engines do."""
        transport = self.transport
        if transport.entry_s:
            return 0
        most = max((step.sends_bytes / step.peers for step in self.steps), default=0.0)
        crew = self.movers_per_peer or transport.movers(most)
        return min(transport.pes, ceil(crew * max(step.peers for step in self.steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTime:
    """Seconds of a plan, and of its parts: link or mover at work, and waiting for flags."""

    plan: Plan
    seconds: float
    busy_s: float  # the rank stores, reads or adds
    link_s: float  # its links are full

    @property
    def waiting_s(self) -> float:
        return max(0.0, self.seconds - self.busy_s)


def time_plan(plan: Plan) -> PlanTime:
    """Runs the steps loop by loop (a loop holds what the movers pass on at once), slice by slice."""
    transport = plan.transport
    n_loops = _loops(plan)
    slices = transport.slices
    work = [_work_fs(plan, step.part(1 / (n_loops * slices))) for step in plan.steps]
    latency = [s_to_fs(_latency_s(plan, step, n_loops)) for step in plan.steps]
    whole = [bool(transport.entry_s and step.adds_bytes) for step in plan.steps]
    now, marks = 0, [0]
    for _ in range(min(n_loops, STEADY_LOOPS)):
        now = _loop(work, latency, [s.awaits for s in plan.steps], whole, slices, now)
        marks.append(now)
    now += (n_loops - len(marks) + 1) * (marks[-1] - marks[-2])
    busy = n_loops * slices * sum(work)
    link = sum(s.sends_bytes for s in plan.steps) * transport.wire_ratio / plan.link_bytes_per_s
    return PlanTime(plan=plan, seconds=fs_to_s(now) + transport.start_s, busy_s=fs_to_s(busy), link_s=link)


def _loop(work: Sequence[int], latency: Sequence[int], awaited: Sequence[bool], whole: Sequence[bool], slices: int,
          start: int) -> int:  # fmt: skip
    """When a rank that begins at `start` has done all steps of one loop, each in so many slices.

    `whole`: steps that begin when all slices are there and pass them on together.
    """
    now = start
    arrived = [start] * slices
    for duration, wait, awaits, is_whole in zip(work, latency, awaited, whole, strict=True):
        if is_whole:
            now = max(now, *arrived) + slices * duration
            arrived = [now + wait] * slices
            continue
        for piece in range(slices):
            now = (max(now, arrived[piece]) if awaits else now) + duration
            arrived[piece] = max(arrived[piece], now + wait)
    return now


def _latency_s(plan: Plan, step: Step, n_loops: int) -> float:
    """From a step's last byte stored to the neighbour going on; each work-queue entry more takes its time."""
    transport = plan.transport
    puts = ceil(step.sends_bytes / (step.peers * n_loops * transport.entry_bytes)) if step.sends_bytes else 1
    entries = puts - 1 + (1 if step.adds_bytes else 0)
    return transport.step_s + step.more_s + entries * transport.entry_s


def _loops(plan: Plan) -> int:
    """Rounds through all steps: no mover passes on more than a chunk per step."""
    most = max((s.sends_bytes for s in plan.steps), default=0.0)
    return max(1, ceil(most / (plan.transport.pes * plan.transport.chunk_bytes)))


def _work_fs(plan: Plan, step: Step) -> int:
    """Time for which a step holds its rank: the slowest of links, movers, neighbouring movers and memory."""
    transport = plan.transport
    moved = max(step.sends_bytes, step.takes_bytes if transport.staged else 0.0)
    movers = (
        transport.movers(moved * transport.slices / step.peers) if not plan.movers_per_peer else plan.movers_per_peer
    )
    crew = min(transport.pes, movers * step.peers)
    wire = step.sends_bytes * transport.wire_ratio / plan.link_bytes_per_s
    stores = max(wire, moved / (transport.move_bytes_per_s * crew))
    inside = (step.copies_bytes / transport.copy_bytes_per_s + step.adds_bytes / transport.add_bytes_per_s) / crew
    beside = step.beside_bytes / (transport.copy_bytes_per_s * movers)
    touched = step.sends_bytes + step.takes_bytes + 2 * (step.copies_bytes + step.beside_bytes + step.adds_bytes)
    return s_to_fs(max(stores + inside, beside, touched / plan.memory_bytes_per_s))


__all__ = ["Plan", "PlanTime", "Step", "time_plan"]
