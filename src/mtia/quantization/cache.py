"""Keys and values of attention in 8 bits: written as they come, read by attention in half the bytes of bfloat16.

fp8   E4M3 under a float32 scale for each KV head, given or found in the first tokens written
mx8   E4M3 under an E8M0 scale for each 16 elements of a token (rule FIT: nothing saturates)
"""

# B batch, H KV heads, T new tokens, S tokens of room, D head dim

from __future__ import annotations

import torch

from mtia.errors import BadProblem
from mtia.kernels import cached_attention as kernels
from mtia.numerics import blocks
from mtia.numerics.blocks import MX8, ScaleRule
from mtia.numerics.formats import FP8_E4M3, decode, encode

FORMATS = ("fp8", "mx8")
HEADROOM = 2.0  # of later tokens over the first, before E4M3 saturates
_SMALLEST = 1e-12
_BLOCKS = MX8.with_(rule=ScaleRule.FIT)


@torch.library.custom_op("mtia::cache_store", mutates_args=("cache", "scale"))
def _store(x: torch.Tensor, cache: torch.Tensor, scale: torch.Tensor, seen: torch.Tensor) -> None:
    if x.device.type == "mtia":
        kernels.store(x, cache.view(torch.float8_e4m3fn), scale, seen)
        return
    end = int(seen)
    where = slice(end - x.shape[2], end)
    if scale.dtype != torch.uint8:
        scaled = x.float() * (1.0 / scale.view(-1, 1, 1))
        cache[:, :, where] = torch.from_numpy(encode(scaled.numpy(), FP8_E4M3, saturate=True))
        return
    held = blocks.quantise(x.float().reshape(-1, x.shape[-1]).numpy(), _BLOCKS)
    cache[:, :, where] = torch.from_numpy(held.codes).view(x.shape)
    scale[:, :, where] = torch.from_numpy(held.scales).view(*x.shape[:3], -1)


@_store.register_fake
def _(x: torch.Tensor, cache: torch.Tensor, scale: torch.Tensor, seen: torch.Tensor) -> None: ...


@torch.library.custom_op("mtia::cache_attend", mutates_args=())
def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor,
    seen: torch.Tensor, scale: float,
) -> torch.Tensor:  # fmt: skip
    if q.device.type == "mtia":
        k_codes, v_codes = (t.view(torch.float8_e4m3fn) for t in (k, v))
        return kernels.attend(q, k_codes, v_codes, k_scale, v_scale, seen, scale=scale)
    return _attend_on_host(q, numbers(k, k_scale), numbers(v, v_scale), int(seen), scale).to(q.dtype)


@_attend.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, k_scale: torch.Tensor, v_scale: torch.Tensor,
      seen: torch.Tensor, scale: float) -> torch.Tensor:  # fmt: skip
    B, H, S_q, D = q.shape
    return q.new_empty((B, S_q, H, D)).transpose(1, 2)


def _attend_on_host(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: int, scale: float) -> torch.Tensor:
    """The definition, in float64, of a cache's numbers."""
    group, S_q = q.shape[1] // k.shape[1], q.shape[2]
    k, v = (t[:, :, :seen].repeat_interleave(group, dim=1) for t in (k, v))
    scores = q.double() @ k.transpose(-1, -2) * scale
    seen_by = torch.arange(seen)[None, :] <= torch.arange(seen - S_q, seen)[:, None]
    out = torch.softmax(scores.masked_fill(~seen_by, float("-inf")), -1) @ v
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def numbers(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """float64 numbers of a cache on the host."""
    wide = torch.from_numpy(decode(codes.numpy(), FP8_E4M3)).double()
    if scale.dtype != torch.uint8:
        return wide * scale.double().view(-1, 1, 1)
    return wide * torch.from_numpy(blocks.scale_values(scale.numpy(), MX8)).repeat_interleave(MX8.cols, dim=-1)


class KeyValueCache:
    """Room for `tokens` keys and values of `heads` KV heads, in 8 bits. Append with `update`, read with `attend`:

        cache = KeyValueCache(batch=1, heads=8, tokens=4096, head_dim=128, form="mx8", device="mtia")
        cache.update(k, v)          # [batch, heads, new tokens, head_dim]
        out = cache.attend(q)       # the last queries, causal: [batch, query heads, queries, head_dim]

    fp8: `scale` is the pair of float32 scales [heads] of keys and values; by default the first update finds them, with
    room for later numbers twice as large; what is larger still saturates at 448 scales. Raises BadProblem for an
    unknown form, a head dim that mx8's blocks do not divide, shapes that do not fit, and more tokens than there is room
    for.
    """

    def __init__(
        self, *, batch: int, heads: int, tokens: int, head_dim: int, form: str = "fp8",
        device: torch.device | str = "mtia", scale: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        if form not in FORMATS:
            raise _bad("format", form, f"known: {', '.join(FORMATS)}")
        if form == "mx8" and head_dim % MX8.cols:
            raise _bad("head_dim", head_dim, f"a multiple of {MX8.cols} for mx8; fp8 takes any")
        self.form, self.shape, self.length = form, (batch, heads, tokens, head_dim), 0
        self.keys, self.values = (torch.zeros(self.shape, dtype=torch.uint8, device=device) for _ in range(2))
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.is_scaled = form == "mx8" or scale is not None
        if form == "mx8":
            shape = (batch, heads, tokens, head_dim // MX8.cols)
            self.scales = [torch.zeros(shape, dtype=torch.uint8, device=device) for _ in range(2)]
        else:
            one = torch.ones(heads, device=device)
            self.scales = [t.float().to(device) for t in scale] if scale else [one, one.clone()]

    @property
    def n_bytes(self) -> int:
        return sum(t.nbytes for t in (self.keys, self.values, *self.scales))

    def update(self, k: torch.Tensor, v: torch.Tensor) -> KeyValueCache:
        """Append k and v [batch, heads, new tokens, head_dim]."""
        batch, heads, tokens, head_dim = self.shape
        if k.shape != v.shape or (*k.shape[:2], k.shape[3]) != (batch, heads, head_dim):
            raise _bad("shape", (tuple(k.shape), tuple(v.shape)), f"[{batch}, {heads}, new tokens, {head_dim}]")
        if self.length + k.shape[2] > tokens:
            raise _bad("tokens", self.length + k.shape[2], f"at most {tokens}, what it was made for")
        self.length += k.shape[2]
        self.append(k, v)
        return self

    def append(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """As `update`, of what is known to fit."""
        self.seen.add_(k.shape[2])
        if not self.is_scaled:
            for held, x in zip(self.scales, (k, v), strict=True):
                held.copy_(x.float().abs().amax((0, 2, 3)).clamp_min(_SMALLEST) * (HEADROOM / FP8_E4M3.largest))
            self.is_scaled = True
        _store(k, self.keys, self.scales[0], self.seen)
        _store(v, self.values, self.scales[1], self.seen)

    def attend(self, q: torch.Tensor, *, scale: float | None = None) -> torch.Tensor:
        """Causal attention of q [batch, query heads, queries, head_dim], the last tokens that were written."""
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        return _attend(q, self.keys, self.values, *self.scales, self.seen, factor)

    def reset(self) -> None:
        """Forget all tokens; scales of fp8 stay."""
        self.length = 0
        self.seen.zero_()


def _bad(argument: str, value: object, allowed: str) -> BadProblem:
    return BadProblem("an 8-bit cache of keys and values", argument=argument, value=value, allowed=allowed)


__all__ = ["FORMATS", "KeyValueCache", "numbers"]
