"""Runs one architecture: forward and one training step under torch.compile on the device, held to the CPU.

The reference is eager float64 on the CPU. The device may differ from it by twice what eager float32 (or the narrower
dtype) on the CPU differs, plus some units in the last place of the largest value: sums are taken in another order, and
how far that carries is the model's property. Outputs, loss and all gradients together are compared. The optimiser is
PyTorch's fused AdamW, compared by itself: eager AdamW on the CPU, given the device's gradients, must give the device's
parameters. (The first step of AdamW divides each gradient by its own size, so a gradient that is nothing but rounding
moves its parameter by a whole step either way.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch

from mtia import knobs
from mtia.architectures.configs import ARCHITECTURES, build, moved
from mtia.architectures.result import Outcome, Result, Times, Unit
from mtia.host_runtime import fallback, silicon
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind, session
from mtia.units import fs_to_s

LEARNING_RATE = 1e-2
UNITS = {torch.float32: 16 * 2.0**-23, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
"""What the device may differ beyond twice the CPU's own error, relative to the largest value. float32: a sum of some
hundred terms in another order; narrower types: one unit in the last place."""
MOST_ERROR_CHARS = 400
TIMED_CHIPS = ("mtia300", "mtia400")


class Wrong(Exception):
    """The device's answer is not the CPU's."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the CPU gives: output, loss and the gradients of all parameters, float64 on the host."""

    output: torch.Tensor
    loss: torch.Tensor
    gradients: list[torch.Tensor]


def run_unit(unit: Unit) -> Result:
    """Everything about one architecture in one dtype. Nothing that it does wrong escapes as an exception."""
    result = Result(name=unit.name, dtype=unit.dtype, family=ARCHITECTURES[unit.name].family, outcome=Outcome.PASS)
    start_s = perf_counter()
    fallback.reset()
    try:
        with knobs.scope(host_fallback=knobs.HostFallback.COUNT):
            _check(unit, result)
    except Exception as error:  # whatever a model raises is its result
        result.outcome, result.error = Outcome.FAIL, _line(error)
    result.fallbacks = dict(fallback.counts())
    if result.fallbacks and result.outcome is Outcome.PASS:
        result.outcome = Outcome.FALLBACK
    result.wall_s = perf_counter() - start_s
    return result


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MOST_ERROR_CHARS]


def _check(unit: Unit, result: Result) -> None:
    dtype = getattr(torch, unit.dtype)
    exact, own = _reference(unit.name, dtype, torch.float64), _reference(unit.name, dtype, dtype)
    program = Program(unit.name, dtype)
    with silicon.use(TIMED_CHIPS[0]):
        output, loss = program.forward(), program.step()
        result.graphs, result.compile_s = _graphs(), _compile_s()
        result.error_share = max(
            _within("output", [output], [exact.output], [own.output], UNITS[dtype]),
            _within("loss", [loss], [exact.loss], [own.loss], UNITS[dtype]),
            _within("gradient", program.gradients(), exact.gradients, own.gradients, UNITS[dtype]),
        )
        program.check_optimizer(UNITS[dtype])
        with_values = _times(program)
    result.kernels_forward, result.kernels_step = with_values.kernels_forward, with_values.kernels_step
    result.times = dict(_times_by_chip(program, with_values))


def _reference(name: str, weights: torch.dtype, dtype: torch.dtype) -> Reference:
    """Eager on the CPU in `dtype`, from weights and inputs rounded to `weights`."""
    model, inputs = build(name)
    model = _plain(model).to(weights).to(dtype)
    with torch.no_grad():
        output = output_of(model(**moved(moved(inputs, weights), dtype)))
    model, inputs = build(name, training=True)
    model = _plain(model).to(weights).to(dtype)
    loss = model(**moved(moved(inputs, weights), dtype)).loss
    loss.backward()
    return Reference(output.double(), loss.detach().double(), _gradients(model))


def _plain(model: Any) -> torch.nn.Module:
    """With experts one after another: PyTorch's grouped product has no float64."""
    model.config._experts_implementation = "eager"
    return model


def output_of(result: Any) -> torch.Tensor:
    """Logits where there are some, else a model's own answer (CLIP: similarities), else the last hidden state."""
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    raise TypeError(f"no logits in {type(result).__name__}")


def _gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad.double().cpu() for p in model.parameters() if p.grad is not None]


# --- the program on the device ----------------------------------------------------------------------------------------


class Program:
    """One architecture on the device: `forward` and `step`, compiled at their first call."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model, inputs = build(name, training=True)
        self.model = model.to(dtype).to("mtia")
        self.inputs = moved(inputs, dtype, "mtia")
        self.plain_inputs = {k: v for k, v in self.inputs.items() if k in build(name)[1]}
        self.compiled: Any = torch.compile(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        self.before: list[torch.Tensor] = []

    @torch.no_grad()
    def forward(self) -> torch.Tensor:
        """The output, float64 on the host."""
        return self._run_forward().double().cpu()

    def _run_forward(self) -> torch.Tensor:
        self.model.eval()
        return output_of(self.compiled(**self.plain_inputs))

    def step(self) -> torch.Tensor:
        """One training step; gradients stay. The loss, float64 on the host."""
        self.before = self._parameters()
        return self._run_step().double().cpu()

    def _run_step(self) -> torch.Tensor:
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.compiled(**self.inputs).loss
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> list[torch.Tensor]:
        return _gradients(self.model)

    def _parameters(self) -> list[torch.Tensor]:
        return [p.detach().cpu().clone() for p in self.model.parameters()]

    def check_optimizer(self, unit: float) -> None:
        """Eager AdamW on the CPU from the parameters before the step and the device's gradients. Raises Wrong."""
        mirrors = [torch.nn.Parameter(p) for p in copy.deepcopy(self.before)]
        for mirror, parameter in zip(mirrors, self.model.parameters(), strict=True):
            mirror.grad = None if parameter.grad is None else parameter.grad.cpu()
        torch.optim.AdamW(mirrors, lr=LEARNING_RATE).step()
        expected = [m.detach().double() for m in mirrors]
        _within("parameter", [p.double() for p in self._parameters()], expected, expected, unit)

    def once(self) -> tuple[Callable[[], object], Callable[[], object]]:
        """Forward and step as they are timed: nothing is read back."""
        return torch.no_grad()(self._run_forward), self._run_step


def _within(
    what: str, got: Sequence[torch.Tensor], exact: Sequence[torch.Tensor], own: Sequence[torch.Tensor], unit: float
) -> float:
    """The error as a share of what is allowed. Raises Wrong where it is more than 1."""
    if [t.shape for t in got] != [t.shape for t in exact]:
        raise Wrong(f"{what}: {len(got)} tensors of other shapes than the CPU's {len(exact)}")
    if not all(bool(torch.isfinite(t).all()) for t in got):
        raise Wrong(f"{what}: not finite")
    largest = max(float(t.abs().max()) for t in exact)
    allowed = 2 * _distance(own, exact) + unit * largest
    error = _distance(got, exact)
    if error > allowed:
        raise Wrong(f"{what}: differs from the CPU's float64 by {error:.3g}, allowed are {allowed:.3g}")
    return error / allowed if allowed else 0.0


def _distance(a: Iterable[torch.Tensor], b: Iterable[torch.Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


# --- what it costs ----------------------------------------------------------------------------------------------------


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _compile_s() -> float:
    """Wall seconds in Dynamo, AOTAutograd, Inductor and Triton since the last reset of Dynamo."""
    return float(torch._dynamo.utils.calculate_time_spent().get("total_wall_time", 0.0))


def _times(program: Program) -> Times:
    """Simulated times on the chip in force, of the second run: SRAM holds what the first one left."""
    forward, step = program.once()
    forward()
    step()
    (forward_s, in_forward), (step_s, in_step) = _measure(forward), _measure(step)
    return Times(
        forward_s=forward_s, step_s=step_s, kernels_forward=len(in_forward), kernels_step=len(in_step),
        attention_kernels=sum(name.startswith("mtia_attention") for name in in_step),
    )  # fmt: skip


def _measure(run: Callable[[], object]) -> tuple[float, list[str]]:
    """Simulated seconds from an idle device to an idle device, and the kernels launched."""
    torch.mtia.synchronize()
    begin_fs = clock().now_fs
    with session() as log:
        run()
        torch.mtia.synchronize()
    return fs_to_s(clock().now_fs - begin_fs), [span.name for span in log.of_kind(Kind.KERNEL)]


def _times_by_chip(program: Program, with_values: Times) -> Iterator[tuple[str, Times]]:
    """The first chip's times, then the others': without values where that gives the first chip the same time.

    Where kernels compute addresses for others (an expert's tokens), a run without values would be timed on stale ones.
    """
    first, *others = TIMED_CHIPS
    yield first, with_values
    values = not _same_without_values(program, first, with_values)
    for chip in others:
        with silicon.use(chip), knobs.scope(values=values):
            yield chip, _times(program)


def _same_without_values(program: Program, chip: str, with_values: Times) -> bool:
    with silicon.use(chip), knobs.scope(values=False):
        try:
            return _times(program) == with_values
        except Exception:  # stale values: indices out of bounds, a model's own check of its labels
            return False


__all__ = ["Program", "Wrong", "output_of", "run_unit"]
