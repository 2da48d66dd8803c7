"""How a device's result is judged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtia.conformance import check
from mtia.host_runtime import fallback


def test_an_error_that_rounding_makes_usual_is_not_wrong() -> None:
    """The CPU happens to be exact for these inputs; for their neighbours it is off by 1e-4."""
    x = torch.linspace(1, 2, 5)
    sample = SimpleNamespace(input=x, args=(), kwargs={})

    def compute(arguments: Any) -> torch.Tensor:
        given = arguments[0]
        is_exact = given.dtype == torch.float64 or torch.equal(given, x)
        return given if is_exact else given + 1e-4

    check._close((x + 1.5e-4).to("mtia"), x, compute, sample)
    with pytest.raises(check.Wrong, match="not close"):
        check._close((x + 1e-3).to("mtia"), x, compute, sample)
    with pytest.raises(check.Wrong, match="not close"):
        check._close((x / 0).to("mtia"), x, compute, sample)


@pytest.mark.parametrize("p, is_random", [(0.5, True), (0.0, False)])
@pytest.mark.parametrize("seeded", [False, True])
def test_what_is_random_is_what_another_seed_changes(p: float, is_random: bool, seeded: bool) -> None:
    """Dropout draws whatever its rate; and OpInfo's wrappers set a seed of their own."""

    def info(x: torch.Tensor) -> torch.Tensor:
        if seeded:
            torch.manual_seed(42)
        return torch.where(torch.rand(8) < p, x, -x)

    assert check._is_random(info, SimpleNamespace(input=torch.ones(8), args=(), kwargs={})) is is_random


def test_an_exact_reference_of_integers_is_in_float64() -> None:
    (found,) = check._exactly(lambda arguments: arguments[0].sqrt(), (torch.arange(5), (), {}))
    assert found.dtype == torch.float64 and torch.get_default_dtype() == torch.float32


def _sample(x: Any, *args: Any, **kwargs: Any) -> SimpleNamespace:
    return SimpleNamespace(input=x, args=args, kwargs=kwargs)


class Operator:
    """What check asks of an OpInfo entry."""

    def __init__(self, name: str, function: Any) -> None:
        self.name, self.function = name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def test_reading_the_device_is_a_host_route_unless_it_is_one_number() -> None:
    """The CPU's answer by way of the host is right, and counted."""
    fallback.reset()
    x = torch.arange(6.0)
    detour = Operator("detour", lambda x: (x.cpu() + 1).to(x.device))
    check._compare_forward(detour, _sample(x), "float32")
    assert fallback.counts() == {"download": 1}
    fallback.reset()
    check._compare_forward(Operator("number", lambda x: x + x[0].item()), _sample(x), "float32")
    assert fallback.counts() == {}


def test_places_of_equals_may_differ_where_no_order_is_asked_for() -> None:
    x = torch.tensor([2.0, 1.0, 2.0])
    got, expected = torch.tensor([1, 2, 0]).to("mtia"), torch.tensor([1, 0, 2])
    assert torch.equal(check._places_settled("argsort", {}, x, got, expected).cpu(), expected)
    assert torch.equal(check._places_settled("argsort", {"stable": True}, x, got, expected), got)
    wrong = torch.tensor([0, 1, 2]).to("mtia")
    assert torch.equal(check._places_settled("argsort", {}, x, wrong, expected), wrong)


def test_gradients_may_go_to_another_of_equals_and_nowhere_else() -> None:
    x = torch.tensor([[2.0, 1.0, 2.0], [3.0, 1.0, 0.0]])
    cpus = torch.tensor([[0.5, 0.0, 0.0], [1.0, 0.0, 0.0]])
    assert check._same_choices(x, torch.tensor([[0.0, 0.0, 0.5], [1.0, 0.0, 0.0]]), cpus)
    assert not check._same_choices(x, torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 0.0]]), cpus)
    assert not check._same_choices(x, torch.tensor([[0.0, 0.0, 0.6], [1.0, 0.0, 0.0]]), cpus)


def test_where_the_cpu_lost_its_result_float64_is_the_measure() -> None:
    x = torch.ones(3, dtype=torch.bfloat16)
    lost = x * float("nan")

    def compute(arguments: Any) -> torch.Tensor:
        return 2 * arguments[0] if arguments[0].dtype == torch.float64 else lost

    check._close((2 * x).to("mtia"), lost, compute, _sample(x))
    with pytest.raises(check.Wrong):
        check._close((3 * x).to("mtia"), lost, compute, _sample(x))


def test_indices_that_the_operator_wants_on_the_host_stay_there() -> None:
    sample = _sample(torch.arange(6.0), torch.tensor([2, 4]))
    check._compare_forward(Operator("tensor_split", torch.tensor_split), sample, "float32")


@pytest.mark.filterwarnings("ignore:ComplexHalf support")  # PyTorch's own
def test_a_result_in_complex_halves_is_compared() -> None:
    halves = Operator("chalf", lambda x: torch.view_as_complex(torch.stack((x, x), -1)))
    tally = check.Tally()
    check._judge(tally, lambda: check._compare_forward(halves, _sample(torch.ones(3).half()), "float16"))
    assert (tally.samples, tally.wrong, tally.left_out) == (1, 0, {}), tally.error


def test_what_is_left_out_is_counted_by_reason() -> None:
    x = torch.ones(2, requires_grad=True)
    tally = check.Tally()
    forward = {"to_sparse": lambda x: x.to_sparse(), "matmul": lambda x: x @ torch.ones(3), "neg": torch.neg}
    for name, function in forward.items():
        check._judge(tally, lambda n=name, f=function: check._compare_forward(Operator(n, f), _sample(x), "float32"))
    rows = _sample(torch.eye(2).to_sparse())
    check._judge(tally, lambda: check._compare_forward(Operator("mm", forward["neg"]), rows, "float32"))
    assert (tally.samples, tally.wrong) == (1, 0)
    assert tally.left_out == {"sparse tensors": 2, "the CPU refuses it": 1}
    tally = check.Tally()
    backward = {"empty_like": torch.empty_like, "sign": lambda x: x.detach(), "matmul": forward["matmul"],
                "rand": lambda x: x * torch.rand(2), "neg": torch.neg}  # fmt: skip
    for name, function in backward.items():
        check._judge(tally, lambda n=name, f=function: check._compare_backward(Operator(n, f), _sample(x), "float32"))
    assert (tally.samples, tally.wrong) == (1, 0)
    assert tally.left_out == {"uninitialised memory": 1, "no gradient on the CPU": 1, "the CPU refuses it": 1,
                              "random, so its gradient is": 1}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_weights_of_a_gradient_are_the_same_in_every_dtype(dtype: torch.dtype):
    """The float64 reference takes the weights that the narrow run took."""
    wide = check._weights(torch.empty(1000, dtype=torch.float64))
    assert torch.equal(check._weights(torch.empty(1000, dtype=dtype)).double(), wide)
