"""One architecture of each family through the whole check (`mtia models` runs all); wrong answers are caught."""

from __future__ import annotations

import pytest
import torch

from mtia.architectures import check
from mtia.architectures.result import Outcome, Unit

EACH_FAMILY = ("llama", "qwen3_moe", "distilbert", "t5", "vit", "clip", "whisper", "mamba2")


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_forward_and_training_step(name: str) -> None:
    result = check.run_unit(Unit(name, "float32"))
    assert (result.outcome, result.error, result.fallbacks) == (Outcome.PASS, "", {})
    assert 0 < result.kernels_forward < result.kernels_step
    slow, fast = (result.times[chip] for chip in check.TIMED_CHIPS)
    assert slow.step_s > slow.forward_s > fast.forward_s > 0
    assert (slow.kernels_forward, slow.kernels_step) == (result.kernels_forward, result.kernels_step)
    assert result.graphs >= 2
    assert 0 < result.compile_s < result.wall_s


def test_what_a_model_raises_is_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("planted\nin two lines")

    monkeypatch.setattr(check, "_reference", broken)
    result = check.run_unit(Unit("llama", "float32"))
    assert (result.outcome, result.error) == (Outcome.FAIL, "RuntimeError: planted in two lines")


def test_a_model_that_refuses_stale_values_is_timed_with_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """wav2vec2 reads its labels' maximum: without values it may find one beyond its vocabulary."""

    def refused(program: check.Program) -> None:
        raise ValueError("Label values must be <= vocab_size: 20")

    monkeypatch.setattr(check, "_times", refused)
    assert not check._same_without_values(None, "mtia300", None)  # type: ignore[arg-type]


def test_an_error_beyond_the_allowed_is_wrong() -> None:
    exact = [torch.tensor([1.0, -8.0], dtype=torch.float64)]
    own = [exact[0] + 1e-6]
    allowed = 2e-6 + 8 * 2.0**-20
    assert check._within("output", [exact[0] + 0.9 * allowed], exact, own, 2.0**-20) == pytest.approx(0.9, rel=1e-3)
    with pytest.raises(check.Wrong, match=r"output: differs from the CPU's float64 by .*, allowed are 9.63e-06"):
        check._within("output", [exact[0] + 1.1 * allowed], exact, own, 2.0**-20)
    with pytest.raises(check.Wrong, match="output: not finite"):
        check._within("output", [exact[0] * float("nan")], exact, own, 2.0**-20)
    with pytest.raises(check.Wrong, match="other shapes than the CPU's"):
        check._within("output", [exact[0][:1]], exact, own, 2.0**-20)
