"""Runs units in worker processes with a time limit each. A worker that dies or hangs costs the unit it was on.

What a unit is, how its result is read from the worker's line and what stands for a result that never came are the
caller's: operators of OpInfo here, whole models in `mtia.architectures`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from mtia.conformance import result
from mtia.conformance.result import Outcome

START_LIMIT_S = 300.0
_ENDED = ""


class Unit(Protocol):
    """A piece of work that a worker is asked for by one line of JSON."""

    def to_json(self) -> list[str]: ...


U = TypeVar("U", bound=Unit)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answers(Generic[U, R]):
    """`read`: a result from the worker's JSON object. `ended(unit, outcome, error, wall_s)`: one for a unit whose
    worker gave none."""

    read: Callable[[dict[str, Any]], R]
    ended: Callable[[U, Outcome, str, float], R]


@dataclass(slots=True)
class Worker:
    """A process and a thread that reads its answers."""

    process: subprocess.Popen[str]
    answers: queue.Queue[str] = field(default_factory=queue.Queue)
    reader: threading.Thread | None = None

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> Worker:
        environment = {**os.environ, "MTIA_HOST_FALLBACK": "count", "OMP_NUM_THREADS": "1", **environment}
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
            env=environment,
        )
        worker = cls(process)
        worker.reader = threading.Thread(target=worker._read, daemon=True)
        worker.reader.start()
        return worker

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(_ENDED)

    def answer(self, limit_s: float) -> str:
        """The next line; raises queue.Empty after `limit_s`. An empty one: the process has ended."""
        return self.answers.get(timeout=limit_s)

    def ask(self, unit: Unit) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(unit.to_json()) + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Ends the process, if it still runs, and closes its pipes."""
        self.process.kill()
        self.process.wait()
        if self.reader is not None:
            self.reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


WORKER = (sys.executable, "-m", "mtia.conformance.worker")
OPERATORS = Answers(result.Result.from_json, result.ended)


def run(
    units: Sequence[U],
    *,
    jobs: int,
    limit_s: float,
    on_result: Callable[[R], None],
    command: Sequence[str] = WORKER,
    answers: Answers[U, R] = OPERATORS,
) -> None:
    """Each unit's result to `on_result`, in the order they end. Workers stop with the call, however it ends."""
    pending: queue.SimpleQueue[U] = queue.SimpleQueue()
    for unit in units:
        pending.put(unit)
    done: queue.SimpleQueue[R | BaseException | None] = queue.SimpleQueue()
    workers: list[Worker] = []
    stopping = threading.Event()
    threads = [
        threading.Thread(target=_serve, args=(pending, done, limit_s, workers, stopping, command, answers), daemon=True)
        for _ in range(max(1, min(jobs, len(units))))
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            item = done.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                on_result(item)
    finally:
        stopping.set()
        for worker in list(workers):
            worker.stop()


def _serve(
    pending: queue.SimpleQueue[U],
    done: queue.SimpleQueue[R | BaseException | None],
    limit_s: float,
    workers: list[Worker],
    stopping: threading.Event,
    command: Sequence[str],
    answers: Answers[U, R],
) -> None:
    """One worker after another, until no unit is left."""
    worker: Worker | None = None
    try:
        while not stopping.is_set():
            try:
                unit = pending.get_nowait()
            except queue.Empty:
                break
            if worker is None:
                worker = _started(workers, command)
            result, alive = _run_one(worker, unit, limit_s, answers)
            done.put(result)
            if not alive:
                worker.stop()
                worker = None
    except BaseException as error:  # the caller raises it
        done.put(error)
    finally:
        if worker is not None:
            worker.stop()
        done.put(None)


def _started(workers: list[Worker], command: Sequence[str]) -> Worker:
    worker = Worker.start(command)
    workers.append(worker)
    try:
        if worker.answer(START_LIMIT_S) != _ENDED:
            return worker
    except queue.Empty:
        worker.stop()
    raise RuntimeError(
        f"a conformance worker did not start within {START_LIMIT_S:.0f} s; `{' '.join(command)} < /dev/null` shows why"
    )


def _run_one(worker: Worker, unit: U, limit_s: float, answers: Answers[U, R]) -> tuple[R, bool]:
    """The unit's result, and whether the worker lives on."""
    start_s = monotonic()
    try:
        worker.ask(unit)
        line = worker.answer(limit_s)
    except queue.Empty:
        return answers.ended(unit, Outcome.TIMEOUT, f"not done within {limit_s:g} s", limit_s), False
    except BrokenPipeError:
        line = _ENDED
    if line == _ENDED:
        code = worker.process.wait()
        return answers.ended(
            unit, Outcome.CRASH, f"the process ended with exit code {code}", monotonic() - start_s
        ), False
    return answers.read(json.loads(line)), True


__all__ = ["Answers", "run"]
