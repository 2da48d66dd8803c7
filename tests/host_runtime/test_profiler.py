"""torch.profiler sees the device: kernels and copies in simulated time, under the operators that submitted them."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

import mtia
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind

BOTH = [ProfilerActivity.CPU, ProfilerActivity.MTIA]


def step(x):
    return torch.softmax(x @ x, -1)


@pytest.fixture
def x():
    x = torch.randn(128, 128).to("mtia")
    step(x)  # compiled
    torch.mtia.synchronize()
    return x


def device_rows(profiled):
    return [e for e in profiled.events() if e.device_type.name == "MTIA"]


def test_device_rows_are_the_launch_log(x):
    with mtia.session() as log, profile(activities=BOTH) as profiled:
        step(x).cpu()
    rows = device_rows(profiled)
    spans = sorted(log.spans, key=lambda s: s.start_fs)
    assert [r.name for r in sorted(rows, key=lambda r: r.time_range.start)] == [s.name for s in spans]
    for row, span in zip(sorted(rows, key=lambda r: r.time_range.start), spans, strict=True):
        assert row.time_range.elapsed_us() == pytest.approx(span.duration_fs / 1e9, abs=1e-3)
    first, last = min(rows, key=lambda r: r.time_range.start), max(rows, key=lambda r: r.time_range.end)
    apart_us = (log.end_fs - log.start_fs) / 1e9
    assert last.time_range.end - first.time_range.start == pytest.approx(apart_us, abs=3e-3)


def test_an_operator_has_the_time_of_its_kernels(x):
    with mtia.session() as log, profile(activities=BOTH) as profiled:
        step(x)
    averages = {row.key: row for row in profiled.key_averages()}
    kernels = {s.name: s.duration_fs / 1e9 for s in log.of_kind(Kind.KERNEL)}
    assert averages["aten::softmax"].device_time_total == pytest.approx(kernels["mtia_softmax"], abs=1e-3)
    assert averages["aten::matmul"].device_time_total == pytest.approx(kernels["mtia_matmul"], abs=1e-3)
    table = profiled.key_averages().table(sort_by="self_device_time_total")
    assert "Self MTIA" in table and "Self MTIA time total" in table


def test_the_backward_threads_kernels_have_their_operators(x):
    w = torch.randn(128, 128).to("mtia").requires_grad_()
    with profile(activities=BOTH) as profiled:
        (x @ w).sum().backward()
    averages = {row.key: row for row in profiled.key_averages()}
    assert averages["MmBackward0"].device_time_total > 0


def test_the_same_program_has_the_same_device_rows(x):
    def durations():
        with profile(activities=BOTH) as profiled:
            step(x)
        return sorted((r.name, round(r.time_range.elapsed_us(), 3)) for r in device_rows(profiled))

    assert durations() == durations()


def test_a_chrome_trace_holds_the_device_rows(x, tmp_path):
    with profile(activities=BOTH, record_shapes=True) as profiled, record_function("mine"):
        step(x).cpu()
    profiled.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    rows = [e for e in events if e.get("cat") == "mtia_ccp_events"]
    assert [r["name"] for r in rows] == ["mtia_matmul", "mtia_softmax", "download"]
    assert rows[0]["args"]["flop"] == 2 * 128**3 and rows[0]["args"]["bytes"] > 0 and rows[0]["args"]["bound by"]
    operators = {e["args"]["External id"]: e["name"] for e in events if e.get("cat") == "cpu_op"}
    assert [operators[r["args"]["External id"]] for r in rows] == ["aten::mm", "aten::_softmax", "aten::_copy_from"]


def test_a_schedule_keeps_its_active_steps(x):
    seen = []
    plan = schedule(wait=1, warmup=1, active=2, repeat=1)
    with profile(activities=BOTH, schedule=plan, on_trace_ready=lambda p: seen.append(len(device_rows(p)))) as profiled:
        for _ in range(5):
            step(x)
            profiled.step()
    assert seen == [4]


def test_a_host_fallback_is_a_row_of_the_host():
    with profile(activities=BOTH) as profiled:
        clock().host_fallback(0, 0, "aten::on_the_host", 1 << 20, 1 << 20)  # what the C++ fallback reports
    events = profiled.events()
    assert events is not None
    (row,) = [e for e in events if e.name == "aten::on_the_host"]
    assert row.device_type.name == "CPU" and row.time_range.elapsed_us() > 0


def test_without_mtia_among_the_activities_nothing_is_collected(x):
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(x)
    assert not device_rows(profiled)
