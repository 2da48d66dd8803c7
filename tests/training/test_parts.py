"""Each femtosecond and joule of a step belongs to one part."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mtia
from mtia.chips import load
from mtia.host_runtime.record import Kind, Span, Work
from mtia.training.parts import GAPS, PartMeter, StepCost, cost_of, mean

SPEC = load("mtia300")


def span(start: int, length: int, energy_j: float = 0.0, kind: Kind = Kind.KERNEL) -> Span:
    return Span("k", kind, 0, 0, start, start, start + length, Work(energy_j=energy_j))


def test_by_hand():
    """Idle 10, a for 5, idle 5, b for 10 of which 4 overlap a copy of c's, idle 7 until the device is done."""
    spans = [span(10, 5, 1.0), span(20, 10, 2.0), span(26, 10, kind=Kind.COPY)]
    cost = cost_of(spans, [(0, "a"), (1, "b"), (2, "c")], SPEC, 0, 43)
    assert {name: (p.n_calls, p.time_fs) for name, p in cost.parts.items()} == {
        GAPS: (0, 22), "a": (1, 5), "b": (1, 10), "c": (1, 6),
    }  # fmt: skip
    idle_j = (22 + 6) * 1e-15 * SPEC.power.idle_w
    assert cost.energy_j == pytest.approx(3.0 + idle_j)


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100)), max_size=20),
    st.lists(st.integers(0, 25), max_size=8),
)
def test_parts_sum_to_the_step(spans: list[tuple[int, int]], marks: list[int]):
    made = [span(*s) for s in spans]
    end = max((s.end_fs for s in made), default=0) + 3
    cost = cost_of(made, [(m, str(m)) for m in sorted(marks)], SPEC, 0, end)
    assert sum(p.time_fs for p in cost.parts.values()) == cost.time_fs == end
    assert sum(p.n_calls for p in cost.parts.values()) == len(made)


def test_modules_own_their_kernels_forward_and_backward():
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to("mtia")
    meter = PartMeter(model, lambda name, module: {"0": "first", "2": "second"}.get(name))
    x = torch.randn(4, 8).to("mtia")
    for _ in range(2):
        before_s = mtia.simulated_time_s()
        with meter.step():
            meter.phase("loss")
            loss = model(x).sum()
            meter.phase("backward")
            loss.backward()
        after_s = mtia.simulated_time_s()
        step = meter.steps[-1]
        assert step.time_s == pytest.approx(after_s - before_s)
        assert list(step.parts) == [GAPS, "first", "loss", "second", "backward", "second backward", "first backward"]
        assert sum(p.time_fs for p in step.parts.values()) == step.time_fs
    meter.remove()
    assert mean(meter.steps).time_fs == sum(s.time_fs for s in meter.steps) // 2
    with meter.step():
        model(x)
    assert set(meter.steps[-1].parts) <= {GAPS, "", "backward"}


def test_mean_of_none_is_nothing():
    assert mean([]) == StepCost(time_fs=0)
