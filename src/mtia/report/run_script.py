"""Run somebody's script on a chip and say what its kernels did."""

from __future__ import annotations

import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtia.chips.spec import ChipSpec
from mtia.host_runtime import fallback, record, silicon
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Span
from mtia.report.launches import from_spans
from mtia.report.summary import Launch, summarize, total
from mtia.units import fs_to_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRun:
    """What a script did. `elapsed_s`: simulated, from its start to the end of its last work."""

    script: Path
    spec: ChipSpec
    spans: list[Span]
    launches: list[Launch]
    elapsed_s: float
    fallbacks: dict[str, int]
    exit_code: int

    def to_json(self) -> dict[str, Any]:
        return {
            "script": str(self.script), "chip": self.spec.name, "exit_code": self.exit_code,
            "elapsed_s": self.elapsed_s, "host_fallbacks": self.fallbacks,
            "total": total(self.launches).to_json(), "kernels": [k.to_json() for k in summarize(self.launches)],
        }  # fmt: skip


def run(script: Path, arguments: Sequence[str], chip: str = "") -> ScriptRun:
    """Run `script` as `python script arguments` would, with `device="mtia"` being `chip` (else as set).

    A script that raises has its traceback printed and exit code 1, as Python gives it. A change of chip inside the
    script lasts; the summary's idle power is that of `chip`.
    """
    with silicon.use(chip or silicon.chip()) as spec, record.session() as log, _as_main(script, arguments):
        fallback.reset()
        begin_fs = clock().now_fs
        code = _exit_code(script)
        torch.mtia.synchronize()
        elapsed_s = fs_to_s(clock().now_fs - begin_fs)
    return ScriptRun(
        script=script, spec=spec, spans=log.spans, launches=from_spans(log.spans, spec, begin_fs),
        elapsed_s=elapsed_s, fallbacks=fallback.counts(), exit_code=code,
    )  # fmt: skip


def _exit_code(script: Path) -> int:
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return _code_of(end)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _code_of(end: SystemExit) -> int:
    """As Python does: None is 0, a number is itself, anything else is printed and is 1."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


@contextmanager
def _as_main(script: Path, arguments: Sequence[str]) -> Iterator[None]:
    """sys.argv and sys.path as a script finds them."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
