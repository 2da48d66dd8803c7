"""Order statistics, running extremes, histograms and segments: compositions of sort, scan, search and scatter."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.registry import aten

# --- medians and modes ------------------------------------------------------------------------------------------------


def _lane(x: torch.Tensor, dim: int) -> torch.Tensor:
    """`dim` last; a 0-dim tensor as one element."""
    return x.reshape(1) if x.dim() == 0 else x.movedim(dim, -1)


def _back(x: torch.Tensor, like: torch.Tensor, dim: int, keepdim: bool) -> torch.Tensor:
    """A result without its last dim, where the caller's `dim` was."""
    if like.dim() == 0:
        return x.reshape(())
    return x.unsqueeze(dim if dim >= 0 else dim + like.dim()) if keepdim else x


def _median(x: torch.Tensor, dim: int, keepdim: bool, *, skip_nan: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The lower median of each lane and where it is; NaN if a lane has one (unless skipped)."""
    ordered, order = torch.sort(_lane(x, dim), dim=-1, stable=True)  # NaN last
    n = ordered.shape[-1]
    middle = torch.full(ordered.shape[:-1], (n - 1) // 2, dtype=torch.int64, device=x.device)
    if x.dtype.is_floating_point:
        n_real = (ordered == ordered).sum(-1)
        chosen = ((n_real - 1) // 2).clamp(min=0) if skip_nan else torch.where(n_real < n, n_real, middle)
        middle = chosen.clamp(max=n - 1)
    middle = middle.unsqueeze(-1)
    value, at = ordered.gather(-1, middle).squeeze(-1), order.gather(-1, middle).squeeze(-1)
    return _back(value, x, dim, keepdim), _back(at, x, dim, keepdim)


def _median_of_all(x: torch.Tensor, *, skip_nan: bool) -> torch.Tensor:
    if x.numel() == 0:
        return torch.full((), torch.nan if x.dtype.is_floating_point else torch.iinfo(x.dtype).min,
                          dtype=x.dtype, device=x.device)  # fmt: skip
    return _median(x.reshape(-1), 0, False, skip_nan=skip_nan)[0]


aten("median")(lambda x: _median_of_all(x, skip_nan=False))
aten("nanmedian")(lambda x: _median_of_all(x, skip_nan=True))


def _serve_median(name: str, *, skip_nan: bool) -> None:
    def run(
        x: torch.Tensor, dim: int, keepdim: bool = False, *, values: torch.Tensor, indices: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        value, at = _median(x, dim, keepdim, skip_nan=skip_nan)
        return deliver(value, values), deliver(at, indices)

    aten(f"{name}.dim_values")(run)


_serve_median("median", skip_nan=False)
_serve_median("nanmedian", skip_nan=True)


@aten("mode")
def mode(x: torch.Tensor, dim: int = -1, keepdim: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The most frequent element of each lane, the smallest of equals, and the last place that has it."""
    ordered, order = torch.sort(_lane(x, dim), dim=-1, stable=True)
    n = ordered.shape[-1]
    place = torch.arange(n, device=x.device).expand(ordered.shape)
    starts = torch.ones(ordered.shape, dtype=torch.bool, device=x.device)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    length = place - running(torch.where(starts, place, 0), -1, _larger)[0]
    best = length.argmax(-1, keepdim=True)
    value, at = ordered.gather(-1, best).squeeze(-1), order.gather(-1, best).squeeze(-1)
    return _back(value, x, dim, keepdim), _back(at, x, dim, keepdim)


# --- running extremes -------------------------------------------------------------------------------------------------

Combine = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _larger(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    """Whether `now` takes over: the later of equals does, and a NaN stays."""
    return (now != now) | ((before == before) & (now >= before))


def _smaller(before: torch.Tensor, now: torch.Tensor) -> torch.Tensor:
    return (now != now) | ((before == before) & (now <= before))


def running(x: torch.Tensor, dim: int, takes_over: Combine) -> tuple[torch.Tensor, torch.Tensor]:
    """Running extreme along `dim` and where each was met: doubling steps, log2(n) of them."""
    lane = _lane(x, dim).contiguous()
    n = lane.shape[-1]
    value, at = lane, torch.arange(n, device=x.device).expand(lane.shape).contiguous()
    step = 1
    while step < n:
        takes = takes_over(value[..., :-step], value[..., step:])
        value, at = (
            torch.cat((held[..., :step], torch.where(takes, held[..., step:], held[..., :-step])), -1)
            for held in (value, at)
        )
        step *= 2
    if x.dim() == 0:
        return value.reshape(()), at.reshape(())
    return value.movedim(-1, dim), at.movedim(-1, dim)


def _serve_running(name: str, takes_over: Combine) -> None:
    def run(x: torch.Tensor, values: torch.Tensor, indices: torch.Tensor, dim: int) -> None:
        value, at = running(x, dim, takes_over)
        values.copy_(value)
        indices.copy_(at)

    aten(name)(run)


_serve_running("_cummax_helper", _larger)
_serve_running("_cummin_helper", _smaller)


def _log_cumulative(x: torch.Tensor, dim: int) -> torch.Tensor:
    kind = x.dtype
    lane = _lane(x.to(torch.float32) if kind in (torch.bfloat16, torch.float16) else x, dim)
    step = 1
    while step < lane.shape[-1]:
        added = torch.logaddexp(lane[..., :-step], lane[..., step:])
        lane = torch.cat((lane[..., :step], added), -1)
        step *= 2
    lane = lane.to(kind)
    return lane.reshape(()) if x.dim() == 0 else lane.movedim(-1, dim).contiguous()


aten("_logcumsumexp")(_log_cumulative)
aten("_logcumsumexp.out")(lambda x, dim, *, out: deliver(_log_cumulative(x, dim), out))


# --- scatter with other reductions ------------------------------------------------------------------------------------


def scattered_product(x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """x[index] *= source, element by element in turn: the first arrival at each place, then the second, ..."""
    if index.numel() == 0:
        return x.clone()
    lanes, values = _lane(index, dim), _lane(source, dim)
    values = values[tuple(slice(0, n) for n in lanes.shape)]
    ordered, order = torch.sort(lanes, dim=-1, stable=True)
    place = torch.arange(ordered.shape[-1], device=x.device).expand(ordered.shape)
    starts = torch.ones(ordered.shape, dtype=torch.bool, device=x.device)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    turn = place - running(torch.where(starts, place, 0), -1, _larger)[0]
    values = values.gather(-1, order)
    out = _lane(x, dim).clone()
    within = out[tuple(slice(0, n) for n in (*ordered.shape[:-1], out.shape[-1]))]
    n = within.shape[-1]
    for k in range(int(turn.max()) + 1):
        room = torch.ones((*within.shape[:-1], n + 1), dtype=x.dtype, device=x.device)  # the last place: not its turn
        factor = room.scatter(-1, torch.where(turn == k, ordered, n), values)[..., :n]
        within = within * factor
    out[tuple(slice(0, n) for n in within.shape)] = within
    return out.reshape(x.shape) if x.dim() == 0 else out.movedim(-1, dim).contiguous()
