"""Workers that die or hang cost one unit; what is done stays done; results add up by TritorX's rule."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtia.conformance import runner, support, units
from mtia.conformance.journal import Journal
from mtia.conformance.result import Outcome, Result
from mtia.conformance.units import Unit
from mtia.errors import BadProblem

FAKE = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    op, variant, dtype = json.loads(line)
    if op == "dies":
        os._exit(3)
    if op == "hangs":
        time.sleep(1000)
    if op == "slow":
        time.sleep(0.3)
    print(json.dumps(dict(op=op, variant=variant, dtype=dtype, outcome="pass", samples=1)), flush=True)
"""


def result(op: str, dtype: str = "float32", outcome: Outcome = Outcome.PASS, **more: object) -> Result:
    return Result(op=op, variant=str(more.pop("variant", "")), dtype=dtype, outcome=outcome, **more)  # type: ignore[arg-type]


@pytest.fixture
def command(tmp_path: Path) -> tuple[str, str]:
    script = tmp_path / "worker.py"
    script.write_text(FAKE)
    return sys.executable, str(script)


def run(names: list[str], command: tuple[str, str], jobs: int = 2) -> dict[str, Result]:
    found: dict[str, Result] = {}
    runner.run(
        [Unit(name, "", "float32") for name in names],
        jobs=jobs,
        limit_s=1.0,
        on_result=lambda r: found.update({r.op: r}),
        command=command,
    )
    return found


def test_a_crash_and_a_hang_cost_one_unit_each(command):
    found = run(["a", "dies", "b", "hangs", "c", "d"], command)
    assert {name: r.outcome for name, r in found.items()} == {
        "a": Outcome.PASS, "b": Outcome.PASS, "c": Outcome.PASS, "d": Outcome.PASS,
        "dies": Outcome.CRASH, "hangs": Outcome.TIMEOUT,
    }  # fmt: skip
    assert found["dies"].error == "the process ended with exit code 3"
    assert found["hangs"].error == "not done within 1 s"


def test_a_worker_that_does_not_start_is_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError, match="did not start within"):
        run(["a"], (sys.executable, str(tmp_path / "missing.py")))


def test_an_interrupted_journal_keeps_all_but_the_line_being_written(tmp_path: Path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.add(result("add"))
    journal.add(result("mul", outcome=Outcome.FAIL, error="wrong"))
    with journal.path.open("a") as file:
        file.write('{"op": "sub", "vari')  # the process was killed here
    assert [u.op for u in journal.read()] == ["add", "mul"]
    journal.add(result("div"))
    assert [u.op for u in journal.read()] == ["add", "mul", "div"]
    journal.forget([Unit("mul", "", "float32")])
    assert [u.op for u in journal.read()] == ["add", "div"]


RESUMED = """
import sys
from pathlib import Path
from mtia.conformance import runner
from mtia.conformance.journal import Journal
from mtia.conformance.units import Unit
journal = Journal(Path(sys.argv[1]))
todo = [u for u in (Unit("slow", str(i), "float32") for i in range(12)) if u not in journal.read()]
print(len(todo), flush=True)
runner.run(todo, jobs=2, limit_s=60, on_result=journal.add, command=(sys.executable, sys.argv[2]))
"""


def test_killed_at_any_moment_it_goes_on_with_what_is_left(tmp_path: Path, command):
    script, journal = tmp_path / "run.py", tmp_path / "j.jsonl"
    script.write_text(RESUMED)
    words = [sys.executable, str(script), str(journal), command[1]]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while len(Journal(journal).read()) < 3:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    done = len(Journal(journal).read())
    second = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 3 <= done <= 12 and int(second.stdout) == 12 - done
    assert len(Journal(journal).read()) == 12
    assert len(journal.read_text().splitlines()) <= 12 + 1  # nothing that was done ran again


# --- adding up --------------------------------------------------------------------------------------------------------


def found(*results: Result) -> support.Support:
    return support.Support({r.unit: r for r in results})


def test_an_operator_passes_where_every_variant_and_dtype_does():
    good = [result("add"), result("add", "int32"), result("add", "int64", variant="out")]
    assert found(*good).counts() == {Outcome.PASS: 1}
    assert found(*good, result("add", "bfloat16", Outcome.FAIL)).counts() == {Outcome.FAIL: 1}
    assert found(*good, result("add", "bfloat16", Outcome.FALLBACK)).counts() == {Outcome.FALLBACK: 1}
    assert found(*good, result("add", "bfloat16", Outcome.SKIP)).counts() == {Outcome.PASS: 1}


def test_the_page_counts_routes_and_names_failures():
    page = support.markdown(
        found(
            result("add", backward=Outcome.PASS),
            result("svd", outcome=Outcome.FALLBACK, fallbacks={"aten::_linalg_svd.U": 4}, backward=Outcome.FAIL,
                   backward_error="Wrong: a | b"),
        )
    )  # fmt: skip
    assert (
        "1 of 2 operators pass every sample in every dtype with nothing on the host (TritorX on MTIA: 481 of 568)."
        in page
    )
    assert "| `aten::_linalg_svd.U` | `svd` |" in page
    assert "| `svd` | float32: backward: Wrong: a \\| b |" in page
    assert "| `add` | yes |  |  |  |  | yes |" in page and "| `svd` | host |  |  |  |  | no |" in page


def test_samples_left_out_are_added_up_and_older_journals_are_said_to_lack_them(tmp_path: Path):
    row = result("add", samples=5, left_out={"sparse": 1, "the CPU refuses it": 2}, backward=Outcome.PASS,
                 backward_samples=3, backward_left_out={})  # fmt: skip
    old = {k: v for k, v in result("sub", samples=7, backward=Outcome.PASS).to_json().items() if "left_out" not in k}
    del old["backward_samples"]
    kept = Journal(tmp_path / "results.jsonl")
    kept.add(row)
    with kept.path.open("a") as file:
        file.write(json.dumps(old) + "\n")
    both = support.Support(kept.read())
    assert str(both.samples()) == (
        "12 compared, 3 left out (the CPU refuses it: 2; sparse: 1); 1 units ran before what is left out was counted"
    )
    assert str(both.backward_samples()) == ("3 compared, 0 left out; 1 units ran before what is left out was counted")
    page = support.markdown(both)
    assert f"- Samples, forward: {both.samples()}.\n- Samples, backward: {both.backward_samples()}." in page


def test_the_page_names_what_was_not_run():
    some = [Unit("add", "", "float32"), Unit("svd", "", "float32"), Unit("var", "unbiased", "int32")]
    page = support.markdown(found(result("add")), some)
    assert "2 of 3 pairs of entry and dtype have no result yet" in page
    assert "- float32: `svd`" in page and "- int32: `var.unbiased`" in page
    assert "Not run" not in support.markdown(found(result("add")), some[:1])


# --- PyTorch's entries ------------------------------------------------------------------------------------------------


def test_units_are_opinfos_entries():
    chosen = units.units(("float32", "int32"), ("linalg.norm*", "add"))
    assert Unit("add", "", "int32") in chosen and Unit("linalg.norm", "subgradients_at_zero", "float32") in chosen
    assert all(u.op in ("add", "linalg.norm") for u in chosen)
    assert len({u.op for u in units.units()}) > 560


def test_a_name_or_dtype_that_nobody_knows_is_said():
    with pytest.raises(BadProblem, match=r"operator = 'sofmax'; no operator is called that. Did you mean"):
        units.units(("float32",), ("sofmax",))
    with pytest.raises(BadProblem, match=r"dtype = 'complex64'; known: float32, bfloat16"):
        units.units(("complex64",))


def test_a_unit_runs_and_a_wrong_answer_is_noticed(monkeypatch):
    from mtia.conformance.check import run_unit

    good = run_unit(Unit("add", "", "float32"))
    assert (good.outcome, good.backward, good.wrong, good.fallbacks) == (Outcome.PASS, Outcome.PASS, 0, {})
    info = units.op_infos()["add", ""]
    plain = info.op

    def off_by_one_on_mtia(x, *rest, **named):
        out = plain(x, *rest, **named)
        return out + 1 if out.device.type == "mtia" else out

    monkeypatch.setattr(info, "op", off_by_one_on_mtia)
    bad = run_unit(Unit("add", "", "float32"))  # one sample is empty
    assert bad.outcome is Outcome.FAIL and bad.wrong == bad.samples - 1 and "not close" in bad.error


def test_a_host_route_is_no_pass(monkeypatch):
    from mtia.conformance.check import run_unit

    info = units.op_infos()["neg", ""]
    plain = info.op
    monkeypatch.setattr(info, "op", lambda x: plain(x.cpu()).to(x.device))
    found = run_unit(Unit("neg", "", "float32"))
    assert (found.outcome, found.wrong) == (Outcome.FALLBACK, 0) and found.fallbacks["download"] > 0
    assert Result.from_json(json.loads(json.dumps(found.to_json()))) == found
