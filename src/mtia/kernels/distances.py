"""Distances between rows, and sampling a field at points: compositions, with their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtia.kernels.autodiff import deliver, gradients, linear_gradient
from mtia.kernels.registry import KERNELS, aten

# --- p-norm distances -------------------------------------------------------------------------------------------------


def _distance(difference: torch.Tensor, p: float) -> torch.Tensor:
    """p-norm over the last dim; p = 0 counts what differs."""
    size = difference.abs()
    if p == 0:
        return (size != 0).to(difference.dtype).sum(-1)
    if p == 1:
        return size.sum(-1)
    if p == float("inf"):
        return size.amax(-1) if size.shape[-1] else size.sum(-1)
    if p == 2:
        return (size * size).sum(-1).sqrt()
    return size.pow(p).sum(-1).pow(1.0 / p)


def _distance_gradient(grad: torch.Tensor, difference: torch.Tensor, p: float, distance: torch.Tensor) -> torch.Tensor:
    """With respect to the difference; 0 where the distance is 0."""
    grad, distance = grad.unsqueeze(-1), distance.unsqueeze(-1)
    size, sign = difference.abs(), difference.sign()
    if p == 0:
        return torch.zeros_like(difference)
    if p == 1:
        return grad * sign
    safe = torch.where(distance == 0, torch.ones_like(distance), distance)
    if p == float("inf"):
        found = grad * sign * (size == distance).to(grad.dtype)
    elif p == 2:
        found = grad * difference / safe
    else:
        power = torch.where(size == 0, torch.zeros_like(size), torch.where(size == 0, 1.0, size).pow(p - 1))
        found = grad * sign * power / safe.pow(p - 1)
    return torch.where(distance == 0, torch.zeros_like(found), found)


@aten("_cdist_forward")
def cdist(x: torch.Tensor, y: torch.Tensor, p: float, compute_mode: int | None) -> torch.Tensor:
    """[..., M, D], [..., N, D] -> [..., M, N]."""
    return _distance(x.unsqueeze(-2) - y.unsqueeze(-3), p)


@aten("_cdist_backward")
def cdist_backward(
    grad: torch.Tensor, x: torch.Tensor, y: torch.Tensor, p: float, distance: torch.Tensor
) -> torch.Tensor:
    if distance.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(x)
    found = _distance_gradient(grad, x.unsqueeze(-2) - y.unsqueeze(-3), p, distance).sum(-2)
    return found.sum_to_size(x.shape)


def _pairs(n: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.triu_indices(n, n, 1, device=device)
    return rows[0].contiguous(), rows[1].contiguous()


@aten("_pdist_forward")
def pdist(x: torch.Tensor, p: float = 2.0) -> torch.Tensor:
    """All pairs i < j of the rows of x."""
    i, j = _pairs(x.shape[0], x.device)
    return _distance(x.index_select(0, i) - x.index_select(0, j), p)


@aten("_pdist_backward")
def pdist_backward(grad: torch.Tensor, x: torch.Tensor, p: float, distance: torch.Tensor) -> torch.Tensor:
    i, j = _pairs(x.shape[0], x.device)
    each = _distance_gradient(grad, x.index_select(0, i) - x.index_select(0, j), p, distance)
    return torch.zeros_like(x).index_add(0, i, each).index_add(0, j, -each)


# --- padding by the border --------------------------------------------------------------------------------------------


def _replicated(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    y = x
    for d in range(len(padding) // 2):
        dim, before, after = x.dim() - 1 - d, padding[2 * d], padding[2 * d + 1]
        place = torch.arange(-before, x.shape[dim] + after).clamp(0, x.shape[dim] - 1)
        y = y.index_select(dim, place.to(x.device))
    return y


def _replication_backward(grad: torch.Tensor, x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    return linear_gradient(lambda y: _replicated(y, padding), tuple(x.shape), grad)


aten("replication_pad2d_backward", "replication_pad3d_backward")(_replication_backward)
aten("replication_pad1d_backward.grad_input")(
    lambda grad, x, padding, *, grad_input: deliver(_replication_backward(grad, x, padding), grad_input)
)


# --- margins ----------------------------------------------------------------------------------------------------------


@aten("multi_margin_loss_backward")
def multi_margin_loss_backward(
    grad: torch.Tensor, x: torch.Tensor, target: torch.Tensor, p: Any, margin: Any, weight: torch.Tensor | None = None,
    reduction: int = 1,
) -> torch.Tensor:  # fmt: skip
    forward = KERNELS["multi_margin_loss"]
    return gradients(lambda y: forward(y, target, p, margin, weight, reduction), (x,), grad)[0]


@aten("multilabel_margin_loss_forward")
def multilabel_margin_loss(x: torch.Tensor, target: torch.Tensor, reduction: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and which classes are targets. A row's targets end at its first -1."""
    rows, wanted = torch.atleast_2d(x), torch.atleast_2d(target)
    n = rows.shape[1]
    listed = (wanted < 0).to(torch.int64).cumsum(1) == 0
    classes = wanted.clamp(min=0)
    is_target = torch.zeros_like(rows).scatter_add(1, classes, listed.to(rows.dtype)) > 0
    at_target = rows.gather(1, classes)
    margin = (1.0 - at_target.unsqueeze(2) + rows.unsqueeze(1)).clamp(min=0)
    counts = listed.unsqueeze(2) & ~is_target.unsqueeze(1)
    loss = torch.where(counts, margin, torch.zeros_like(margin)).sum((1, 2)) / n
    marks = is_target.to(x.dtype).reshape(x.shape)
    if reduction == 0:
        return loss.reshape(x.shape[:-1]), marks
    return (loss.mean() if reduction == 1 else loss.sum()), marks


@aten("multilabel_margin_loss_backward")
def multilabel_margin_loss_backward(
    grad: torch.Tensor, x: torch.Tensor, target: torch.Tensor, reduction: int, is_target: torch.Tensor
) -> torch.Tensor:
    forward = KERNELS["multilabel_margin_loss_forward"]
    return gradients(lambda y: forward(y, target, reduction)[0], (x,), grad)[0]
