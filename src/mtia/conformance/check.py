"""Runs one unit: every OpInfo sample on the CPU and on the device, forward and, where OpInfo checks it, backward.

A sample is right where shape, dtype and device agree and values are close: to the CPU's in the same dtype within
PyTorch's default tolerance, or, where rounding makes the CPU's own result no closer, to the CPU's in float64 within
twice the CPU's own error. That error is a matter of luck where a formula magnifies rounding, so before a sample is
called wrong it is the largest of several CPU runs, whose inputs are moved by one rounding. Where an operator gives
values with the places they came from, any place that holds the value is right: which of equals is named is nobody's
promise. Operators that make sparse tensors are left out: the device has none. Random results (another seed gives the
CPU another one) are held to shape, dtype, device and to giving the same twice from one seed; operators that leave
memory uninitialised to shape, dtype and device.

A sample that has nothing to compare (the CPU itself refuses it, most often) is left out, and counted by reason.

Every help of the host counts: the boxed fallback, kernels that count their own, and, as `download`, whatever else
reads more than one number of the device's memory while the operator runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from torch.utils._pytree import tree_leaves, tree_map

from mtia.conformance.result import Outcome, Result
from mtia.conformance.units import FLOATS, Unit, op_infos
from mtia.host_runtime import fallback, record

SEED = 2026
MOST_ERROR_CHARS = 300
ONE_NUMBER_BYTES = 16  # a complex128
ASKS_FOR_HOST_TENSORS = frozenset(("tensor_split",))  # refuses indices on any device, as with PyTorch's own
SPARSE = frozenset(("to_sparse",))  # give sparse tensors, which the device does not have
READS_BEYOND_ITS_VIEW = frozenset(("partial_views",))  # of as_strided
CHOOSES = frozenset(("kthvalue", "max", "median", "min", "mode", "msort", "nanmedian", "sort", "topk"))
UNINITIALISED = frozenset(("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"))


class Wrong(Exception):
    """The device's answer is not the CPU's."""


class LeftOut(Exception):
    """A sample has nothing to hold the device to; the text is the reason, the same for all such samples."""


REFUSED = "the CPU refuses it"
HAS_NO_GRADIENT = "no gradient on the CPU"
IS_RANDOM = "random, so its gradient is"
LEAVES_MEMORY = "uninitialised memory"
IS_SPARSE = "sparse tensors"
BEYOND_ITS_VIEW = "reads beyond its view, whose storage is not copied"


@dataclass(slots=True)
class Tally:
    """Samples so far, in one direction: compared, of them wrong, and left out by reason."""

    samples: int = 0
    wrong: int = 0
    error: str = ""
    left_out: dict[str, int] = field(default_factory=dict)
    fallbacks: dict[str, int] = field(default_factory=dict)

    def outcome(self) -> Outcome:
        if self.wrong:
            return Outcome.FAIL
        if self.fallbacks:
            return Outcome.FALLBACK
        return Outcome.PASS if self.samples else Outcome.SKIP


def run_unit(unit: Unit) -> Result:
    """All samples of the unit. Nothing that a sample does wrong escapes as an exception."""
    start_s = perf_counter()
    info = op_infos()[unit.op, unit.variant]
    forward, backward = Tally(), Tally()
    for sample in _samples(info, unit.dtype, requires_grad=False):
        _judge(forward, lambda sample=sample: _compare_forward(info, sample, unit.dtype))
    gradients = _has_gradients(info, unit.dtype)
    if gradients:
        for sample in _samples(info, unit.dtype, requires_grad=True):
            _judge(backward, lambda sample=sample: _compare_backward(info, sample, unit.dtype))
    return Result(
        op=unit.op,
        variant=unit.variant,
        dtype=unit.dtype,
        outcome=forward.outcome(),
        samples=forward.samples,
        wrong=forward.wrong,
        error=forward.error,
        left_out=forward.left_out,
        backward=backward.outcome() if gradients else "",
        backward_samples=backward.samples,
        backward_error=backward.error,
        backward_left_out=backward.left_out,
        fallbacks={op: forward.fallbacks.get(op, 0) + n for op, n in backward.fallbacks.items()}
        | {op: n for op, n in forward.fallbacks.items() if op not in backward.fallbacks},
        wall_s=perf_counter() - start_s,
    )


def _samples(info: Any, dtype: str, *, requires_grad: bool) -> Iterator[Any]:
    torch.manual_seed(SEED)
    yield from info.sample_inputs("cpu", getattr(torch, dtype), requires_grad=requires_grad)


def _has_gradients(info: Any, dtype: str) -> bool:
    return info.supports_autograd and dtype in FLOATS and getattr(torch, dtype) in info.supported_backward_dtypes("cpu")


def _judge(tally: Tally, compare: Callable[[], None]) -> None:
    """One sample: right, wrong, or left out."""
    before = fallback.counts()
    try:
        compare()
    except LeftOut as why:
        tally.left_out[str(why)] = tally.left_out.get(str(why), 0) + 1
        return
    except Exception as error:  # whatever an operator raises is its result
        tally.wrong += 1
        tally.error = tally.error or _line(error)
    tally.samples += 1
    for op, n in fallback.counts().items():
        if n > before.get(op, 0):
            tally.fallbacks[op] = tally.fallbacks.get(op, 0) + n - before.get(op, 0)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:MOST_ERROR_CHARS]


# --- one sample -------------------------------------------------------------------------------------------------------


def _on_device(value: Any) -> Any:
    """The same on the device: tensors keep their strides, and what names the CPU names the device."""

    def moved(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            there = x.detach().to("mtia")
            return there.requires_grad_(x.requires_grad)
        if isinstance(x, torch.device) and x.type == "cpu":
            return torch.device("mtia")
        return "mtia" if isinstance(x, str) and x == "cpu" else x

    return tree_map(moved, value)


def _copied(value: Any) -> Any:
    """Host inputs of its own for a run that may write to them."""

    def copy(x: Any) -> Any:
        return (
            x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
            if isinstance(x, torch.Tensor)
            else x
        )

    return tree_map(copy, value)


def _arguments(sample: Any) -> tuple[Any, tuple, dict]:
    return sample.input, tuple(sample.args), dict(sample.kwargs)


def _call(info: Any, sample: Any, arguments: tuple[Any, tuple, dict]) -> Any:
    first, rest, named = arguments
    torch.manual_seed(SEED)
    result = info(first, *rest, **named)
    process = getattr(sample, "output_process_fn_grad", None)
    return process(result) if process is not None else result


def _call_on_device(info: Any, sample: Any) -> Any:
    with _watched():
        return _call(info, sample, _device_arguments(info, sample))


def _device_arguments(info: Any, sample: Any) -> tuple[Any, tuple, dict]:
    first, rest, named = _arguments(sample)
    if info.name in ASKS_FOR_HOST_TENSORS:
        return _on_device(first), rest, named
    return _on_device((first, rest, named))


@contextmanager
def _watched() -> Iterator[None]:
    """Counts what the host reads from the device meanwhile, single numbers aside, as the host route `download`."""
    with record.session() as log:
        yield
    n = sum(s.name == "download" and s.work.n_bytes > ONE_NUMBER_BYTES for s in log.of_kind(record.Kind.COPY))
    if n:
        fallback.count("download", n)


def _leave_out(info: Any, sample: Any) -> None:
    """Raises LeftOut for what the device has no tensors for."""
    tensors = [x for x in tree_leaves(_arguments(sample)) if isinstance(x, torch.Tensor)]
    if info.name in SPARSE or any(x.layout is not torch.strided for x in tensors):
        raise LeftOut(IS_SPARSE)


def _refusal(info: Any) -> LeftOut:
    """Why the CPU gives nothing for copies of a sample's tensors."""
    beyond = getattr(info, "variant_test_name", "") in READS_BEYOND_ITS_VIEW
    return LeftOut(BEYOND_ITS_VIEW if beyond else REFUSED)


def _compare_forward(info: Any, sample: Any, dtype: str) -> None:
    _leave_out(info, sample)
    try:
        expected = _call(info, sample, _copied(_arguments(sample)))
    except Exception:
        raise _refusal(info) from None
    is_random = _is_random(info, sample)
    with torch.no_grad(), torch.device("mtia"):  # where factories without a device make their tensors
        got = _call_on_device(info, sample)
    if info.name in UNINITIALISED:
        _same_form(got, expected)
    elif is_random:
        _same_form(got, expected)
        with torch.no_grad():
            again = _call_on_device(info, sample)
        _same_values(again, got)
    else:
        got = _places_settled(info.name, sample.kwargs, sample.input, got, expected)
        _close(got, expected, lambda inputs: _call(info, sample, inputs), sample)


class _Sorted(tuple):
    """(values, places) as PyTorch's named tuples have them."""

    @property
    def indices(self) -> Any:
        return self[1]


def _places_settled(name: str, named: dict[str, Any], x: Any, got: Any, expected: Any) -> Any:
    """`got` with the CPU's places where its own hold the same values of `x`."""
    if name == "argsort" and not named.get("stable"):
        return _places_settled("", {}, x, (None, got), _Sorted((None, expected)))[1]
    if not (isinstance(expected, tuple) and hasattr(expected, "indices") and isinstance(x, torch.Tensor)):
        return got
    mine, theirs = got[1].cpu(), expected[1]
    if mine.shape != theirs.shape or torch.equal(mine, theirs):
        return got
    lanes = [
        (x.movedim(d, -1), mine.movedim(d, -1), theirs.movedim(d, -1))
        if mine.dim() == x.dim()
        else (x.movedim(d, -1), mine.unsqueeze(-1), theirs.unsqueeze(-1))
        for d in range(x.dim())
    ]
    for lane, ours, cpus in lanes:
        fits = lane.shape[:-1] == ours.shape[:-1] and int(ours.max()) < lane.shape[-1] > int(cpus.max())
        if fits and torch.equal(lane.gather(-1, ours).nan_to_num(), lane.gather(-1, cpus).nan_to_num()):
            return (got[0], theirs.to(got[1].device))
    return got


def _same_choices(x: torch.Tensor, got: torch.Tensor | None, expected: torch.Tensor | None) -> bool:
    """Whether gradients differ only in which of equal elements they went to: along some dim, every lane holds the same
    pairs of element and gradient."""
    if got is None or expected is None or got.shape != expected.shape or x.shape != got.shape or x.dim() == 0:
        return False
    return any(torch.equal(_pairs(x, got.cpu(), d), _pairs(x, expected, d)) for d in range(x.dim()))


def _pairs(x: torch.Tensor, grad: torch.Tensor, dim: int) -> torch.Tensor:
    """Gradients of each lane, ordered by element, then by gradient."""
    grad, by_grad = grad.sort(dim)
    return grad.gather(dim, x.detach().gather(dim, by_grad).sort(dim=dim, stable=True).indices)


def _is_random(info: Any, sample: Any) -> bool:
    """Whether the CPU's result hangs on the seed, be it ours or one that OpInfo's wrapper sets."""
    one, other = (_call_reseeded(info, sample, shift) for shift in (0, 1))
    return any(
        isinstance(x, torch.Tensor) and not torch.equal(_without_nan(x), _without_nan(y))
        for x, y in zip(_tensors(one), _tensors(other), strict=True)
    )


def _without_nan(x: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).nan_to_num()  # ComplexHalf has none


def _call_reseeded(info: Any, sample: Any, shift: int) -> Any:
    """The CPU's result where every seed is `shift` more."""
    seed = torch.manual_seed
    with mock.patch.object(torch, "manual_seed", lambda n: seed(n + shift)), torch.no_grad():
        return _call(info, sample, _copied(_arguments(sample)))


def _compare_backward(info: Any, sample: Any, dtype: str) -> None:
    """Gradients of a fixed weighted sum of the outputs with respect to every input that takes one."""
    _leave_out(info, sample)
    if info.name in UNINITIALISED:
        raise LeftOut(LEAVES_MEMORY)
    try:
        expected = _gradients(info, sample, _copied(_arguments(sample)))
    except Exception:
        raise _refusal(info) from None
    if expected is None or _is_random(info, sample):
        raise LeftOut(HAS_NO_GRADIENT if expected is None else IS_RANDOM)
    with _watched():
        got = _gradients(info, sample, _device_arguments(info, sample))
    if info.name in CHOOSES and got and _same_choices(sample.input, got[0], expected[0]):
        return
    if got is None:
        raise Wrong("no output of the device takes part in autograd")
    _close(got, expected, lambda inputs: _gradients(info, sample, inputs), sample)


def _gradients(info: Any, sample: Any, arguments: tuple[Any, tuple, dict]) -> list[torch.Tensor | None] | None:
    inputs = [x for x in tree_leaves(arguments) if isinstance(x, torch.Tensor) and x.requires_grad]
    result = _call(info, sample, arguments)
    outputs = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.requires_grad]
    if not inputs or not outputs:
        return None
    weights = [_weights(x) for x in outputs]
    return list(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))


def _weights(x: torch.Tensor) -> torch.Tensor:
    """The same for the same shape everywhere: between 0.5 and 1.5, multiples of 1/128, which every float dtype holds:
    the float64 reference takes the same."""
    plain = torch.linspace(0.5, 1.5, max(1, x.numel()), dtype=torch.float64)[: x.numel()].reshape(x.shape)
    return ((plain * 128).round() / 128).to(x.dtype).to(x.device)


def _wide(value: Any) -> Any:
    """In float64, for a reference."""

    def widened(x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.dtype.is_floating_point:
            return x.detach().to(torch.float64).requires_grad_(x.requires_grad)
        return torch.float64 if isinstance(x, torch.dtype) and x.is_floating_point else x

    return tree_map(widened, value)


def _rounded(value: Any, run: int) -> Any:
    """Each element of the floating point tensors moved up or down by about one rounding; other signs each run."""
    generator = torch.Generator().manual_seed(run)

    def moved(x: Any) -> Any:
        if not (isinstance(x, torch.Tensor) and x.dtype.is_floating_point):
            return x
        signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
        return (x.detach() * (1 + torch.finfo(x.dtype).eps * signs)).to(x.dtype).requires_grad_(x.requires_grad)

    return tree_map(moved, value)


# --- comparing --------------------------------------------------------------------------------------------------------


def _tensors(value: Any) -> list[Any]:
    return tree_leaves(value)


def _same_form(got: Any, expected: Any) -> None:
    left, right = _tensors(got), _tensors(expected)
    if len(left) != len(right):
        raise Wrong(f"{len(left)} results, the CPU gives {len(right)}")
    for g, e in zip(left, right, strict=True):
        if not isinstance(e, torch.Tensor):
            continue
        if not isinstance(g, torch.Tensor) or (g.shape, g.dtype) != (e.shape, e.dtype):
            raise Wrong(f"{_form(g)}, the CPU gives {_form(e)}")
        if g.device.type != "mtia":
            raise Wrong(f"the result lies on {g.device}")


def _form(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else repr(x)


def _same_values(got: Any, expected: Any) -> None:
    for g, e in zip(_tensors(got), _tensors(expected), strict=True):
        if isinstance(e, torch.Tensor) and not torch.equal(g.cpu().nan_to_num(), e.cpu().nan_to_num()):
            raise Wrong("another result from the same seed")


def _close(got: Any, expected: Any, compute: Callable[[Any], Any], sample: Any) -> None:
    """`compute`: the host's results for arguments like the sample's."""
    _same_form(got, expected)
    left, right = _tensors(got), _tensors(expected)
    wide: list[Any] | None = None
    for at, (g, e) in enumerate(zip(left, right, strict=True)):
        if not isinstance(e, torch.Tensor):
            if g != e and not (g != g and e != e):
                raise Wrong(f"{g!r}, the CPU gives {e!r}")
            continue
        host = g.detach().cpu()
        try:
            torch.testing.assert_close(host, e.detach(), equal_nan=True)
        except AssertionError as error:
            if not e.dtype.is_floating_point:
                raise Wrong(_line(error)) from None
            wide = _exactly(compute, _copied(_arguments(sample))) if wide is None else wide
            if _is_lost(e, wide[at]) and _holds(host, wide[at]):
                continue
            ours, theirs = _error(host, wide[at].detach(), e.detach()), _error(e.detach(), wide[at].detach())
            if ours > 2 * theirs and (ours == float("inf") or ours > 2 * _usual_error(compute, sample, at)):
                raise Wrong(_line(error)) from None


def _exactly(compute: Callable[[Any], Any], arguments: Any) -> list[Any]:
    """The host's results in float64; also where an operator makes floats of integers."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return _tensors(compute(_wide(arguments)))
    finally:
        torch.set_default_dtype(usual)


def _is_lost(cpus: torch.Tensor, exact: torch.Tensor) -> bool:
    """The CPU has NaN or infinity throughout, float64 has not."""
    return cpus.numel() > 0 and not bool(cpus.isfinite().any()) and bool(exact.isfinite().all())


def _holds(host: torch.Tensor, exact: torch.Tensor) -> bool:
    try:
        torch.testing.assert_close(host, exact.detach().to(host.dtype))
    except AssertionError:
        return False
    return True


CPU_RUNS = 8


def _usual_error(compute: Callable[[Any], Any], sample: Any, at: int) -> float:
    """The CPU's largest error of result `at` over runs with inputs that a rounding moved, each against its own exact
    result."""
    errors = []
    for run in range(CPU_RUNS):
        inputs = _rounded(_copied(_arguments(sample)), run)
        exact = _exactly(compute, _copied(inputs))[at].detach()
        errors.append(_error(_tensors(compute(inputs))[at].detach(), exact))
    return max((e for e in errors if e < float("inf")), default=0.0)


def _error(got: torch.Tensor, exact: torch.Tensor, like: torch.Tensor | None = None) -> float:
    """The largest difference of finite elements; infinite where shapes differ, or what is not finite is not as in
    `like`."""
    if exact.shape != got.shape:
        return float("inf")
    g, c, e = got.double(), (got if like is None else like).double(), exact.double()
    odd = ~(g.isfinite() & c.isfinite() & e.isfinite())
    if not torch.equal(g.isnan()[odd], c.isnan()[odd]) or not torch.equal(g[odd].nan_to_num(), c[odd].nan_to_num()):
        return float("inf")
    differences = (g - e)[~odd].abs()
    return float(differences.max()) if len(differences) else 0.0


__all__ = ["run_unit"]
