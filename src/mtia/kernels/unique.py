"""Distinct elements, rows and runs, from sort, comparison and scatter. How many there are depends on the data."""

from __future__ import annotations

from math import prod

import torch

from mtia.kernels.registry import aten

Found = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _runs(rows: torch.Tensor, *, inverse: bool, counts: bool) -> Found:
    """First of each run of equal rows of [n, width]; which run each row is in; how long each is."""
    n = rows.shape[0]
    none = torch.empty(0, dtype=torch.int64, device=rows.device)
    if n == 0:
        return rows, none, none
    starts = torch.ones(n, dtype=torch.bool, device=rows.device)
    starts[1:] = (rows[1:] != rows[:-1]).any(1)
    run = starts.to(torch.int64).cumsum(0) - 1
    first = starts.nonzero().squeeze(1)
    length = torch.diff(first, append=torch.full((1,), n, dtype=torch.int64, device=rows.device)) if counts else none
    return rows.index_select(0, first), run if inverse else none, length


PAIRWISE_ELEMENTS = 1 << 21  # of all pairs of rows: up to so many they are compared at once


def _ordered(rows: torch.Tensor) -> torch.Tensor:
    """Order of the rows of [n, width], the first column first, equal rows as they come."""
    n, width = rows.shape
    if width > 1 and n * n * width <= PAIRWISE_ELEMENTS:
        return _ordered_by_pairs(rows)
    order = torch.arange(n, device=rows.device)
    for column in reversed(range(width)):  # stable sorts from the last column on
        order = order.index_select(0, torch.sort(rows[:, column].index_select(0, order), stable=True).indices)
    return order


def _ordered_by_pairs(rows: torch.Tensor) -> torch.Tensor:
    """As `_ordered`: a row's place is the number of rows before it. NaN is the greatest."""
    n = rows.shape[0]
    one, other = rows.unsqueeze(1), rows.unsqueeze(0)
    differs = (one != other) & ((one == one) | (other == other))
    column = differs.to(torch.int32).argmax(-1)  # the first that differs
    mine = rows.gather(1, column)
    theirs = mine.new_empty(n, n).copy_(rows.gather(1, column.t().contiguous()).t())
    before = (mine < theirs) | ((mine == mine) & (theirs != theirs))  # [i, j]: row i comes before row j
    at = torch.arange(n, device=rows.device)
    equal = ~differs.any(-1)
    before = before | (equal & (at.unsqueeze(1) < at.unsqueeze(0)))
    return torch.empty_like(at).scatter(0, before.sum(0), at)


def _distinct(rows: torch.Tensor, *, inverse: bool, counts: bool) -> Found:
    order = _ordered(rows)
    found, run, length = _runs(rows.index_select(0, order), inverse=inverse, counts=counts)
    if inverse and rows.shape[0]:
        run = torch.empty_like(run).scatter(0, order, run)
    return found, run, length


def _flat(x: torch.Tensor, found: Found, inverse: bool) -> Found:
    return found[0].reshape(-1), found[1].reshape(x.shape) if inverse else found[1], found[2]


@aten("_unique2")
def unique2(x: torch.Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False) -> Found:
    found = _distinct(x.reshape(-1, 1), inverse=return_inverse, counts=return_counts)
    return _flat(x, found, return_inverse)


@aten("_unique")
def unique(x: torch.Tensor, sorted: bool = True, return_inverse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    return unique2(x, sorted, return_inverse)[:2]


def _along(x: torch.Tensor, dim: int) -> torch.Tensor:
    first = x.movedim(dim, 0)
    return first.reshape(first.shape[0], prod(first.shape[1:]))


def _placed(x: torch.Tensor, dim: int, rows: torch.Tensor) -> torch.Tensor:
    rest = x.movedim(dim, 0).shape[1:]
    return rows.reshape((rows.shape[0], *rest)).movedim(0, dim).contiguous()


@aten("unique_dim")
def unique_dim(
    x: torch.Tensor, dim: int, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Found:
    """Always with inverse and counts, as PyTorch's own."""
    rows, run, length = _distinct(_along(x, dim), inverse=True, counts=True)
    return _placed(x, dim, rows), run, length


@aten("unique_dim_consecutive")
def unique_dim_consecutive(
    x: torch.Tensor, dim: int, return_inverse: bool = False, return_counts: bool = False
) -> Found:
    rows, run, length = _runs(_along(x, dim), inverse=True, counts=True)
    return _placed(x, dim, rows), run, length


@aten("unique_consecutive")
def unique_consecutive(
    x: torch.Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Found:
    if dim is not None:
        return unique_dim_consecutive(x, dim, return_inverse, return_counts)
    return _flat(x, _runs(x.reshape(-1, 1), inverse=return_inverse, counts=return_counts), return_inverse)
