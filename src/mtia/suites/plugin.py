"""The pytest plug-in of a worker: leaves out what is known, says what begins and how it ends, a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from time import perf_counter
from zlib import crc32

import pytest

from mtia.conformance.result import Outcome
from mtia.host_runtime import clock, fallback
from mtia.suites.results import TestResult

MOST_ERROR_CHARS = 200
SOURCE = pytest.StashKey[Path]()
"""The folder of the suite's sources, for the case modules of this package."""


class Plugin:
    """`known`: tests that are done. `share`: (k, n), the k-th of n workers. `every`: one test in so many, by its name's
    hash, so that a sample is the same on every machine."""

    def __init__(
        self,
        say: Callable[[str], None],
        source: Path,
        known: Collection[str] = (),
        share: tuple[int, int] = (0, 1),
        every: int = 1,
    ) -> None:
        self.say, self.source, self.known, self.share, self.every = say, source, known, share, every
        self.outcome, self.error = Outcome.SKIP, ""
        self.host_before: dict[str, int] = {}
        self.clock_before_s = self.started_s = 0.0

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[SOURCE] = self.source

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        mine = [item for item in items if self._is_mine(item.nodeid)]
        left_out = [item for item in items if not self._is_mine(item.nodeid)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in mine if item.nodeid not in self.known]
        self.say(json.dumps({"collected": len(mine), "left": len(items)}))

    def _is_mine(self, test: str) -> bool:
        number = crc32(test.encode())
        return number % self.every == 0 and number // self.every % self.share[1] == self.share[0]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:  # a file that cannot be imported is one result
            result = TestResult(test=report.nodeid, outcome=Outcome.FAIL, error=_last_line(str(report.longrepr)))
            if result.test not in self.known and self._is_mine(result.test):
                self.say(json.dumps({"end": result.to_json()}))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.outcome, self.error = Outcome.SKIP, ""
        self.host_before, self.clock_before_s, self.started_s = (
            fallback.counts(),
            clock.simulated_time_s(),
            perf_counter(),
        )
        self.say(json.dumps({"start": nodeid}))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcome, self.error = Outcome.FAIL, self.error or _last_line(str(report.longrepr))
        elif report.skipped:
            self.error = _last_line(report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr))
        elif report.when == "call" and self.outcome is not Outcome.FAIL:
            self.outcome = Outcome.PASS

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        host = {op: n - self.host_before.get(op, 0) for op, n in fallback.counts().items()}
        host = {op: n for op, n in host.items() if n > 0}
        outcome = Outcome.FALLBACK if host and self.outcome is Outcome.PASS else self.outcome
        result = TestResult(
            test=nodeid, outcome=outcome, error=self.error, fallbacks=host,
            simulated_s=clock.simulated_time_s() - self.clock_before_s, wall_s=perf_counter() - self.started_s,
        )  # fmt: skip
        self.say(json.dumps({"end": result.to_json()}))


def _last_line(text: str) -> str:
    """The exception of a traceback: its last line that pytest marks as such, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    marked = [line.removeprefix("E").strip() for line in lines if line.startswith("E ")]
    return (marked or lines or [""])[0 if marked else -1][:MOST_ERROR_CHARS]


__all__ = ["SOURCE", "Plugin"]
