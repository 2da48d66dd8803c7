"""`mtia chips`, `mtia chips show`, `mtia roadmap`: text, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mtia import chips, cli


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `mtia WORDS` in this process."""
    monkeypatch.setattr(sys, "argv", ["mtia", *words])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as info:
        cli.main()
    captured = capsys.readouterr()
    return int(info.value.code or 0), captured.out, captured.err


@pytest.fixture
def mtia(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *words: run(monkeypatch, capsys, *words)


def test_chips_lists_all(mtia):
    code, out, _ = mtia("chips")
    assert code == 0 and all(name in out for name in chips.names())


def test_chips_json(mtia):
    code, out, _ = mtia("chips", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and tuple(rows) == chips.names()
    assert rows["mtia300"]["peak_flop_per_s"]["bf16"] == pytest.approx(560e12, rel=0.01)


def test_show_tells_sources_ranges_and_counts(mtia):
    code, out, _ = mtia("chips", "show", "mtia400")
    assert code == 0
    for part in (
        "clock_hz",
        "1.7 GHz … 1.9 GHz",
        "assumed",
        "published",
        "9.4 TB/s",
        f"{len(chips.load('mtia400').figures)} figures:",
        "HC26    Meta's Custom",
    ):
        assert part in out


def test_show_json_has_every_figure(mtia):
    _, out, _ = mtia("chips", "show", "mtia450", "--json")
    document = json.loads(out)
    assert set(document["all"]) == set(chips.load("mtia450").figures)
    assert document["all"]["noc.multicast"]["inherited_from"] == "mtia400"
    assert sum(document["figures"].values()) == len(document["all"])


def test_show_takes_a_file(mtia, tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nbase = "mtia300"\n')
    code, out, _ = mtia("chips", "show", str(path), "--json")
    assert code == 0 and json.loads(out)["name"] == "mine"


def test_unknown_chip_is_exit_code_two(mtia):
    code, out, err = mtia("chips", "show", "mtia40")
    assert (code, out) == (2, "") and "unknown chip 'mtia40'" in err and "Did you mean 'mtia400'?" in err


def test_bad_file_is_exit_code_two(mtia, tmp_path: Path):
    path = tmp_path / "bad.toml"
    path.write_text('name = "bad"\nbase = "mtia300"\n[clock_ghz]\nvalue = 2\n')
    code, _, err = mtia("chips", "show", str(path))
    assert code == 2 and "write clock_hz in hertz" in err


def test_unknown_command(mtia):
    code, _, err = mtia("chops")
    assert code == 2 and "chops" in err


def test_roadmap(mtia):
    code, out, _ = mtia("roadmap")
    assert code == 0
    for part in ("MTIA 100", "MTIA 500", "×", "mass deployment", "DRAM bandwidth"):
        assert part in out


def test_roadmap_json(mtia):
    _, out, _ = mtia("roadmap", "--json")
    rows = json.loads(out)
    assert [r["name"] for r in rows] == ["mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500"]
    assert rows[4]["figures"]["dram.bytes_per_s"]["ratio"] == pytest.approx(18.4 / 9.4)
    assert rows[0]["figures"]["dram.bytes_per_s"]["ratio"] is None


def test_roadmap_of_chosen_chips(mtia):
    _, out, _ = mtia("roadmap", "--json", "--chip", "mtia200", "--chip", "mtia400")
    assert json.loads(out)[1]["figures"]["dram.bytes_per_s"]["ratio"] == pytest.approx(45.9, rel=0.01)


def test_version(mtia):
    assert mtia("--version")[1].startswith("openmtia 0.")


def test_chips_does_not_import_torch():
    code = ("import sys; sys.argv = ['mtia', 'chips', '--json']; from mtia import cli\n"
            "try:\n    cli.main()\nexcept SystemExit: pass\n"
            "print('torch' in sys.modules, file=sys.stderr)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "False"
