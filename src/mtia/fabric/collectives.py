"""The time of a collective: every algorithm over every transport that chip and library have, the least time kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, did_you_mean
from mtia.fabric.algorithms import ALGORITHMS, Collective, Site, one_shot_all_reduce, two_shot_all_reduce
from mtia.fabric.steps import Plan, PlanTime, time_plan
from mtia.fabric.topology import fabric_of, scale_up_of
from mtia.fabric.transport import Transport, transports_of

ELEMENT_BYTES = {"int8": 1, "fp8": 1, "float16": 2, "bfloat16": 2, "float32": 4}
SWITCH_ADDS = ("float16", "bfloat16", "float32")
DTYPE_NAMES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32"}


class Method(StrEnum):
    """Which algorithms a library has."""

    STANDARD = "standard"  # a vendor's collectives: rings, trees, in-switch reduction, direct exchange
    PEER_READS = "peer reads"  # an inference framework's all-reduce in one or two shots; standard for the rest


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveTime:
    """`seconds` in all; `launch_s` of it is the library's start. `how` names algorithm and transport."""

    seconds: float
    launch_s: float
    timed: PlanTime | None
    how: str

    @property
    def bound(self) -> str:
        """What takes most of it: launch, links, movers or waiting."""
        parts = self.parts
        return max(parts, key=lambda part: parts[part])

    @property
    def pes_taken(self) -> int:
        """PEs it keeps from kernels that run meanwhile: none where message engines drive it."""
        return self.timed.plan.pes_taken if self.timed else 0

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by cause, summing to `seconds`."""
        if self.timed is None:
            return {"launch": self.seconds}
        link = min(self.timed.link_s, self.timed.busy_s)
        start = self.timed.plan.transport.start_s
        return {"launch": self.launch_s + start, "links": link, "movers": self.timed.busy_s - link,
                "waiting": self.seconds - self.launch_s - start - self.timed.busy_s}  # fmt: skip


def time_collective(spec: ChipSpec, op: Collective | str, n_bytes: int, ranks: int, *, dtype: str = "bfloat16",
                    ranks_per_node: int | None = None, method: Method = Method.STANDARD,
                    peer_reads_launch_s: float = 0.0) -> CollectiveTime:  # fmt: skip
    """Least simulated time of `op` over `ranks` chips of `spec`; bytes as nccl-tests counts them.

    Raises BadProblem on a word, size or rank count that makes no sense, or where the chip's links do not reach.
    """
    collective = _collective(op)
    _check(collective, n_bytes, ranks, dtype)
    return _timed(spec, collective, n_bytes, ranks, DTYPE_NAMES.get(dtype, dtype), ranks_per_node, method,
                  peer_reads_launch_s)  # fmt: skip


@lru_cache(maxsize=65536)
def _timed(spec: ChipSpec, op: Collective, n_bytes: int, ranks: int, dtype: str, ranks_per_node: int | None,
           method: Method, peer_reads_launch_s: float) -> CollectiveTime:  # fmt: skip
    launch_s = scale_up_of(spec).launch_s
    if ranks == 1 or n_bytes == 0:
        return CollectiveTime(seconds=launch_s, launch_s=launch_s, timed=None, how="nothing to send")
    plans = plans_of(spec, op, n_bytes, ranks, dtype, ranks_per_node, method, peer_reads_launch_s)
    best = min((time_plan(plan) for plan in plans), key=lambda timed: timed.seconds + timed.plan.launch_s)
    how = f"{best.plan.algorithm}, {best.plan.transport.name}"
    return CollectiveTime(seconds=best.seconds + best.plan.launch_s, launch_s=best.plan.launch_s, timed=best, how=how)


def time_all_to_all_v(spec: ChipSpec, sent_bytes: Sequence[Sequence[int]], *, dtype: str = "bfloat16",
                      ranks_per_node: int | None = None) -> CollectiveTime:  # fmt: skip
    """An all-to-all of uneven parts: `sent_bytes[i][j]` go from rank i to rank j (what a rank keeps is copied).

    It lasts as long as an even one in which every rank sends what the busiest sends or receives. Raises BadProblem
    where the table is not square.
    """
    ranks = len(sent_bytes)
    if not ranks or any(len(row) != ranks for row in sent_bytes):
        raise BadProblem("all_to_all_v", argument="sent_bytes", value=[len(row) for row in sent_bytes],
                         allowed="one row per rank, each with one entry per rank")  # fmt: skip
    out = [sum(row) - row[i] for i, row in enumerate(sent_bytes)]
    into = [sum(row[j] for row in sent_bytes) - sent_bytes[j][j] for j in range(ranks)]
    even = max(*out, *into) * ranks // (ranks - 1) if ranks > 1 else 0
    return time_collective(spec, Collective.ALL_TO_ALL, even, ranks, dtype=dtype, ranks_per_node=ranks_per_node)


def plans_of(spec: ChipSpec, op: Collective, n_bytes: int, ranks: int, dtype: str = "bfloat16",
             ranks_per_node: int | None = None, method: Method = Method.STANDARD,
             peer_reads_launch_s: float = 0.0) -> list[Plan]:  # fmt: skip
    """Every plan that could run, in a fixed order."""
    fabric = fabric_of(spec, ranks, ranks_per_node=ranks_per_node)
    if op is Collective.ALL_REDUCE and dtype not in SWITCH_ADDS:
        fabric = replace(fabric, multicasts=False)
    memory = spec.dram.bytes_per_s * spec.dram.efficiency_frac
    site = Site(fabric=fabric, memory_bytes_per_s=memory, launch_s=scale_up_of(spec).launch_s)
    transports = transports_of(spec, fabric, ELEMENT_BYTES[dtype])
    runs = [(site, transport, algorithm) for algorithm in ALGORITHMS[op] for transport in transports]
    if method is Method.PEER_READS and op is Collective.ALL_REDUCE:
        quick = replace(site, launch_s=peer_reads_launch_s)
        runs += [(quick, _reads(transports), shots) for shots in (one_shot_all_reduce, two_shot_all_reduce)]
    plans = (algorithm(where, transport, float(n_bytes)) for where, transport, algorithm in runs)
    return [plan for plan in plans if plan is not None]


def _reads(transports: tuple[Transport, ...]) -> Transport:
    """Reading a peer's memory: bulk's rates, with the barriers' flags taking a step of words each."""
    bulk, word = transports[-1], transports[0]
    return replace(bulk, name="peer reads", start_s=0.0, step_s=word.step_s, slices=1, chunk_bytes=1 << 62)


def _collective(op: Collective | str) -> Collective:
    word = {"alltoall": "all_to_all"}.get(str(op), str(op))
    if word not in tuple(Collective):
        near = did_you_mean(word, map(str, Collective))
        raise BadProblem("collective", argument="op", value=op, allowed=f"known: {', '.join(Collective)}.{near}")
    return Collective(word)


def _check(op: Collective, n_bytes: int, ranks: int, dtype: str) -> None:
    if ranks < 1:
        raise BadProblem(op, argument="ranks", value=ranks, allowed="at least 1")
    if n_bytes < 0:
        raise BadProblem(op, argument="n_bytes", value=n_bytes, allowed="at least 0")
    if DTYPE_NAMES.get(dtype, dtype) not in ELEMENT_BYTES:
        raise BadProblem(op, argument="dtype", value=dtype,
                         allowed=f"known: {', '.join(ELEMENT_BYTES)}.{did_you_mean(dtype, ELEMENT_BYTES)}")  # fmt: skip


__all__ = ["Collective", "CollectiveTime", "Method", "plans_of", "time_all_to_all_v", "time_collective"]
