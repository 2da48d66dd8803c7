"""Connectionist temporal classification: forward and backward recursions over time, all sequences and labels at once.

Labels are interleaved with blanks: place s of 2 S + 1 is blank where s is even, label (s - 1) / 2 where odd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mtia.kernels.registry import aten

LOWEST = float("-inf")
Lengths = Sequence[int] | torch.Tensor


def _counts(lengths: Lengths, device: torch.device) -> tuple[torch.Tensor, int]:
    """int64 [N] on the device, and the largest."""
    if not isinstance(lengths, torch.Tensor):
        return torch.tensor(list(lengths), dtype=torch.int64, device=device), max(lengths, default=0)
    return lengths.to(device, torch.int64), int(lengths.max().item()) if lengths.numel() else 0


def _labels(targets: torch.Tensor, lengths: torch.Tensor, longest: int, blank: int) -> torch.Tensor:
    """[N, 2 S + 1] from [N, S] or from all sequences behind one another."""
    place = torch.arange(longest, device=targets.device)
    if targets.dim() == 2:
        found = targets[:, :longest]
    else:
        starts = (lengths.cumsum(0) - lengths).unsqueeze(1)
        found = targets[(starts + place).clamp(max=max(targets.shape[0] - 1, 0))] if longest else targets.reshape(-1, 0)
    rows = torch.full((lengths.shape[0], 2 * longest + 1), blank, dtype=torch.int64, device=targets.device)
    if longest:
        rows[:, 1::2] = torch.where(place < lengths.unsqueeze(1), found.to(torch.int64), blank)
    return rows


def _skips(labels: torch.Tensor) -> torch.Tensor:
    """Places that may be reached from two before: another label than there."""
    free = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    free[:, 3::2] = labels[:, 3::2] != labels[:, 1:-2:2]
    return free


def _log_sum(*terms: torch.Tensor) -> torch.Tensor:
    stacked = torch.stack(terms)
    top = stacked.amax(0)
    base = torch.where(top == LOWEST, torch.zeros_like(top), top)
    return torch.where(top == LOWEST, top, (stacked - base).exp().sum(0).log() + base)


def _shifted(x: torch.Tensor, by: int) -> torch.Tensor:
    """Towards higher places (by > 0) or lower ones, -inf moving in."""
    hole = torch.full((x.shape[0], min(abs(by), x.shape[1])), LOWEST, dtype=x.dtype, device=x.device)
    return torch.cat((hole, x[:, :-by]), 1) if by > 0 else torch.cat((x[:, -by:], hole), 1)


def _at(x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """x[n, place[n]], -inf at places below 0."""
    found = x.gather(1, place.clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(place >= 0, found, torch.full_like(found, LOWEST))


@aten("_ctc_loss", "_ctc_loss.Tensor")
def ctc_loss(
    log_probs: torch.Tensor, targets: torch.Tensor, input_lengths: Lengths, target_lengths: Lengths, blank: int = 0,
    zero_infinity: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(-log likelihood [N], log alpha [N, T, 2 S + 1])."""
    device = log_probs.device
    steps, _ = _counts(input_lengths, device)
    n_labels, longest = _counts(target_lengths, device)
    labels = _labels(targets, n_labels, longest, blank)
    skips = _skips(labels)
    n, width = labels.shape
    alpha = torch.full((n, width), LOWEST, dtype=log_probs.dtype, device=device)
    alpha[:, 0] = log_probs[0, :, blank]
    if width > 1:
        first = log_probs[0].gather(1, labels[:, 1:2]).squeeze(1)
        alpha[:, 1] = torch.where(n_labels > 0, first, torch.full_like(first, LOWEST))
    rows = [alpha]
    for t in range(1, log_probs.shape[0]):
        jumped = torch.where(skips, _shifted(alpha, 2), torch.full_like(alpha, LOWEST))
        alpha = _log_sum(alpha, _shifted(alpha, 1), jumped) + log_probs[t].gather(1, labels)
        rows.append(alpha)
    table = torch.stack(rows, 1)
    last = (steps - 1).clamp(min=0)
    final = table.gather(1, last.reshape(-1, 1, 1).expand(n, 1, width)).squeeze(1)
    ends = 2 * n_labels
    likelihood = _log_sum(_at(final, ends), _at(final, ends - 1))
    likelihood = torch.where(steps == 0, torch.where(n_labels == 0, torch.zeros_like(likelihood), LOWEST), likelihood)
    return -likelihood, table


MEAN, SUM = 1, 2


def loss_of_counts(
    log_probs: torch.Tensor, targets: torch.Tensor, input_lengths: torch.Tensor, target_lengths: torch.Tensor,
    blank: int = 0, reduction: int = MEAN, zero_infinity: bool = False,
) -> torch.Tensor:  # fmt: skip
    """torch.ctc_loss for lengths as tensors, which PyTorch's own composition reads on the host."""
    batched = log_probs if log_probs.dim() == 3 else log_probs.unsqueeze(1)
    rows = targets if log_probs.dim() == 3 or targets.dim() == 2 else targets.unsqueeze(0)
    lengths = target_lengths.to(log_probs.device).reshape(-1)
    loss, _ = torch._ctc_loss(batched, rows, input_lengths.reshape(-1), lengths, blank, zero_infinity)
    if zero_infinity:
        loss = torch.where(loss == float("inf"), torch.zeros_like(loss), loss)
    if reduction == MEAN:
        return (loss / lengths.clamp(min=1).to(loss.dtype)).mean()
    if reduction == SUM:
        return loss.sum()
    return loss if log_probs.dim() == 3 else loss.squeeze(0)


@aten("_ctc_loss_backward", "_ctc_loss_backward.Tensor")
def ctc_loss_backward(
    grad: torch.Tensor, log_probs: torch.Tensor, targets: torch.Tensor, input_lengths: Lengths,
    target_lengths: Lengths, neg_log_likelihood: torch.Tensor, log_alpha: torch.Tensor, blank: int,
    zero_infinity: bool = False,
) -> torch.Tensor:  # fmt: skip
    """exp(log p) less the share of each class on the paths that fit, weighted by `grad`."""
    device = log_probs.device
    steps, _ = _counts(input_lengths, device)
    n_labels, longest = _counts(target_lengths, device)
    labels = _labels(targets, n_labels, longest, blank)
    n, width = labels.shape
    lowest = torch.full((n, width), LOWEST, dtype=log_probs.dtype, device=device)
    skips = torch.cat((_skips(labels)[:, 2:], torch.zeros((n, min(2, width)), dtype=torch.bool, device=device)), 1)
    place = torch.arange(width, device=device).unsqueeze(0)
    ends = 2 * n_labels.unsqueeze(1)
    finishes = (place == ends) | (place == ends - 1)
    last = (steps - 1).unsqueeze(1)
    beta, out = lowest, []
    for t in reversed(range(log_probs.shape[0])):
        here = log_probs[t].gather(1, labels)
        jumped = torch.where(skips[:, :width], _shifted(beta, -2), lowest)
        onward = _log_sum(beta, _shifted(beta, -1), jumped) + here
        beta = torch.where(last == t, torch.where(finishes, here, lowest), onward)
        out.append(_gradient_at(log_probs[t], log_alpha[:, t, :width] + beta, labels, neg_log_likelihood, last >= t))
    found = torch.stack(out[::-1]) * grad.reshape(1, -1, 1)
    if zero_infinity:
        dead = (neg_log_likelihood == float("inf")).reshape(1, -1, 1)
        found = torch.where(dead, torch.zeros_like(found), found)
    return found


def _gradient_at(
    log_p: torch.Tensor, through: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor, active: Any
) -> torch.Tensor:
    """One time step: [N, C] from log(alpha beta) by place."""
    top = through.amax(1, keepdim=True)
    base = torch.where(top == LOWEST, torch.zeros_like(top), top)
    by_class = torch.zeros_like(log_p).scatter_add(1, labels, (through - base).exp())
    passing = by_class.log() + base
    found = log_p.exp() - (passing + loss.unsqueeze(1) - log_p).exp()
    return torch.where(active, found, torch.zeros_like(found))


__all__ = ["loss_of_counts"]
