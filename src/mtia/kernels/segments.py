"""Reductions over groups of elements: by index, by segment, by bag; and histograms, which count by bin."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from mtia.kernels.autodiff import deliver
from mtia.kernels.copy import contiguous
from mtia.kernels.embedding_rows import dense_gradient, embedding_lists
from mtia.kernels.registry import aten

# --- by index ---------------------------------------------------------------------------------------------------------

_LEGACY = {"add": "sum", "multiply": "prod"}


@aten("index_reduce.out")
def index_reduce_out(
    x: torch.Tensor, dim: int, index: torch.Tensor, source: torch.Tensor, reduce: str, *,
    include_self: bool = True, out: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    if x.dim() == 0:
        x1, s1 = x.reshape(1), source.reshape(1)
        return deliver(x1.scatter_reduce(0, index.reshape(1), s1, reduce, include_self=include_self).reshape(()), out)
    shape = [1] * x.dim()
    shape[dim] = -1
    places = index.reshape(shape).expand(source.shape).contiguous()
    return deliver(x.scatter_reduce(dim, places, source, reduce, include_self=include_self), out)


@aten("scatter.reduce_out")
def scatter_with_fold(
    x: torch.Tensor, dim: int, index: torch.Tensor, src: torch.Tensor, *, reduce: str, out: torch.Tensor
) -> torch.Tensor:
    return deliver(x.scatter_reduce(dim, index, src, _LEGACY[reduce], include_self=True), out)


@aten("scatter.value_reduce_out")
def scatter_value_with_fold(
    x: torch.Tensor, dim: int, index: torch.Tensor, value: Any, *, reduce: str, out: torch.Tensor
) -> torch.Tensor:
    src = torch.full(index.shape, value, dtype=x.dtype, device=x.device)
    return deliver(x.scatter_reduce(dim, index, src, _LEGACY[reduce], include_self=True), out)


@aten("put_")
def put_(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor, accumulate: bool = False) -> torch.Tensor:
    flat, places, values = x.reshape(-1), index.reshape(-1), source.reshape(-1)
    places = torch.where(places < 0, places + x.numel(), places)
    found = flat.scatter_add(0, places, values) if accumulate else flat.scatter(0, places, values)
    return x.copy_(found.reshape(x.shape))


@aten("searchsorted.Scalar")
def searchsorted_scalar(
    sequence: torch.Tensor, value: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    one = torch.full((1,), value, dtype=sequence.dtype, device=sequence.device)
    found = torch.searchsorted(sequence, one, out_int32=out_int32, right=right, side=side, sorter=sorter)
    return found.reshape(())


@aten("nonzero_static")
def nonzero_static(x: torch.Tensor, *, size: int, fill_value: int = -1) -> torch.Tensor:
    found = torch.nonzero(x)[:size]
    missing = torch.full((size - found.shape[0], x.dim()), fill_value, dtype=torch.int64, device=x.device)
    return torch.cat((found, missing))


# --- by segment -------------------------------------------------------------------------------------------------------

_EMPTY = {"sum": 0.0, "mean": torch.nan, "max": -torch.inf, "min": torch.inf, "prod": 1.0}
_FOLDS = {"sum": "sum", "mean": "sum", "max": "amax", "min": "amin", "prod": "prod"}


def _lengths(lengths: torch.Tensor | None, offsets: torch.Tensor | None, axis: int) -> torch.Tensor:
    if lengths is not None:
        return lengths
    assert offsets is not None
    return offsets.diff(dim=axis)


def _segment_of(data: torch.Tensor, lengths: torch.Tensor, axis: int) -> torch.Tensor:
    """The segment of each place along `axis`, [*leading dims, n]; their number for what lies behind the last one."""
    ends = lengths.cumsum(axis)
    place = torch.arange(data.shape[axis], dtype=ends.dtype, device=data.device)
    return torch.searchsorted(ends.contiguous(), place.expand(*ends.shape[:-1], -1).contiguous(), right=True)


def _spread(segment: torch.Tensor, data: torch.Tensor, axis: int) -> torch.Tensor:
    return segment.reshape((*segment.shape, *([1] * (data.dim() - axis - 1)))).expand(data.shape).contiguous()


def _per_segment(lengths: torch.Tensor, like: torch.Tensor, axis: int) -> torch.Tensor:
    return lengths.reshape((*lengths.shape, *([1] * (like.dim() - axis - 1)))).to(like.dtype)


@aten("segment_reduce")
def segment_reduce(
    data: torch.Tensor, reduce: str, *, lengths: torch.Tensor | None = None, indices: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None, axis: int = 0, unsafe: bool = False, initial: Any = None,
) -> torch.Tensor:  # fmt: skip
    sizes = _lengths(lengths, offsets, axis)
    n = sizes.shape[axis]
    start = initial if initial is not None else (0.0 if reduce == "mean" else _EMPTY[reduce])
    shape = (*data.shape[:axis], n + 1, *data.shape[axis + 1 :])
    room = torch.full(shape, start, dtype=data.dtype, device=data.device)
    if data.numel():
        places = _spread(_segment_of(data, sizes, axis), data, axis)
        room = room.scatter_reduce(axis, places, data, _FOLDS[reduce], include_self=True)
    out = room.narrow(axis, 0, n)
    if reduce == "mean":
        count = _per_segment(sizes, out, axis)
        empty = torch.full_like(out, initial if initial is not None else torch.nan)
        out = torch.where(count > 0, out / count.clamp(min=1), empty)
    return out.contiguous()


@aten("_segment_reduce_backward")
def segment_reduce_backward(
    grad: torch.Tensor, output: torch.Tensor, data: torch.Tensor, reduce: str, *, lengths: torch.Tensor | None = None,
    offsets: torch.Tensor | None = None, axis: int = 0, initial: Any = None,
) -> torch.Tensor:  # fmt: skip
    sizes = _lengths(lengths, offsets, axis)
    n = sizes.shape[axis]
    if not data.numel() or n == 0:
        return torch.zeros_like(data)
    segment = _segment_of(data, sizes, axis)
    inside = _spread(segment < n, data, axis)
    places = _spread(segment.clamp(max=n - 1), data, axis)

    def of_segment(x: torch.Tensor) -> torch.Tensor:
        return x.gather(axis, places)

    def summed(x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(output.shape, dtype=x.dtype, device=x.device)
        return zero.scatter_add(axis, places, torch.where(inside, x, torch.zeros_like(x)))

    if reduce == "sum":
        found = of_segment(grad)
    elif reduce == "mean":
        found = of_segment(grad / _per_segment(sizes, grad, axis))
    elif reduce == "prod":
        is_zero = (data == 0) & inside
        zeros = of_segment(summed(is_zero.to(data.dtype)))
        rest = segment_reduce(torch.where(is_zero, torch.ones_like(data), data), "prod", lengths=sizes, axis=axis,
                              initial=initial)  # fmt: skip
        others = torch.where(
            is_zero, of_segment(rest), of_segment(rest) / torch.where(is_zero, torch.ones_like(data), data)
        )
        alone = (zeros == 0) | ((zeros == 1) & is_zero)
        found = of_segment(grad) * torch.where(alone, others, torch.zeros_like(others))
    else:
        hit = (data == of_segment(output)) | ((data != data) & (of_segment(output) != of_segment(output)))
        share = summed(hit.to(data.dtype))
        found = torch.where(hit, of_segment(grad / share.clamp(min=1)), torch.zeros_like(data))
    return torch.where(inside, found, torch.zeros_like(found))


# --- by bag -----------------------------------------------------------------------------------------------------------

_SUM, _MEAN, _MAX = 0, 1, 2
_LISTED = (torch.float32, torch.bfloat16, torch.float16)  # types that kernels/embedding_rows.py sums, in float32


def _bags(indices: torch.Tensor, offsets: torch.Tensor, include_last_offset: bool) -> tuple[torch.Tensor, int]:
    """Which bag each index belongs to, and how many bags there are."""
    n = offsets.numel() - int(include_last_offset)
    place = torch.arange(indices.numel(), dtype=offsets.dtype, device=indices.device)
    return torch.searchsorted(offsets[:n].contiguous(), place, right=True) - 1, n


@aten("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, scale_grad_by_freq: bool = False,
    mode: int = _SUM, sparse: bool = False, per_sample_weights: torch.Tensor | None = None,
    include_last_offset: bool = False, padding_idx: int = -1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """(bags [B, D], bag of each index, indices in each bag, where each maximum came from)."""
    if mode != _MAX and weight.dtype in _LISTED:
        bags = offsets.numel() - int(include_last_offset)
        found = embedding_lists(weight, indices, offsets, bags=bags, mean=mode == _MEAN, scales=per_sample_weights,
                                padding=padding_idx)  # fmt: skip
        winner = torch.empty(0, dtype=torch.int64, device=weight.device)
        return found.out.view(bags, weight.shape[1]), found.lookups, found.sizes, winner
    bag, n = _bags(indices, offsets, include_last_offset)
    counts = (indices != padding_idx) if padding_idx >= 0 else torch.ones_like(indices, dtype=torch.bool)
    size = torch.zeros(n, dtype=torch.int64, device=indices.device).scatter_add(0, bag, counts.to(torch.int64))
    rows = weight.index_select(0, indices)
    wide = rows.to(torch.float32) if rows.dtype in (torch.bfloat16, torch.float16) else rows
    if per_sample_weights is not None:
        wide = wide * per_sample_weights.to(wide.dtype).unsqueeze(1)
    places = bag.unsqueeze(1).expand(wide.shape)
    winner = torch.empty(0, dtype=torch.int64, device=weight.device)
    if mode == _MAX:
        kept = torch.where(counts.unsqueeze(1), wide, -torch.inf)
        room = torch.full((n, weight.shape[1]), -torch.inf, dtype=wide.dtype, device=weight.device)
        out = room.scatter_reduce(0, places.contiguous(), kept, "amax", include_self=True)
        winner = _winners(kept, out, places, indices, n)
        out = torch.where(size.unsqueeze(1) > 0, out, torch.zeros_like(out))
        winner = torch.where(size.unsqueeze(1) > 0, winner, torch.zeros_like(winner))
    else:
        kept = torch.where(counts.unsqueeze(1), wide, torch.zeros_like(wide))
        out = torch.zeros((n, weight.shape[1]), dtype=wide.dtype, device=weight.device)
        out = out.scatter_add(0, places.contiguous(), kept)
        if mode == _MEAN:
            out = out / size.clamp(min=1).to(out.dtype).unsqueeze(1)
    return out.to(weight.dtype), bag, size, winner


def _winners(
    rows: torch.Tensor, best: torch.Tensor, places: torch.Tensor, indices: torch.Tensor, n: int
) -> torch.Tensor:
    """The index whose row gave each maximum: the first of equals."""
    at = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1).expand(rows.shape)
    wins = rows == best.gather(0, places)
    first = torch.full((n, rows.shape[1]), rows.shape[0], dtype=torch.int64, device=rows.device)
    late = torch.full_like(at, rows.shape[0])
    first = first.scatter_reduce(0, places.contiguous(), torch.where(wins, at, late), "amin", include_self=True)
    return indices[first.clamp(max=max(0, rows.shape[0] - 1))].to(torch.int64) if rows.shape[0] else first * 0


def _index_grad(
    grad: torch.Tensor, indices: torch.Tensor, bag: torch.Tensor, size: torch.Tensor, mode: int,
    per_sample_weights: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """The gradient of each looked-up row."""
    rows = grad.index_select(0, bag)
    if mode == _MEAN:
        rows = rows / size.index_select(0, bag).clamp(min=1).to(rows.dtype).unsqueeze(1)
    return rows if per_sample_weights is None else rows * per_sample_weights.unsqueeze(1)


@aten("_embedding_bag_dense_backward")
def embedding_bag_dense_backward(
    grad: torch.Tensor, indices: torch.Tensor, offset2bag: torch.Tensor, bag_size: torch.Tensor,
    maximum_indices: torch.Tensor, num_weights: int, scale_grad_by_freq: bool, mode: int,
    per_sample_weights: torch.Tensor | None, padding_idx: int = -1,
) -> torch.Tensor:  # fmt: skip
    if mode == _MAX:
        out = torch.zeros((num_weights, grad.shape[1]), dtype=grad.dtype, device=grad.device)
        kept = torch.where(bag_size.unsqueeze(1) > 0, grad, torch.zeros_like(grad))
        return out.scatter_add(0, maximum_indices, kept)
    if mode == _SUM and per_sample_weights is None and not scale_grad_by_freq and grad.dtype in _LISTED:
        return dense_gradient(grad, indices, offset2bag, num_weights, padding_idx)
    rows = _index_grad(grad, indices, offset2bag, bag_size, mode, per_sample_weights)
    if scale_grad_by_freq:
        ones = torch.ones_like(indices, dtype=torch.int64)
        often = torch.zeros(num_weights, dtype=torch.int64, device=grad.device).scatter_add(0, indices.long(), ones)
        rows = rows / often.index_select(0, indices).to(rows.dtype).unsqueeze(1)
    return _gradient_of_rows(rows, indices, num_weights, padding_idx)


def _gradient_of_rows(rows: torch.Tensor, indices: torch.Tensor, num_weights: int, padding_idx: int) -> torch.Tensor:
    """rows [N, D] added into the table rows that indices [N] name, in float32 (or wider), rounded once."""
    if rows.dtype in _LISTED:
        return dense_gradient(rows, indices, None, num_weights, padding_idx)
    if padding_idx >= 0:
        rows = torch.where((indices != padding_idx).unsqueeze(1), rows, torch.zeros_like(rows))
    out = torch.zeros((num_weights, rows.shape[1]), dtype=rows.dtype, device=rows.device)
    return out.index_add(0, indices, rows)


@aten("embedding_dense_backward")
def embedding_dense_backward(
    grad: torch.Tensor, indices: torch.Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> torch.Tensor:
    rows, flat = contiguous(grad).view(-1, grad.shape[-1]), contiguous(indices).view(-1)
    if scale_grad_by_freq:
        counts = torch.bincount(flat, minlength=num_weights)
        rows = rows / counts[flat].unsqueeze(1)
    return _gradient_of_rows(rows, flat, num_weights, padding_idx)


@aten("_embedding_bag_backward")
def embedding_bag_backward(
    grad: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, offset2bag: torch.Tensor, bag_size: torch.Tensor,
    maximum_indices: torch.Tensor, num_weights: int, scale_grad_by_freq: bool, mode: int, sparse: bool,
    per_sample_weights: torch.Tensor | None, padding_idx: int = -1,
) -> torch.Tensor:  # fmt: skip
    """Dense, also where a sparse gradient was asked for: the device has no sparse tensors."""
    return embedding_bag_dense_backward(
        grad, indices, offset2bag, bag_size, maximum_indices, num_weights, scale_grad_by_freq, mode,
        per_sample_weights, padding_idx,
    )  # fmt: skip


@aten("_embedding_bag_per_sample_weights_backward")
def embedding_bag_per_sample_weights_backward(
    grad: torch.Tensor, weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, offset2bag: torch.Tensor,
    mode: int, padding_idx: int = -1,
) -> torch.Tensor:  # fmt: skip
    found = (grad.index_select(0, offset2bag) * weight.index_select(0, indices)).sum(1)
    return torch.where(indices != padding_idx, found, torch.zeros_like(found)) if padding_idx >= 0 else found


@aten("embedding_renorm_")
def embedding_renorm_(weight: torch.Tensor, indices: torch.Tensor, max_norm: float, norm_type: float) -> torch.Tensor:
    """Rows that are looked up and longer than `max_norm` are scaled to it."""
    used = torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device).index_fill(0, indices.reshape(-1), True)
    norm = torch.linalg.vector_norm(weight, norm_type, dim=1)
    scale = torch.where(used & (norm > max_norm), max_norm / (norm + 1e-7), torch.ones_like(norm))
    return weight.copy_(weight * scale.unsqueeze(1))


# --- by bin -----------------------------------------------------------------------------------------------------------


def _edges(x: torch.Tensor, bins: int, range_: Sequence[float] | None) -> torch.Tensor:
    if range_ is not None:
        low, high = float(range_[0]), float(range_[1])
    elif x.numel() == 0:
        low, high = 0.0, 1.0
    else:
        low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return torch.linspace(low, high, bins + 1, dtype=x.dtype, device=x.device)


def _histogram(
    x: torch.Tensor, edges: Sequence[torch.Tensor], weight: torch.Tensor | None, density: bool
) -> torch.Tensor:
    """x [n, dims] counted into the cells between edges; the last cell of each dim holds its upper edge. As on the CPU,
    a value counts if it lies between the first edge and the last, also where edges are not in order."""
    sizes = [e.numel() - 1 for e in edges]
    cell = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    inside = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    for d, e in enumerate(edges):
        column = x[:, d].contiguous()
        at = torch.searchsorted(e.contiguous(), column, right=True) - 1
        inside = inside & (column >= e[0]) & (column <= e[-1])
        cell = cell * sizes[d] + at.clamp(0, max(0, sizes[d] - 1))
    counted = (
        torch.ones(x.shape[0], dtype=x.dtype, device=x.device) if weight is None else weight.reshape(-1).to(x.dtype)
    )
    counted = torch.where(inside, counted, torch.zeros_like(counted))
    out = torch.zeros(prod(sizes), dtype=x.dtype, device=x.device).scatter_add(0, cell, counted).reshape(sizes)
    if density:
        volume = torch.ones((), dtype=x.dtype, device=x.device)
        for d, e in enumerate(edges):
            shape = [1] * len(edges)
            shape[d] = -1
            volume = volume * e.diff().reshape(shape)
        out = out / (out.sum() * volume)
    return out


@aten("histogram.bins_tensor")
def histogram_edges(
    x: torch.Tensor, bins: torch.Tensor, *, weight: torch.Tensor | None = None, density: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _histogram(x.reshape(-1, 1), [bins], weight, density), bins.clone()


@aten("histogram.bin_ct")
def histogram_count(
    x: torch.Tensor, bins: int = 100, *, range: Sequence[float] | None = None, weight: torch.Tensor | None = None,
    density: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    edges = _edges(x.reshape(-1), bins, range)
    return _histogram(x.reshape(-1, 1), [edges], weight, density), edges


def _all_edges(x: torch.Tensor, bins: Sequence[int], range_: Sequence[float] | None) -> list[torch.Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    return [_edges(flat[:, d], n, None if range_ is None else range_[2 * d : 2 * d + 2]) for d, n in enumerate(bins)]


@aten("_histogramdd_bin_edges")
def histogramdd_bin_edges(
    x: torch.Tensor, bins: Sequence[int], *, range: Sequence[float] | None = None, weight: torch.Tensor | None = None,
    density: bool = False,
) -> list[torch.Tensor]:  # fmt: skip
    return _all_edges(x, bins, range)


@aten("_histogramdd_from_bin_cts")
def histogramdd_from_counts(
    x: torch.Tensor, bins: Sequence[int], *, range: Sequence[float] | None = None, weight: torch.Tensor | None = None,
    density: bool = False,
) -> torch.Tensor:  # fmt: skip
    return _histogram(x.reshape(-1, x.shape[-1]), _all_edges(x, bins, range), weight, density)


@aten("_histogramdd_from_bin_tensors")
def histogramdd_from_edges(
    x: torch.Tensor, bins: Sequence[torch.Tensor], *, weight: torch.Tensor | None = None, density: bool = False
) -> torch.Tensor:
    return _histogram(x.reshape(-1, x.shape[-1]), list(bins), weight, density)
