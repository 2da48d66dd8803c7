"""Element-wise aten operators: a table of expressions.

Most are structured operators: PyTorch checks, promotes and allocates, and asks for the `out` overload only. Expressions
are Triton over the inputs' names in the compute dtype (float32 for bfloat16 and float16, rounded once at the store).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch

from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, define, launch
from mtia.kernels.iteration import broadcast_shape
from mtia.kernels.registry import aten


class Rule(Enum):
    """Which dtype an operator computes in."""

    PROMOTE = "the inputs' common type"
    FLOAT = "the inputs' common type, the default float for integers"
    OUT = "the output's type"


def common_dtype(inputs: tuple[Any, ...]) -> torch.dtype:
    """PyTorch's promoted type of tensors and numbers, wrapped numbers and zero-dim tensors ranked as PyTorch does."""
    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    dtypes = {t.dtype for t in tensors}
    if len(dtypes) == 1 and len(tensors) == len(inputs):
        return tensors[0].dtype
    result = None
    for dims_first in (True, False):
        for x in inputs:
            if isinstance(x, torch.Tensor) == dims_first or not dims_first:
                result = _merge(result, x, inputs)
    assert result is not None
    return result


def _merge(result: torch.dtype | None, x: Any, inputs: tuple[Any, ...]) -> torch.dtype:
    first = next(i for i in inputs if isinstance(i, torch.Tensor))
    pair = torch.result_type(first, x)
    return pair if result is None else torch.promote_types(result, pair)


def rule_dtype(rule: Rule, out: torch.Tensor, inputs: tuple[Any, ...]) -> torch.dtype:
    if rule is Rule.OUT:
        return compute_dtype(out.dtype)
    dtype = common_dtype(inputs)
    if rule is Rule.FLOAT and not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    return compute_dtype(dtype)


def prepare_out(out: torch.Tensor, inputs: tuple[Any, ...]) -> None:
    """Give a user's `out` the broadcast shape."""
    shapes = tuple(x.shape for x in inputs if isinstance(x, torch.Tensor))
    if all(s == out.shape for s in shapes):
        return
    shape = _broadcast.get(shapes)
    if shape is None:
        shape = _broadcast[shapes] = broadcast_shape(*shapes)
    if out.shape != shape:
        out.resize_(shape)


_broadcast: dict[tuple[torch.Size, ...], torch.Size] = {}


def _bind(schema: str) -> tuple[list[str], dict[str, Any]]:
    """Argument names of an overload, in order, `out` left out, and their defaults."""
    packet, _, overload = schema.partition(".")
    arguments = getattr(getattr(torch.ops.aten, packet), overload or "default")._schema.arguments
    names = [a.name for a in arguments if not a.is_out]
    return names, {a.name: a.default_value for a in arguments if a.has_default_value()}


def serve(schema: str, operation: Operation, rule: Rule, defaults: dict[str, Any] | None = None) -> None:
    """Serve an `out` overload with an operation whose inputs and scalars are named as the schema's arguments."""
    names, known = _bind(schema)
    known = {**known, **(defaults or {})}
    inputs = tuple(i for i in operation.inputs)
    aten(schema)(_out_function(names, known, inputs, operation, rule))


def _out_function(
    names: list[str], known: dict[str, Any], inputs: tuple[str, ...], operation: Operation, rule: Rule
) -> Callable[..., torch.Tensor]:
    aliases = {"self": "x"}
    places = [aliases.get(n, n) for n in names]

    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        out = kwargs.pop("out", None)
        if out is None:
            out = kwargs.pop("grad_input")
        given = dict(zip(places, args, strict=False))
        given.update(kwargs)
        values = tuple(given[n] if n in given else known[n] for n in inputs)
        scalars = tuple(given[n] if n in given else known[n] for n in operation.scalars)
        prepare_out(out, values)
        launch(operation, out, values, scalars, compute=rule_dtype(rule, out, values))
        return out

    run.__name__ = operation.name
    return run


P, F = Rule.PROMOTE, Rule.FLOAT

_UNARY: tuple[tuple[str, Rule, str, dict[str, str]], ...] = (
    ("abs", P, "tl.abs(x)", {"for_bool": "x"}),
    ("neg", P, "-x", {}),
    ("sign", P, "(x > 0).to(tl.int32) - (x < 0).to(tl.int32)", {"for_bool": "x"}),
    ("sgn", P, "(x > 0).to(tl.int32) - (x < 0).to(tl.int32)", {"for_bool": "x"}),
    ("signbit", P, "libdevice.signbit(x) != 0", {"for_int": "x < 0", "for_bool": "x & ~x"}),
    ("exp", F, "tl.exp(x)", {}),
    ("exp2", F, "tl.exp2(x)", {}),
    ("expm1", F, "libdevice.expm1(x)", {}),
    ("log", F, "tl.log(x)", {}),
    ("log2", F, "tl.log2(x)", {}),
    ("log10", F, "libdevice.log10(x)", {}),
    ("log1p", F, "libdevice.log1p(x)", {}),
    ("sqrt", F, "fn.square_root(x)", {}),
    ("rsqrt", F, "1.0 / fn.square_root(x)", {}),
    ("reciprocal", F, "1.0 / x", {}),
    ("sin", F, "tl.sin(x)", {}),
    ("cos", F, "tl.cos(x)", {}),
    ("tan", F, "libdevice.tan(x)", {}),
    ("asin", F, "libdevice.asin(x)", {}),
    ("acos", F, "libdevice.acos(x)", {}),
    ("atan", F, "libdevice.atan(x)", {}),
    ("sinh", F, "libdevice.sinh(x)", {}),
    ("cosh", F, "libdevice.cosh(x)", {}),
    ("asinh", F, "libdevice.asinh(x)", {}),
    ("acosh", F, "libdevice.acosh(x)", {}),
    ("atanh", F, "libdevice.atanh(x)", {}),
    ("tanh", F, "libdevice.tanh(x)", {}),
    ("sigmoid", F, "1.0 / (1.0 + tl.exp(-x))", {}),
    ("erf", F, "tl.erf(x)", {}),
    ("erfc", F, "libdevice.erfc(x)", {}),
    ("erfinv", F, "libdevice.erfinv(x)", {}),
    ("lgamma", F, "libdevice.lgamma(x)", {}),
    ("floor", P, "tl.floor(x)", {"for_int": "x"}),
    ("ceil", P, "tl.ceil(x)", {"for_int": "x"}),
    ("trunc", P, "libdevice.trunc(x)", {"for_int": "x"}),
    ("round", P, "libdevice.nearbyint(x)", {"for_int": "x"}),
    ("frac", P, "x - libdevice.trunc(x)", {}),
    ("bitwise_not", P, "~x", {"for_bool": "x == 0"}),
    ("logical_not", P, "x == 0", {}),
    ("isposinf", P, "x == float('inf')", {"for_int": "x != x"}),
    ("isneginf", P, "x == float('-inf')", {"for_int": "x != x"}),
    ("silu", F, "x / (1.0 + tl.exp(-x))", {}),
    ("relu", P, "tl.where((x > 0) | (x != x), x, x * 0)", {}),
)

_BINARY: tuple[tuple[str, str, Rule, str, dict[str, Any]], ...] = (
    ("mul", "mul.out", P, "x * other", {"for_bool": "x & other"}),
    ("div", "div.out", F, "x / other", {}),
    ("maximum", "maximum.out", P, "fn.nan_max(x, other)", {}),
    ("minimum", "minimum.out", P, "fn.nan_min(x, other)", {}),
    ("fmax", "fmax.out", P, "tl.where((x > other) | (other != other), x, other)", {}),
    ("fmin", "fmin.out", P, "tl.where((x < other) | (other != other), x, other)", {}),
    ("atan2", "atan2.out", F, "libdevice.atan2(x, other)", {}),
    ("hypot", "hypot.out", F, "libdevice.hypot(x, other)", {}),
    ("copysign", "copysign.out", F, "libdevice.copysign(x, other)", {}),
    ("fmod", "fmod.Tensor_out", P, "libdevice.fmod(x, other)", {"for_int": "x % other", "other": "1"}),
    (
        "remainder",
        "remainder.Tensor_out",
        P,
        "tl.where((libdevice.fmod(x, other) != 0) & ((libdevice.fmod(x, other) < 0) != (other < 0)), "
        "libdevice.fmod(x, other) + other, libdevice.fmod(x, other))",
        {"for_int": "fn.remainder_int(x, other)", "other": "1"},
    ),
    (
        "floor_divide",
        "floor_divide.out",
        P,
        "tl.floor(x / other)",
        {"for_int": "fn.floor_div_int(x, other)", "other": "1"},
    ),
    ("pow", "pow.Tensor_Tensor_out", P, "libdevice.pow(x, exponent)", {"for_int": "fn.integer_pow(x, exponent)"}),
    ("bitwise_and", "bitwise_and.Tensor_out", P, "x & other", {}),
    ("bitwise_or", "bitwise_or.Tensor_out", P, "x | other", {}),
    ("bitwise_xor", "bitwise_xor.Tensor_out", P, "x ^ other", {}),
    ("shift_left", "bitwise_left_shift.Tensor_out", P, "x << other", {}),
    ("shift_right", "bitwise_right_shift.Tensor_out", P, "x >> other", {}),
    ("gcd", "gcd.out", P, "fn.gcd(x, other)", {}),
    ("lcm", "lcm.out", P, "fn.lcm(x, other)", {}),
    ("logical_and", "logical_and.out", P, "(x != 0) & (other != 0)", {}),
    ("logical_or", "logical_or.out", P, "(x != 0) | (other != 0)", {}),
    ("logical_xor", "logical_xor.out", P, "(x != 0) != (other != 0)", {}),
    ("xlogy", "xlogy.OutTensor", F, "tl.where(x == 0, tl.where(other != other, other, x * 0), x * tl.log(other))", {}),
)

_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}

_GELU_TANH = "0.7978845608028654 * (x + 0.044715 * x * x * x)"

#: (name, overload, rule, inputs, scalars, expression): what needs more than two inputs, scalars or other names.
_OTHERS: tuple[tuple[str, str, Rule, tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        "sigmoid_backward",
        "sigmoid_backward.grad_input",
        F,
        ("grad_output", "output"),
        (),
        "grad_output * (1.0 - output) * output",
    ),
    (
        "tanh_backward",
        "tanh_backward.grad_input",
        F,
        ("grad_output", "output"),
        (),
        "grad_output * (1.0 - output * output)",
    ),
    (
        "silu_backward",
        "silu_backward.grad_input",
        F,
        ("grad_output", "x"),
        (),
        "grad_output * (1.0 / (1.0 + tl.exp(-x))) * (1.0 + x * (1.0 - 1.0 / (1.0 + tl.exp(-x))))",
    ),
    ("threshold", "threshold.out", P, ("x",), ("threshold", "value"), "tl.where(x <= threshold, value, x)"),
    (
        "threshold_backward",
        "threshold_backward.grad_input",
        P,
        ("grad_output", "x"),
        ("threshold",),
        "tl.where(x <= threshold, grad_output * 0, grad_output)",
    ),
    ("leaky_relu", "leaky_relu.out", P, ("x",), ("negative_slope",), "tl.where(x > 0, x, x * negative_slope)"),
    (
        "leaky_relu_backward",
        "leaky_relu_backward.grad_input",
        P,
        ("grad_output", "x"),
        ("negative_slope",),
        "tl.where(x > 0, grad_output, grad_output * negative_slope)",
    ),
    (
        "elu",
        "elu.out",
        P,
        ("x",),
        ("alpha", "scale", "input_scale"),
        "tl.where(x > 0, x * scale, alpha * scale * libdevice.expm1(x * input_scale))",
    ),
    (
        "softplus",
        "softplus.out",
        P,
        ("x",),
        ("beta", "threshold"),
        "tl.where(x * beta > threshold, x, libdevice.log1p(tl.exp(x * beta)) / beta)",
    ),
    (
        "softplus_backward",
        "softplus_backward.grad_input",
        P,
        ("grad_output", "x"),
        ("beta", "threshold"),
        "tl.where(x * beta > threshold, grad_output, grad_output / (1.0 + tl.exp(-x * beta)))",
    ),
    (
        "hardtanh",
        "hardtanh.out",
        P,
        ("x",),
        ("min_val", "max_val"),
        "fn.nan_min(fn.nan_max(x, min_val + x * 0), max_val + x * 0)",
    ),
    ("hardsigmoid", "hardsigmoid.out", P, ("x",), (), "fn.nan_min(fn.nan_max(x + 3.0, x * 0), x * 0 + 6.0) / 6.0"),
    ("hardswish", "hardswish.out", P, ("x",), (), "x * fn.nan_min(fn.nan_max(x + 3.0, x * 0), x * 0 + 6.0) / 6.0"),
    ("mish", "mish.out", P, ("x",), (), "x * libdevice.tanh(libdevice.log1p(tl.exp(x)))"),
    ("addcmul", "addcmul.out", P, ("x", "tensor1", "tensor2"), ("value",), "x + value * tensor1 * tensor2"),
    ("addcdiv", "addcdiv.out", P, ("x", "tensor1", "tensor2"), ("value",), "x + value * (tensor1 / tensor2)"),
    (
        "lerp_tensor",
        "lerp.Tensor_out",
        P,
        ("x", "end", "weight"),
        (),
        "tl.where(tl.abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1.0 - weight))",
    ),
    (
        "lerp_scalar",
        "lerp.Scalar_out",
        P,
        ("x", "end"),
        ("weight",),
        "tl.where(tl.abs(weight) < 0.5, x + weight * (end - x), end - (end - x) * (1.0 - weight))",
    ),
    ("clamp_tensor", "clamp.Tensor_out", P, ("x", "min", "max"), (), "fn.nan_min(fn.nan_max(x, min), max)"),
    ("clamp_min", "clamp_min.out", P, ("x", "min"), (), "fn.nan_max(x, min + x * 0)"),
    ("clamp_min_tensor", "clamp_min.Tensor_out", P, ("x", "min"), (), "fn.nan_max(x, min)"),
    ("clamp_max", "clamp_max.out", P, ("x", "max"), (), "fn.nan_min(x, max + x * 0)"),
    ("clamp_max_tensor", "clamp_max.Tensor_out", P, ("x", "max"), (), "fn.nan_min(x, max)"),
)


def _serve_unary() -> None:
    for name, rule, expression, special in _UNARY:
        serve(f"{name}.out", define(Operation(name, ("x",), expression, **special)), rule)


def _serve_binary() -> None:
    for name, schema, rule, expression, special in _BINARY:
        right = "exponent" if name == "pow" else "other"
        masked = special.pop("other", "")
        serve(schema, define(Operation(name, ("x", right), expression, other=masked, **special)), rule)
    pow_ = Operation(
        "pow_scalar", ("x", "exponent"), "libdevice.pow(x, exponent)", for_int="fn.integer_pow(x, exponent)"
    )
    serve("pow.Scalar_out", define(pow_), Rule.PROMOTE)


def _serve_comparisons() -> None:
    for name, sign in _COMPARISONS.items():
        operation = define(Operation(name, ("x", "other"), f"x {sign} other"))
        serve(f"{name}.Tensor_out", operation, Rule.PROMOTE)
        serve(f"{name}.Scalar_out", operation, Rule.PROMOTE)


def _serve_others() -> None:
    for name, schema, rule, inputs, scalars, expression in _OTHERS:
        serve(schema, define(Operation(name, inputs, expression, scalars)), rule)


_serve_unary()
_serve_binary()
_serve_comparisons()
_serve_others()

ADD = define(Operation("add", ("x", "other"), "x + other", for_bool="x | other"))
SUB = define(Operation("sub", ("x", "other"), "x - other"))
ADD_SCALED = define(
    Operation("add_scaled", ("x", "other"), "x + alpha * other", ("alpha",), for_bool="x | (alpha & other)")
)


def _add(out: torch.Tensor, x: Any, other: Any, alpha: Any) -> torch.Tensor:
    prepare_out(out, (x, other))
    compute = rule_dtype(Rule.PROMOTE, out, (x, other))
    if alpha == 1:
        launch(ADD, out, (x, other), compute=compute)
    elif alpha == -1 and compute != torch.bool:
        launch(SUB, out, (x, other), compute=compute)
    else:
        launch(ADD_SCALED, out, (x, other), (alpha,), compute=compute)
    return out


@aten("add.out")
def add_out(x: Any, other: Any, *, alpha: Any = 1, out: torch.Tensor) -> torch.Tensor:
    return _add(out, x, other, alpha)


@aten("sub.out")
def sub_out(x: Any, other: Any, *, alpha: Any = 1, out: torch.Tensor) -> torch.Tensor:
    return _add(out, x, other, -alpha)


DIV_FLOOR = define(
    Operation("div_floor", ("x", "other"), "tl.floor(x / other)", for_int="fn.floor_div_int(x, other)", other="1")
)
DIV_TRUNC = define(
    Operation("div_trunc", ("x", "other"), "libdevice.trunc(x / other)", for_int="x // other", other="1")
)


@aten("div.out_mode")
def div_out_mode(x: Any, other: Any, *, rounding_mode: str | None, out: torch.Tensor) -> torch.Tensor:
    operation = {"floor": DIV_FLOOR, "trunc": DIV_TRUNC}.get(rounding_mode or "")
    if operation is None:
        return torch.div(x, other, out=out)
    prepare_out(out, (x, other))
    launch(operation, out, (x, other), compute=rule_dtype(Rule.PROMOTE, out, (x, other)))
    return out


#: Exponents that are cheaper and exact as products and roots.
_POWERS = {
    2: define(Operation("square", ("x",), "x * x")),
    3: define(Operation("cube", ("x",), "x * x * x")),
    0.5: define(Operation("pow_half", ("x",), "fn.square_root(x)")),
    -0.5: define(Operation("pow_minus_half", ("x",), "1.0 / fn.square_root(x)")),
    -1: define(Operation("pow_minus_one", ("x",), "1.0 / x")),
    -2: define(Operation("pow_minus_two", ("x",), "1.0 / (x * x)")),
}
POW_NUMBER = define(
    Operation("pow_number", ("x", "exponent"), "libdevice.pow(x, exponent)", for_int="fn.integer_pow(x, exponent)")
)


@aten("pow.Tensor_Scalar_out")
def pow_tensor_scalar_out(x: torch.Tensor, exponent: Any, *, out: torch.Tensor) -> torch.Tensor:
    prepare_out(out, (x,))
    compute = rule_dtype(Rule.PROMOTE, out, (x, exponent))
    special = _POWERS.get(exponent) if compute.is_floating_point or exponent in (2, 3) else None
    if special is not None:
        launch(special, out, (x,), compute=compute)
    else:
        launch(POW_NUMBER, out, (x, exponent), compute=compute)
    return out


GELU = define(Operation("gelu", ("x",), "0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))"))
GELU_TANH = define(Operation("gelu_tanh", ("x",), f"0.5 * x * (1.0 + libdevice.tanh({_GELU_TANH}))"))
GELU_BACKWARD = define(
    Operation(
        "gelu_backward",
        ("grad", "x"),
        "grad * (0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x))",
    )
)
GELU_TANH_BACKWARD = define(
    Operation(
        "gelu_tanh_backward",
        ("grad", "x"),
        f"grad * (0.5 * (1.0 + libdevice.tanh({_GELU_TANH})) + 0.5 * x * (1.0 - libdevice.tanh({_GELU_TANH}) * "
        f"libdevice.tanh({_GELU_TANH})) * 0.7978845608028654 * (1.0 + 0.134145 * x * x))",
    )
)


@aten("gelu.out")
def gelu_out(x: torch.Tensor, *, approximate: str = "none", out: torch.Tensor) -> torch.Tensor:
    prepare_out(out, (x,))
    launch(GELU_TANH if approximate == "tanh" else GELU, out, (x,), compute=compute_dtype(x.dtype))
    return out


@aten("gelu_backward.grad_input")
def gelu_backward_out(
    grad: torch.Tensor, x: torch.Tensor, *, approximate: str = "none", grad_input: torch.Tensor
) -> torch.Tensor:
    prepare_out(grad_input, (grad, x))
    operation = GELU_TANH_BACKWARD if approximate == "tanh" else GELU_BACKWARD
    launch(operation, grad_input, (grad, x), compute=compute_dtype(x.dtype))
    return grad_input


RELU_ = define(Operation("relu_value", ("x",), "tl.where((x > 0) | (x != x), x, x * 0)"))


@aten("relu")
def relu(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x)
    launch(RELU_, out, (x,), compute=compute_dtype(x.dtype))
    return out


@aten("relu_")
def relu_(x: torch.Tensor) -> torch.Tensor:
    launch(RELU_, x, (x,), compute=compute_dtype(x.dtype))
    return x


CLAMP = define(Operation("clamp", ("x",), "fn.nan_min(fn.nan_max(x, low + x * 0), high + x * 0)", ("low", "high")))
CLAMP_LOW = define(Operation("clamp_low", ("x",), "fn.nan_max(x, low + x * 0)", ("low",)))
CLAMP_HIGH = define(Operation("clamp_high", ("x",), "fn.nan_min(x, high + x * 0)", ("high",)))


@aten("clamp.out")
def clamp_out(x: torch.Tensor, low: Any = None, high: Any = None, *, out: torch.Tensor, **named: Any) -> torch.Tensor:
    low, high = named.get("min", low), named.get("max", high)
    prepare_out(out, (x,))
    bounds = tuple(b for b in (low, high) if b is not None)
    operation = CLAMP if len(bounds) == 2 else CLAMP_LOW if low is not None else CLAMP_HIGH
    launch(operation, out, (x,), bounds, compute=rule_dtype(Rule.PROMOTE, out, (x, *bounds)))
    return out


WHERE = define(
    Operation(
        "where",
        ("condition", "x", "other"),
        body=lambda k: [
            k.store("out", f"tl.where({k.load('condition', cast='tl.int1')}, {_value(k, 'x')}, {_value(k, 'other')})")
        ],
    )
)


def _value(k: Any, name: str) -> str:
    """An input that may be a number (already a scalar in the kernel)."""
    return k.load(name) if name in k.layouts else name


@aten("where.self")
def where_self(condition: torch.Tensor, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    shape = broadcast_shape(condition.shape, x.shape, other.shape)
    device = condition.device if condition.dim() or condition.device.type != "cpu" else x.device
    out = torch.empty(shape, dtype=torch.result_type(x, other), device=device)
    return where_out(condition, x, other, out=out)


@aten("where.self_out")
def where_out(condition: torch.Tensor, x: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    prepare_out(out, (condition, x, other))
    if condition.device != out.device:
        condition = condition.to(out.device)
    launch(WHERE, out, (condition, x, other), compute=compute_dtype(out.dtype))
    return out


MASKED_FILL = define(
    Operation(
        "masked_fill",
        ("x", "value", "mask_"),
        body=lambda k: [
            k.store("out", f"tl.where({k.load('mask_', cast='tl.int1')}, {_value(k, 'value')}, {k.load('x')})")
        ],
    )
)


@aten("masked_fill_.Scalar", "masked_fill_.Tensor")
def masked_fill_(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    launch(MASKED_FILL, x, (x, value, mask), compute=compute_dtype(x.dtype))
    return x


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(x: torch.Tensor, mask: torch.Tensor, value: Any) -> torch.Tensor:
    shape = broadcast_shape(x.shape, mask.shape)
    out = torch.empty_like(x) if shape == x.shape else torch.empty(shape, dtype=x.dtype, device=x.device)
    launch(MASKED_FILL, out, (x, value, mask), compute=compute_dtype(x.dtype))
    return out


ISNAN = define(Operation("isnan", ("x",), "x != x"))
NAN_TO_NUM = define(
    Operation(
        "nan_to_num",
        ("x",),
        "tl.where(x != x, nan, tl.where(x == float('inf'), posinf, tl.where(x == float('-inf'), neginf, x)))",
        ("nan", "posinf", "neginf"),
        for_int="x",
    )
)


@aten("isnan")
def isnan(x: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(x, dtype=torch.bool)
    launch(ISNAN, out, (x,), compute=compute_dtype(x.dtype))
    return out


@aten("nan_to_num.out")
def nan_to_num_out(
    x: torch.Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    out: torch.Tensor,
) -> torch.Tensor:
    prepare_out(out, (x,))
    limits = torch.finfo(x.dtype) if x.dtype.is_floating_point else torch.finfo(torch.float32)
    values = (
        0.0 if nan is None else nan,
        limits.max if posinf is None else posinf,
        limits.min if neginf is None else neginf,
    )
    launch(NAN_TO_NUM, out, (x,), values if x.dtype.is_floating_point else (0, 0, 0), compute=compute_dtype(x.dtype))
    return out
