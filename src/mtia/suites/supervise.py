"""Runs a suite in worker processes. A test that kills its process, or does not end in time, costs that test alone."""

from __future__ import annotations

import json
import queue
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

from mtia.conformance.result import Outcome
from mtia.conformance.runner import Worker
from mtia.suites import catalog
from mtia.suites.catalog import Suite, SuiteUnusable
from mtia.suites.results import TestResult

COLLECT_LIMIT_S = 600.0
PYTEST_STOPPED = (2, 3, 4)  # interrupted, internal error, wrong use: no verdict on tests
OnResult = Callable[[TestResult], None]


def run(
    suite: Suite,
    source: Path,
    *,
    known: Iterable[str],
    on_result: OnResult,
    jobs: int = 1,
    limit_s: float = 120.0,
    every: int = 1,
    select: str = "",
) -> None:
    """Each test that is not in `known`, in the order they end. `select`: pytest's -k; `every`: one in so many.

    Raises SuiteUnusable where the folder is not the suite's, or pytest cannot start on it.
    """
    catalog.check(suite, source)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mtia-suite-")))
        arguments = catalog.stage(suite, source, folder)
        lock, done, errors = threading.Lock(), set(known), []

        def keep(result: TestResult) -> None:
            with lock:
                done.add(result.test)
                on_result(result)

        def serve(share: int) -> None:
            orders = {
                "arguments": [*arguments, *(("-k", select) if select else ())], "source": str(source),
                "on_path": suite.on_path, "share": (share, jobs), "every": every,
            }  # fmt: skip
            try:
                while not _one_process(suite, orders, folder / f"orders{share}.json", done, keep, limit_s):
                    pass
            except BaseException as error:  # the caller raises it
                errors.append(error)

        threads = [threading.Thread(target=serve, args=(share,), daemon=True) for share in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def _one_process(
    suite: Suite, orders: dict[str, Any], path: Path, done: set[str], keep: OnResult, limit_s: float
) -> bool:
    """A worker until it ends; whether it came to the end of its tests."""
    path.write_text(json.dumps({**orders, "known": sorted(done)}), encoding="utf-8")
    worker = Worker.start((sys.executable, "-m", "mtia.suites.worker", str(path)), suite.environment)
    current, since_s, ended = "", monotonic(), 0
    try:
        while True:
            try:
                line = worker.answer(limit_s if current else COLLECT_LIMIT_S)
            except queue.Empty:
                _give_up(suite, current, "does not collect its tests", done)
                keep(_broken(current, Outcome.TIMEOUT, f"not done within {limit_s:g} s", limit_s))
                return False
            if not line:
                code = worker.process.wait()
                _give_up(suite, current, f"its process ended with exit code {code} and no test", done)
                keep(_broken(current, Outcome.CRASH, f"the process ended with exit code {code}", monotonic() - since_s))
                return False
            answer = json.loads(line)
            if "start" in answer:
                current, since_s = answer["start"], monotonic()
            elif "end" in answer:
                keep(TestResult.from_json(answer["end"]))
                current, ended = "", ended + 1
            elif answer.get("done") in PYTEST_STOPPED and not ended:
                _give_up(suite, "", f"pytest stopped with exit code {answer['done']}", done)
            elif "done" in answer:
                return True
    finally:
        worker.stop()


def _give_up(suite: Suite, current: str, why: str, done: set[str]) -> None:
    """A worker that got nowhere would get nowhere again."""
    if not current:
        raise SuiteUnusable(
            f"suite {suite.name}: {why} ({len(done)} tests done before). Run its tests by hand to see why."
        )


def _broken(test: str, outcome: Outcome, error: str, wall_s: float) -> TestResult:
    return TestResult(test=test, outcome=outcome, error=error, wall_s=wall_s)


__all__ = ["run"]
