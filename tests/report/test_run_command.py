"""`mtia run` and `mtia explain` on small scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mtia.report import explain_command, run_command
from mtia.report.run_command import Options, split

SCRIPT = """
import sys, torch
x = torch.ones(1000, device="mtia")
print("sum", (x + x).sum().item(), sys.argv[1:], __name__)
sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize(
    ("words", "options", "rest"),
    [
        ([], Options(), []),
        (["--chip", "mtia400", "--steps", "3"], Options(chip="mtia400"), ["--steps", "3"]),
        (["--chip=mtia400", "--json"], Options(chip="mtia400", as_json=True), []),
        (["3", "--chip", "x"], Options(), ["3", "--chip", "x"]),
        (["--json", "--", "--json"], Options(as_json=True), ["--json"]),
        (["--chip"], Options(), ["--chip"]),
    ],
)  # fmt: skip
def test_our_options_stand_at_the_head(words: list[str], options: Options, rest: list[str]) -> None:
    assert split(words, Options()) == (options, rest)


def test_run_gives_kernels_and_the_scripts_exit_code(script: Path, tmp_path: Path) -> None:
    trace = tmp_path / "t.json"
    done = CliRunner().invoke(run_command.app, [str(script), "--chip", "mtia400", "--json", "--trace", str(trace), "3"])
    assert done.exit_code == 3
    assert "sum 2000.0 ['3'] __main__" in done.stderr
    document = json.loads(done.stdout)
    assert document["chip"] == "mtia400" and document["host_fallbacks"] == {}
    assert document["total"]["calls"] == sum(k["calls"] for k in document["kernels"]) >= 3
    assert all(k["time_s"] > 0 for k in document["kernels"])
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_script_that_raises_ends_with_one(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("raise ValueError('no')")
    done = CliRunner().invoke(run_command.app, [str(path), "--json"])
    assert done.exit_code == 1 and "ValueError: no" in done.stderr


def test_explain_says_where_the_time_goes() -> None:
    words = ["matmul", "--m", "256", "--n", "256", "--k", "256", "--chip", "mtia200", "--json"]
    done = CliRunner().invoke(explain_command.app, words)
    assert done.exit_code == 0, done.output
    (kernel,) = json.loads(done.stdout)
    assert kernel["flop"] == 2 * 256**3 and kernel["chip"] == "mtia200"
    assert sum(kernel["critical_s"].values()) == pytest.approx(kernel["time_s"], rel=1e-6)
    assert kernel["time_s"] >= kernel["roof_s"] > 0
    assert "matmul" in kernel["program"]


def test_explain_names_what_ran_when_nothing_matches(script: Path) -> None:
    done = CliRunner().invoke(explain_command.app, [str(script), "--kernel", "nothing"])
    assert done.exit_code == 2 and "it ran: " in done.stderr


def test_explain_text(script: Path) -> None:
    done = CliRunner().invoke(explain_command.app, [str(script)])
    assert done.exit_code == 0, done.output
    for part in ("The program of one instance", "Where the time goes", "The engines of one PE", "By command"):
        assert part in done.stdout


@pytest.mark.parametrize("line", ["import mtia; print(mtia.host_fallbacks())", "import mtia.report.run_script"])
def test_needs_no_torch_imported_before(line: str) -> None:
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
