"""Rows of kernels, tables, pages, traces: from launches made by hand."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from mtia.report import chrome_trace, page, tables
from mtia.report.summary import BOUNDS, Launch, summarize, total


def launch(
    name: str, start_s: float, end_s: float, *, gap_s: float = 0.0, step: str = "", bound: str = "DRAM"
) -> Launch:
    parts = {bound: end_s - start_s, "launch": gap_s}
    return Launch(name=name, start_s=start_s, end_s=end_s, parts_s=parts, roof_s=(end_s - start_s) / 2, flop=10,
                  dram_bytes=100, sram_bytes=200, energy_j=1e-6, step=step)  # fmt: skip


THREE = [
    launch("mm", 1e-6, 3e-6, gap_s=1e-6, step="prefill", bound="DPE"),
    launch("add", 4e-6, 5e-6, gap_s=1e-6, step="prefill"),
    launch("mm", 5e-6, 8e-6, step="decode 1", bound="DPE"),
]


def test_kernels_add_up_longest_first() -> None:
    rows = summarize(THREE)
    assert [row.name for row in rows] == ["mm", "add"]
    assert (rows[0].calls, rows[0].flop, rows[0].dram_bytes) == (2, 20, 200)
    assert rows[0].time_s == pytest.approx(6e-6) and rows[0].bound == "DPE"
    assert rows[0].roof_frac == pytest.approx(2.5 / 6)
    assert total(THREE).time_s == pytest.approx(sum(row.time_s for row in rows))
    assert total(THREE).bound_frac == pytest.approx(5 / 8)


def test_an_empty_run_has_no_bound() -> None:
    assert total([]).bound == "" and total([]).roof_frac == 0 and summarize([]) == []


def test_equal_times_keep_an_order() -> None:
    twins = [launch("b", 0, 1e-6), launch("a", 1e-6, 2e-6)]
    assert [row.name for row in summarize(twins)] == ["a", "b"]


def test_table_shows_each_kernel_and_the_sum() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(tables.kernel_table(summarize(THREE), total(THREE), title="a run"))
    text = console.export_text()
    assert "a run" in text and "DPE 83%" in text and "total" in text
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(tables.kernel_table(summarize(THREE), total(THREE), title="a run"))
    assert "total" in narrow.export_text()


def test_fallbacks_are_named_most_first() -> None:
    assert tables.fallback_line({}).startswith("host fallbacks: 0")
    assert tables.fallback_line({"aten::a": 1, "aten::b": 3}) == "host fallbacks: 4: aten::b x3, aten::a x1"


def test_trace_opens_as_json_with_steps_and_kernels(tmp_path: Path) -> None:
    events = json.loads(chrome_trace.write(tmp_path / "t.json", [("run", THREE)]).read_text())["traceEvents"]
    spans = [e for e in events if e["ph"] == "X"]
    assert [e["name"] for e in spans if e["tid"] == 0] == ["prefill", "decode 1"]
    assert [e["name"] for e in spans if e["tid"] == 1] == ["mm", "add", "mm"]
    mm = next(e for e in spans if e["tid"] == 1)
    assert (mm["ts"], mm["dur"]) == (pytest.approx(1.0), pytest.approx(2.0))
    assert mm["args"]["DPE us"] == 2.0


class _Balanced(HTMLParser):
    VOID = ("meta", "line", "rect")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in self.VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_alone_and_closes_its_tags(tmp_path: Path) -> None:
    body = [
        page.heading("<one>"), page.note("n"), page.quote("q"), page.kernels(summarize(THREE), total(THREE)),
        page.bars([page.Bar(label="chip", parts_s={"DRAM": 2e-3, "launch": 1e-3}, low=2e-3, high=5e-3)]),
        page.timeline(THREE), page.fold("more", page.table(("a", "b"), [("1", "2")])),
    ]  # fmt: skip
    text = page.write(tmp_path / "p.html", title="t", lead="l", body=body).read_text()
    parser = _Balanced()
    parser.feed(text)
    assert not parser.open and {"svg", "rect", "table", "details"} <= parser.seen
    assert "http" not in text and "<script" not in text and "&lt;one&gt;" in text


def test_timeline_covers_each_launch_over_line_ends() -> None:
    drawn = page.timeline([launch("long", 0, 4e-6)], rows=4)
    assert drawn.count("<rect") == 4


def test_every_bound_has_a_colour() -> None:
    assert set(page.COLORS) == set(BOUNDS)
