"""Random numbers: Philox counters in the kernel, seed and offset from the device's generator.

Element i of a draw uses counter (i, offset); every call moves the generator's offset, so draws never overlap.
"""

from __future__ import annotations

from typing import Any

import torch

from mtia import _C
from mtia.kernels.copy import contiguous, copy_strided
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Emitter, Operation, define, launch
from mtia.kernels.registry import aten

OFFSET_STEP = 4  # numbers a counter gives; PyTorch's generators count in fours

_DRAW = [
    "zero = (lin * 0).to(tl.uint32)",
    "at = offset.to(tl.uint32) + zero",
    "bits, more, third, fourth = tl.philox(seed.to(tl.int64), lin.to(tl.uint32), at, zero, zero)",
    "u = tl.uint_to_uniform_float(bits)",
]


def _random(
    name: str,
    lines: list[str],
    value: str,
    scalars: tuple[str, ...] = (),
    inputs: tuple[str, ...] = (),
    casts: str = "tl.float32",
) -> Operation:
    """An operation over u (uniform in [0, 1)), bits, more; scalars arrive as int64 bit patterns where `casts` says."""

    def body(k: Emitter) -> list[str]:
        numbers = [f"{s} = {s}.to(tl.int32).to(tl.float32, bitcast=True)" for s in scalars if casts == "tl.float32"]
        loads = [f"{i} = {k.load(i, cast='tl.float32')}" for i in inputs if i in k.layouts]
        return [*numbers, *_DRAW, *loads, *lines, k.store("out", value)]

    return define(Operation(name, inputs, scalars=("seed", "offset", *scalars), body=body))


def float_bits(value: float) -> int:
    """float32 bit pattern, for a scalar that rides with integers."""
    import struct

    return struct.unpack("<i", struct.pack("<f", value))[0]


UNIFORM = _random("uniform", [], "low + u * (high - low)", ("low", "high"))
NORMAL = _random(
    "normal",
    [
        "u = tl.maximum(u, 1.0e-7)",
        "v = tl.uint_to_uniform_float(more)",
        "n = tl.sqrt_rn(-2.0 * tl.log(u)) * tl.cos(6.283185307179586 * v)",
    ],
    "mean + n * deviation",
    ("mean", "deviation"),
)
EXPONENTIAL = _random("exponential", [], "-tl.log(1.0 - u) / rate", ("rate",))
BERNOULLI = _random("bernoulli", [], "(u < p).to(tl.int32)", ("p",))
BERNOULLI_TENSOR = _random("bernoulli_tensor", [], "(u < p).to(tl.int32)", (), ("p",))
INTEGERS = _random(
    "random_integers",
    ["wide = (bits.to(tl.uint64) << 32) | more.to(tl.uint64)", "whole = (wide >> 1).to(tl.int64)"],
    "low + whole % span",
    ("low", "span"),
    casts="tl.int64",
)


def _seed(generator: Any, device: torch.device) -> tuple[int, int]:
    where = generator if generator is not None else (-1 if device.index is None else device.index)
    seed, offset = _C.philox_seed_offset(where, OFFSET_STEP)
    seed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return seed, offset // OFFSET_STEP


def _draw(
    operation: Operation, out: torch.Tensor, generator: Any, scalars: tuple[int, ...] = (), inputs: tuple[Any, ...] = ()
) -> torch.Tensor:
    if out.numel() == 0:
        return out
    dense = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device=out.device)
    flat = dense.view(-1)
    seed, offset = _seed(generator, out.device)
    spread = tuple(contiguous(t.expand(out.shape)).view(-1) for t in inputs)
    launch(operation, flat, spread, (seed, offset, *scalars), compute=torch.int64)
    return out if dense is out else copy_strided(out, dense)


@aten("uniform_")
def uniform_(
    x: torch.Tensor, low: float = 0.0, high: float = 1.0, *, generator: Any = None, **named: float
) -> torch.Tensor:
    low, high = named.get("from", low), named.get("to", high)
    return _draw(UNIFORM, x, generator, (float_bits(low), float_bits(high)))


@aten("normal_")
def normal_(x: torch.Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> torch.Tensor:
    return _draw(NORMAL, x, generator, (float_bits(mean), float_bits(std)))


@aten("exponential_")
def exponential_(x: torch.Tensor, lambd: float = 1.0, *, generator: Any = None) -> torch.Tensor:
    return _draw(EXPONENTIAL, x, generator, (float_bits(lambd),))


@aten("bernoulli_.float")
def bernoulli_(x: torch.Tensor, p: float = 0.5, *, generator: Any = None) -> torch.Tensor:
    return _draw(BERNOULLI, x, generator, (float_bits(p),))


@aten("bernoulli_.Tensor")
def bernoulli_tensor_(x: torch.Tensor, p: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
    return _draw(BERNOULLI_TENSOR, x, generator, (), (p.to(x.device),))


@aten("bernoulli")
def bernoulli(x: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
    return _draw(BERNOULLI_TENSOR, torch.empty_like(x), generator, (), (x,))


@aten("random_.from")
def random_from(x: torch.Tensor, low: int, high: int | None, *, generator: Any = None) -> torch.Tensor:
    top = high if high is not None else _largest(x.dtype) + 1
    return _draw(INTEGERS, x, generator, (low, min(top - low, 2**63 - 1)))


@aten("random_.to")
def random_to(x: torch.Tensor, high: int, *, generator: Any = None) -> torch.Tensor:
    return random_from(x, 0, high, generator=generator)


@aten("random_")
def random_(x: torch.Tensor, *, generator: Any = None) -> torch.Tensor:
    return random_from(x, 0, _largest(x.dtype) + 1, generator=generator)


def _largest(dtype: torch.dtype) -> int:
    """Largest integer that PyTorch draws for a dtype: all of an integer type, the exact ones of a float."""
    exact = {torch.float32: 2**24, torch.float64: 2**53, torch.float16: 2**11, torch.bfloat16: 2**8, torch.bool: 1}
    return exact[dtype] if dtype in exact else torch.iinfo(dtype).max


@aten("randperm.generator_out")
def randperm_out(n: int, *, generator: Any = None, out: torch.Tensor) -> torch.Tensor:
    keys = torch.empty((n,), dtype=torch.int32, device=out.device)
    order = random_from(keys, -(2**31), 2**31 - 1, generator=generator).argsort()
    return copy_strided(out.resize_(n), order)


DROPOUT = define(
    Operation(
        "dropout",
        ("x", "keep"),
        scalars=("factor",),
        body=lambda k: [k.store("out", f"{k.load('x')} * {k.load('keep')} * factor")],
    )
)


@aten("native_dropout")
def native_dropout(x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.empty(x.shape, dtype=torch.bool, device=x.device)
    if train is False or p == 0:
        return x.clone(), mask.fill_(1)
    _draw(BERNOULLI, mask, None, (float_bits(1.0 - p),))
    out = torch.empty_like(x)
    launch(DROPOUT, out, (x, mask), (1.0 / (1.0 - p) if p < 1 else 0.0,), compute=compute_dtype(x.dtype))
    return out, mask


@aten("native_dropout_backward")
def native_dropout_backward(g: torch.Tensor, mask: torch.Tensor, scale: float) -> torch.Tensor:
    out = torch.empty_like(g, dtype=g.dtype if g.dtype.is_floating_point else torch.get_default_dtype())
    launch(DROPOUT, out, (g, mask), (scale,), compute=compute_dtype(out.dtype))
    return out


@aten("multinomial")
def multinomial(p: torch.Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> torch.Tensor:
    """Without replacement (or one sample): the largest p / exponential noise; with it: inverse cumulative sums."""
    wide = p.to(compute_dtype(p.dtype))
    if num_samples == 1 or not replacement:
        noise = exponential_(torch.empty_like(wide), generator=generator)
        ratio = wide / noise
        return ratio.argmax(-1, keepdim=True) if num_samples == 1 else ratio.topk(num_samples, -1).indices
    ends = wide.cumsum(-1)
    draws = uniform_(torch.empty((*p.shape[:-1], num_samples), dtype=wide.dtype, device=p.device), generator=generator)
    draws = draws * ends[..., -1:]
    return (ends.unsqueeze(-2) <= draws.unsqueeze(-1)).sum(-1).clamp(max=p.shape[-1] - 1)


@aten("multinomial.out")
def multinomial_out(
    p: torch.Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None, out: torch.Tensor
) -> torch.Tensor:
    found = multinomial(p, num_samples, replacement, generator=generator)
    return copy_strided(out.resize_(found.shape), found)


@aten("rrelu_with_noise")
def rrelu_with_noise(
    x: torch.Tensor, noise: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    """Where x <= 0, times a slope: uniform in [lower, upper] in training (kept in `noise`), else the middle."""
    if not training:
        return torch.where(x <= 0, x * ((lower + upper) / 2), x)
    slope = torch.empty_like(x).uniform_(lower, upper, generator=generator)
    noise.copy_(torch.where(x <= 0, slope, torch.ones_like(x)))
    return torch.where(x <= 0, x * slope, x)


@aten("rrelu_with_noise.out")
def rrelu_with_noise_out(
    x: torch.Tensor, noise: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: torch.Generator | None = None, *, out: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    return copy_strided(out.resize_(x.shape), rrelu_with_noise(x, noise, lower, upper, training, generator))


@aten("rrelu_with_noise_")
def rrelu_with_noise_(
    x: torch.Tensor, noise: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    return copy_strided(x, rrelu_with_noise(x, noise, lower, upper, training, generator))
