"""Rows over processes: the same answers in the same order whatever the number of processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtia.chips.spec import ChipSpec
from mtia.validate.cases import Case
from mtia.validate.predict import Answer, answer

CHUNK = 24  # rows that a process takes at a time


@dataclass(frozen=True, slots=True)
class _Task:
    places: tuple[int, ...]
    cases: tuple[Case, ...]


def run_cases(
    cases: Sequence[Case], specs: Mapping[str, ChipSpec], *, jobs: int = 2, fast: bool = False,
    progress: Callable[[int], Any] = lambda done: None,
) -> list[Answer]:  # fmt: skip
    """An answer per case, in the order of the cases. `progress` is told how many more are done."""
    found: list[Answer | None] = [None] * len(cases)
    for places, answers in _answers(_tasks(cases), dict(specs), jobs, fast):
        for place, one in zip(places, answers, strict=True):
            found[place] = one
        progress(len(places))
    assert all(a is not None for a in found)
    return found  # type: ignore[return-value]


def _tasks(cases: Sequence[Case]) -> list[_Task]:
    """Like cases together (they share compiled kernels), in portions that keep all processes busy to the end."""
    order = sorted(
        range(len(cases)), key=lambda i: (cases[i].table, cases[i].system, cases[i].operator, cases[i].dtype)
    )
    portions = [tuple(order[at : at + CHUNK]) for at in range(0, len(order), CHUNK)]
    return [_Task(portion, tuple(cases[i] for i in portion)) for portion in portions]


def _answers(
    tasks: Sequence[_Task], specs: dict[str, ChipSpec], jobs: int, fast: bool
) -> Iterator[tuple[tuple[int, ...], list[Answer]]]:
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield task.places, [answer(case, specs, fast=fast) for case in task.cases]
        return
    context = multiprocessing.get_context("spawn")  # torch in a forked process is not safe
    with context.Pool(min(jobs, len(tasks)), initializer=_start, initargs=(specs, fast)) as pool:
        yield from pool.imap_unordered(_work, tasks)


_STATE: dict[str, Any] = {}


def _start(specs: dict[str, ChipSpec], fast: bool) -> None:
    """In a new process: the chips, and one thread for its arrays (the processes are the parallelism)."""
    import torch

    torch.set_num_threads(1)
    _STATE.update(specs=specs, fast=fast)


def _work(task: _Task) -> tuple[tuple[int, ...], list[Answer]]:
    return task.places, [answer(case, _STATE["specs"], fast=_STATE["fast"]) for case in task.cases]


__all__ = ["run_cases"]
