"""Triton's tutorials as pytest cases: each script runs to its end, with the benchmarks left out. (Run by `mtia suite`.)

A tutorial passes where it raises nothing, prints no mismatch, and did run: one that leaves at once because it wants
other hardware is skipped. Its own `test_*` functions run too.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from mtia.suites.plugin import SOURCE

SAYS_MISMATCH = ("❌", "torch differ")
SAYS_SKIP = ("not supported", "requires", "unsupported")


class _NoBenchmark:
    """In place of triton.testing.perf_report: a benchmark that measures nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __call__(self, function: Any) -> _NoBenchmark:
        return self

    def run(self, **_: Any) -> None: ...


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.stash[SOURCE] / "python" / "tutorials"
    metafunc.parametrize("script", sorted(folder.glob("[0-9]*.py")), ids=lambda path: path.stem)


def test_tutorial(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton.testing, "perf_report", _NoBenchmark)
    monkeypatch.setattr(sys, "argv", [str(script)])
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as leaving:
        if leaving.code:
            raise AssertionError(f"left with {leaving.code}") from None
    text = said.getvalue().lower()
    if any(word in text for word in SAYS_SKIP):
        pytest.skip(said.getvalue().strip().splitlines()[-1])
    assert not any(word in text for word in SAYS_MISMATCH), said.getvalue()
