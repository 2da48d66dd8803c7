"""Element-wise operators on the device against the host: dtypes, promotion, broadcasting, strides, in place and out."""

from __future__ import annotations

import operator

import pytest
import torch
import torch.nn.functional as F

from .on_device import check, to_device

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
DTYPES = [*FLOATS, torch.int64, torch.int32, torch.bool]

UNARY = [
    "abs",
    "neg",
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "sin",
    "cos",
    "tan",
    "tanh",
    "sigmoid",
    "erf",
    "erfc",
    "floor",
    "ceil",
    "trunc",
    "round",
    "frac",
    "sign",
    "isnan",
    "logical_not",
    "atan",
    "sinh",
    "cosh",
    "asinh",
    "square",
    "isfinite",
    "isinf",
]
ACTIVATIONS = [
    F.relu,
    F.silu,
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.leaky_relu,
    F.softplus,
    F.elu,
    F.hardswish,
    F.hardsigmoid,
    F.hardtanh,
    F.mish,
    F.relu6,
]
BINARY = [
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "fmod",
    "remainder",
    "floor_divide",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "atan2",
]


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return x.to(dtype) if dtype != torch.bool else x > 0


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    function = getattr(torch, name)
    for dtype in FLOATS:
        x = values((3, 37), dtype)
        check(function, x.abs() + 0.1 if name in ("log", "log2", "log10", "log1p", "sqrt", "rsqrt") else x)


@pytest.mark.parametrize("i", range(len(ACTIVATIONS)))
def test_activation_and_gradient(i: int) -> None:
    def run(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        y = ACTIVATIONS[i](x)
        y.backward(torch.full_like(y, 0.5))
        return y.detach(), x.grad

    if i < 4:
        check(run, values((5, 33), torch.float32))
    for dtype in FLOATS:
        check(ACTIVATIONS[i], values((5, 33), dtype))


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    function = getattr(torch, name)
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        divisor = values((7,), dtype, 1).abs() + 1
        check(function, values((5, 7), dtype), divisor)
    if name not in ("atan2", "maximum", "minimum", "fmod", "remainder", "floor_divide", "sub", "div"):
        check(function, values((5, 7), torch.bool), values((5, 7), torch.bool, 1))


@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_promotion(left: torch.dtype, right: torch.dtype) -> None:
    check(lambda a, b: (a * b, a + b, a > b), values((4, 6), left), values((4, 6), right, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers(dtype: torch.dtype) -> None:
    x = values((4, 6), dtype)
    check(lambda a: (a + 1, a * 2.5, 1 - a.to(torch.float32), a / 3, a == 1, a > 0.5), x)
    if dtype != torch.bool:
        check(lambda a: (a**2, a.clamp(-1, 2), a.clamp(min=0), a.clamp(max=1), a.add(a, alpha=2)), x)


def test_integer_arithmetic() -> None:
    a, b = torch.arange(-20, 20), torch.tensor([3, -3, 7, -1] * 10)
    check(
        lambda x, y: (x // y, x % y, torch.div(x, y, rounding_mode="trunc"), x & y, x | y, x ^ y, ~x, x << 2, x >> 1),
        a,
        b,
    )
    check(lambda x: (x**3, x**2, x.float() ** 1.5), a)


@pytest.mark.parametrize("exponent", [2, 3, 0.5, -0.5, -1, 1.7])
def test_powers(exponent: float) -> None:
    check(lambda x: x**exponent, values((40,), torch.float32).abs() + 0.5)


def test_strides_and_broadcasts() -> None:
    x = values((4, 5, 6, 7), torch.float32)
    check(lambda a: a.permute(2, 0, 3, 1) + a.permute(2, 0, 3, 1)[:1], x)
    check(lambda a: a[:, ::2, 1:, ::3] * a[:1, ::2, 1:, ::3], x)
    check(lambda a, b: a.transpose(0, 3) - b, x, values((4,), torch.float32))
    check(lambda a: a.expand(3, 4, 5) + 1, values((4, 1), torch.float32))
    check(lambda a: a.t() + a, values((64, 64), torch.float32))
    check(lambda a: a + 1, values((300_000,), torch.float32))


def test_in_place_and_out() -> None:
    def run(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = x.clone()
        a += y
        a.mul_(2).clamp_(-1, 1)
        b = torch.add(x, y, out=torch.empty(0, device=x.device))
        c = x.clone()
        c[:, 1:3].sub_(1)
        return a, b, c, x.clone().relu_()

    check(run, values((4, 5), torch.float32), values((4, 5), torch.float32, 1))


def test_where_masks_and_ternaries() -> None:
    x, y = values((4, 5), torch.float32), values((5,), torch.float32, 1)
    check(lambda a, b: (torch.where(a > 0, a, b), torch.where(a > 0, a, 0.0), torch.where(a > 0, 1.0, 2.0)), x, y)
    check(lambda a: (a.masked_fill(a > 0, float("-inf")), a.masked_fill(a > 0, 2)), x)
    check(
        lambda a, b: (
            torch.addcmul(a, b, b, value=0.5),
            torch.addcdiv(a, b, b + 9, value=2),
            a.lerp(b, 0.3),
            a.lerp(b, a.sigmoid()),
        ),
        x,
        y,
    )
    check(lambda a: a.nan_to_num(1.0), torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]))


def test_zero_dims_and_empty() -> None:
    check(lambda a, b: (a + b, a * 2, b[:0] + 1), torch.tensor(2.0), values((3,), torch.float32))


def test_float64() -> None:
    check(lambda x: (x * 0.1 + 1e-9, x.exp(), x.sum()), values((50,), torch.float64))


def test_float64_roots_are_not_rounded_to_float32() -> None:
    x = values((9, 50), torch.float64).abs() + 0.1
    exact = (1e-15, 1e-15)
    check(lambda x: (x.sqrt(), x.rsqrt(), x**0.5), x, tolerance=exact)
    check(lambda x: (x.norm(), x.std(1), torch.nn.functional.rms_norm(x, (50,))), x, tolerance=(1e-12, 1e-12))


def test_foreach() -> None:
    def run(a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
        out = torch._foreach_add([a, b], [b, a], alpha=2)
        torch._foreach_mul_(out, 0.5)
        torch._foreach_addcdiv_(out, [a, b], [b + 10, a + 10], -0.1)
        return out + torch._foreach_sqrt([a.abs(), b.abs()])

    check(run, values((7,), torch.float32), values((7,), torch.float32, 1))


@pytest.mark.parametrize("op", [operator.add, operator.mul])
def test_host_number_tensor_is_a_scalar(op: object) -> None:
    x = values((4,), torch.float32)
    (d,) = to_device((x,))
    assert torch.equal(op(d, torch.tensor(2.0)).cpu(), op(x, 2.0))
