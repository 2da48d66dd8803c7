"""The table says what passed, what did not and why; a journal brings results back whole."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from mtia.architectures import page, result
from mtia.architectures.result import Outcome, Result, Times, Unit, ended
from mtia.conformance.journal import Journal
from mtia.conformance.runner import Answers, run

TIMES = Times(forward_s=4e-4, step_s=1.2e-3, kernels_forward=39, kernels_step=109, attention_kernels=8)
LLAMA = Result(
    name="llama", dtype="float32", family="text decoder", outcome=Outcome.PASS, error_share=0.158, graphs=2,
    kernels_forward=39, kernels_step=109, times={"mtia300": TIMES, "mtia400": TIMES}, compile_s=30.2, wall_s=41.7,
)  # fmt: skip
DEAD = ended(Unit("t5", "float32"), Outcome.CRASH, "the process ended with exit code 3", 7.0)


def test_a_row_a_model() -> None:
    text = page.markdown({LLAMA.unit: LLAMA, DEAD.unit: DEAD}, ["llama", "t5", "opt"])
    assert "1 of 2 pass" in text
    assert (
        "| llama | text decoder | float32 | yes | 16 % | 0 | 2 | 39 | 109 | 8 | 400 µs | 1.2 ms | 400 µs | 1.2 ms | 30 s "
        "| 42 s |"
    ) in text
    assert "- `t5 float32`: the process ended with exit code 3" in text
    assert "Registered and not run for this page in float32: `opt`." in text


def test_each_dtype_is_counted_and_what_was_not_run_in_it_is_named() -> None:
    narrow = replace(LLAMA, dtype="bfloat16")
    text = page.markdown({r.unit: r for r in (LLAMA, DEAD, narrow)}, ["llama", "t5"])
    assert "1 of 2 in float32 and 1 of 1 in bfloat16 pass: forward" in text
    assert "Registered and not run for this page in bfloat16: `t5`." in text and "page in float32" not in text


def test_results_come_back_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl", Result)
    journal.add(LLAMA)
    journal.add(DEAD)
    assert journal.read() == {LLAMA.unit: LLAMA, DEAD.unit: DEAD}


FAKE = """
import json, os, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    name, dtype = json.loads(line)
    if name == "dies":
        os._exit(3)
    print(json.dumps(dict(name=name, dtype=dtype, family="", outcome="pass")), flush=True)
"""


def test_a_crash_costs_one_architecture(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(FAKE)
    found: dict[str, Result] = {}
    answers = Answers(result.Result.from_json, ended)
    units = [Unit(name, "float32") for name in ("a", "dies", "b")]
    command = (sys.executable, str(script))
    run(units, jobs=1, limit_s=10.0, on_result=lambda r: found.update({r.name: r}), command=command, answers=answers)
    assert {name: r.outcome for name, r in found.items()} == {"a": "pass", "dies": "crash", "b": "pass"}
    assert found["dies"].error == "the process ended with exit code 3"
