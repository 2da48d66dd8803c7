"""`mtia validate` as a user meets it: text, JSON, files, exit codes. Adds of MTIA 300 are predicted for real."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mtia import cli

ADD = "chip,op,dtype,elements,bytes_per_s\nmtia300,add,bfloat16,1048576,3.64e+11\nmtia300,add,bfloat16,4194304,1.12e+12"


@pytest.fixture
def mtia(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """(exit code, stdout, stderr) of `mtia validate WORDS` in this process; tables go to out/validate below here."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mtia", "validate", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as info:
            cli.main()
        captured = capsys.readouterr()
        return int(info.value.code or 0), captured.out, captured.err

    return run


def test_tables_aims_and_speed_are_printed(mtia, folder):
    code, out, _ = mtia(folder(adds=ADD), "--jobs", 1, "--worst", 1)
    assert code == 0
    said = " ".join(out.split())  # titles wrap at their table's width
    for words in ("By file, errors in %", "adds", "mtia300", "comes with openMTIA", "Worst rows", "add bfloat16 of",
                  "add of MTIA 300, mean", "milliseconds per prediction", "every row was predicted"):  # fmt: skip
        assert words in said, words
    assert "All rows" in Path("out/validate/errors.md").read_text()


def test_json_files_and_plot(mtia, folder, tmp_path: Path):
    out = tmp_path / "out"
    code, text, said = mtia(folder(adds=ADD), "--jobs", 1, "--json", "--out", out, "--plot", out / "plot.html")
    document = json.loads(text)
    assert code == 0 and document["tables"]["all"]["all"]["ours"]["n"] == 2
    assert document["constants"]["mtia300"] and "wrote" in said
    assert {p.name for p in out.iterdir()} == {"errors.md", "errors.json", "rows.csv", "plot.html"}
    assert (
        "## By file" in (out / "errors.md").read_text()
        and "| figure | value | range | kind | source |" in (out / "errors.md").read_text()
    )
    assert len((out / "rows.csv").read_text().splitlines()) == 3
    page = (out / "plot.html").read_text()
    assert "measured, us" in page and 'src="http' not in page


def test_two_runs_say_the_same_but_for_wall_clock(mtia, folder):
    at = folder(adds=ADD)
    first, second = (json.loads(mtia(at, "--jobs", 1, "--json")[1]) for _ in range(2))
    del first["speed"], second["speed"]
    assert first == second


def test_errors_above_the_committed_ones_end_in_exit_code_1(mtia, folder, tmp_path: Path):
    at, committed = folder(adds=ADD), tmp_path / "expected.json"
    assert mtia(at, "--jobs", 1, "--update-expected", committed)[0] == 0
    code, out, _ = mtia(at, "--jobs", 1, "--expected", committed)
    assert code == 0 and "no error is above the expected one" in out
    document = json.loads(committed.read_text())
    document["tables"]["all"]["all"]["mean_frac"] = 0.001
    committed.write_text(json.dumps(document))
    code, out, _ = mtia(at, "--jobs", 1, "--expected", committed)
    assert code == 1 and "worse than expected: all, all: mean_frac" in out


def test_data_that_cannot_be_used_ends_in_exit_code_2(mtia, folder):
    code, _, said = mtia(folder(adds=ADD.replace("mtia300,add", "mtia300,addd", 1)))
    assert code == 2 and "adds.csv:2: op 'addd': is not known. Known: add. Did you mean 'add'?" in said
    code, _, said = mtia("/no/such/folder")
    assert code == 2 and "is no folder" in said


def test_rows_can_be_saved_instead(mtia, folder, tmp_path: Path):
    code, out, _ = mtia(folder(adds=ADD), "--sample", 1, "--save-rows", tmp_path / "kept")
    assert code == 0 and "1 rows written" in out
    assert len((tmp_path / "kept" / "adds.csv").read_text().splitlines()) == 2


def test_figures_are_listed_with_their_sources(mtia, folder):
    _, out, _ = mtia(folder(adds=ADD), "--jobs", 1, "--constants")
    assert "Figures that are calibrated or assumed" in out and "sram.latency_s" in out and "assumed:" in out


@pytest.mark.slow
def test_processes_answer_as_one_does(mtia, folder):
    rows = "\n".join(f"mtia300,add,bfloat16,{1024 * n},1e11" for n in range(1, 40))
    at = folder(adds=ADD.splitlines()[0] + "\n" + rows)
    one, two = (json.loads(mtia(at, "--jobs", jobs, "--json")[1]) for jobs in (1, 2))
    assert one["tables"] == two["tables"] and one["worst"] == two["worst"]
