"""A suite's workers: what they run, what a crash, a hang and an interruption cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mtia.conformance.journal import Journal
from mtia.conformance.result import Outcome
from mtia.errors import BadProblem
from mtia.suites import catalog, supervise
from mtia.suites.catalog import Suite, SuiteUnusable
from mtia.suites.results import TestResult, by_file, headline, usual_errors

TESTS = """
import os, time
import pytest, torch
def test_passes(): assert torch.ones(2, device="mtia").sum() == 2
def test_fails(): assert 1 == 2, "one is not two"
def test_dies(): os._exit(7)
def test_hangs(): time.sleep(1000)
def test_skips(): pytest.skip("other hardware")
@pytest.mark.parametrize("i", range(6))
def test_slow(i): time.sleep(0.2)
"""
SUITE = Suite(name="toy", what="a toy", marks=("test/test_toy.py",), tests=("test",))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "test_toy.py").write_text(TESTS)
    return folder


def short(test: str) -> str:
    return test.rpartition("::")[2]


def test_a_crash_and_a_hang_cost_one_test_each(source: Path):
    found: list[TestResult] = []
    supervise.run(SUITE, source, known=(), on_result=found.append, limit_s=4.0)
    by_name = {short(r.test): r for r in found}
    assert len(found) == len(by_name) == 11
    assert by_name["test_dies"].outcome is Outcome.CRASH
    assert by_name["test_dies"].error == "the process ended with exit code 7"
    assert (by_name["test_hangs"].outcome, by_name["test_hangs"].error) == (Outcome.TIMEOUT, "not done within 4 s")
    assert (by_name["test_fails"].outcome, by_name["test_fails"].error) == (
        Outcome.FAIL,
        "AssertionError: one is not two",
    )
    assert by_name["test_skips"].outcome is Outcome.SKIP and "other hardware" in by_name["test_skips"].error
    assert by_name["test_passes"].outcome is Outcome.PASS and by_name["test_passes"].simulated_s > 0
    assert Counter(r.outcome for r in found)[Outcome.PASS] == 7
    assert headline("toy", found) == "toy: 7 of 10 tests pass on the device; 1 skip."
    assert by_file(found) == {"test/test_toy.py": Counter(r.outcome for r in found)}
    assert ("AssertionError: one is not two", 1) in usual_errors(found)


def test_shares_and_samples_are_a_partition(source: Path):
    done: list[TestResult] = []
    supervise.run(SUITE, source, known=(), on_result=done.append, jobs=2, limit_s=4.0, select="slow or passes")
    assert sorted(short(r.test) for r in done) == ["test_passes", *(f"test_slow[{i}]" for i in range(6))]
    sample: list[TestResult] = []
    supervise.run(SUITE, source, known=(), on_result=sample.append, every=3, select="slow or passes")
    assert 0 < len(sample) < 7 and {r.test for r in sample} <= {r.test for r in done}


DRIVER = """
import sys
from pathlib import Path
from mtia.conformance.journal import Journal
from mtia.suites import supervise
from mtia.suites.catalog import Suite
from mtia.suites.results import TestResult
journal = Journal(Path(sys.argv[2]), TestResult)
suite = Suite(name="toy", what="a toy", marks=("test/test_toy.py",), tests=("test",))
supervise.run(suite, Path(sys.argv[1]), known=journal.read(), on_result=journal.add, select="slow")
"""


def test_sigkill_loses_the_test_in_work_and_no_more(source: Path, tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl", TestResult)
    command = [sys.executable, "-c", DRIVER, str(source), str(journal.path)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(journal.read()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = journal.path.read_text().splitlines()
    assert 2 <= len(before) < 6
    subprocess.run(command, check=True)
    after = journal.path.read_text().splitlines()
    assert after[: len(before)] == before and len(after) == len(journal.read()) == 6


def test_what_cannot_be_run_is_said(tmp_path: Path):
    with pytest.raises(
        SuiteUnusable, match=r"suite triton: .* has no python/test/unit/language/test_core.py. DIR is a checkout"
    ):
        catalog.check(catalog.suite("triton"), tmp_path)
    with pytest.raises(BadProblem, match=r"known: triton, tutorials, helion, kernelbench.* Did you mean 'triton'"):
        catalog.suite("tritn")
    needy = Suite(name="needy", what="x", marks=(), packages=("no_such_module",))
    with pytest.raises(
        SuiteUnusable, match="import no_such_module, which is not installed; pip install no_such_module"
    ):
        catalog.check(needy, tmp_path)


def test_a_suite_that_cannot_start_is_an_error(source: Path):
    broken = Suite(name="toy", what="x", marks=(), tests=("test",), arguments=("--no-such-option",))
    with pytest.raises(SuiteUnusable, match="suite toy: pytest stopped with exit code 4"):
        supervise.run(broken, source, known=(), on_result=lambda r: None)


PROBLEM = """
import torch
class Model(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.linear = torch.nn.Linear(n, n)
    def forward(self, x): return torch.relu(self.linear(x))
batch, size = 4096, 1024
def get_inputs(): return [torch.rand(batch, size)]
def get_init_inputs(): return [size]
"""


def test_a_kernelbench_problem_gets_shapes_that_can_be_computed(tmp_path: Path):
    problem = tmp_path / "KernelBench" / "level1" / "7_toy.py"
    problem.parent.mkdir(parents=True)
    problem.write_text(PROBLEM)
    found: list[TestResult] = []
    supervise.run(catalog.suite("kernelbench"), tmp_path, known=(), on_result=found.append)
    assert {short(r.test): r.outcome for r in found} == {
        "test_values[level1/7_toy]": Outcome.PASS, "test_time[level1/7_toy]": Outcome.PASS,
    }  # fmt: skip
    timed = next(r for r in found if "test_time" in r.test)
    assert timed.simulated_s > 4096 * 1024 * 4 * 2 / 1e13  # at least the time to move what is stated
