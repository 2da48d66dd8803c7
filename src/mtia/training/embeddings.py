"""Table-batched embedding bags: all tables of a model in one lookup, forward and backward.

`torch.ops.mtia.embedding_lists(weight, indices, offsets, first_rows)` is differentiable on cpu and mtia, with a dense
gradient. On the device a module may keep the gradient of the rows that were hit instead (`row_gradients`): it waits in
`weight.row_gradient` for an optimizer that updates those rows alone (optimizers.RowwiseAdagrad).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mtia.errors import BadProblem
from mtia.kernels import embedding_rows as rows


@torch.library.custom_op("mtia::embedding_lists", mutates_args=(), device_types="mtia")
def embedding_lists(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first_rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled rows [B, T, D] of weight [rows, D] and, for the backward, int64 [N]: row << 32 | gradient row b * T + t.

    indices int64 [N] table by table, bag by bag, within offsets int64 [T * B + 1]; table t starts at first_rows[t].
    """
    found = rows.embedding_lists(weight, indices, offsets, first_rows, bags=offsets.numel() - 1)
    return found.out, found.lookups


@embedding_lists.register_kernel("cpu")
def _on_cpu(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first_rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    T, bags = first_rows.numel(), offsets.numel() - 1
    B = bags // T
    bag = torch.arange(bags).repeat_interleave(offsets.diff())
    row = indices + first_rows[bag // B]
    pooled = torch.nn.functional.embedding_bag(row, weight, offsets, mode="sum", include_last_offset=True)
    return pooled.view(T, B, -1).transpose(0, 1).contiguous(), row << 32 | (bag % B * T + bag // B)


@embedding_lists.register_fake
def _shapes(
    weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first_rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    T = first_rows.shape[0]
    return weight.new_empty(((offsets.shape[0] - 1) // T, T, weight.shape[1])), torch.empty_like(indices)


@torch.library.custom_op("mtia::embedding_lists_backward", mutates_args=(), device_types="mtia")
def embedding_lists_backward(grad: torch.Tensor, lookups: torch.Tensor, n_rows: int) -> torch.Tensor:
    """The dense gradient [n_rows, D] of `embedding_lists`, summed in sorted order."""
    out = torch.zeros((n_rows, grad.shape[-1]), dtype=grad.dtype, device=grad.device)
    return rows.store_rows(rows.row_gradient(lookups, grad.reshape(-1, grad.shape[-1])), out)


@embedding_lists_backward.register_kernel("cpu")
def _backward_on_cpu(grad: torch.Tensor, lookups: torch.Tensor, n_rows: int) -> torch.Tensor:
    flat = grad.reshape(-1, grad.shape[-1])
    out = torch.zeros((n_rows, flat.shape[1]), dtype=grad.dtype)
    return out.index_add(0, lookups >> 32, flat[lookups & 0xFFFFFFFF])


@embedding_lists_backward.register_fake
def _backward_shapes(grad: torch.Tensor, lookups: torch.Tensor, n_rows: int) -> torch.Tensor:
    return grad.new_empty((n_rows, grad.shape[-1]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.n_rows = inputs[0].shape[0]
    ctx.mark_non_differentiable(output[1])


def _dense(ctx: Any, grad: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    (lookups,) = ctx.saved_tensors
    return torch.ops.mtia.embedding_lists_backward(grad, lookups, ctx.n_rows), None, None, None


embedding_lists.register_autograd(_dense, setup_context=_keep)


class _RowGradients(torch.autograd.Function):
    """`embedding_lists` whose backward leaves the gradient of the rows hit in `weight.row_gradient`."""

    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor, first: torch.Tensor
    ) -> torch.Tensor:
        found = rows.embedding_lists(weight, indices, offsets, first, bags=offsets.numel() - 1)
        ctx.save_for_backward(found.lookups)
        ctx.weight = weight
        return found.out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, ...]:
        (grad,) = grads
        (lookups,) = ctx.saved_tensors
        if getattr(ctx.weight, "row_gradient", None) is not None:
            raise BadProblem(
                "row gradient of an embedding", argument="backward", value="a second one before a step",
                allowed="step (or zero_grad) between two, or use row_gradients=False to accumulate",
            )  # fmt: skip
        ctx.weight.row_gradient = rows.row_gradient(lookups, grad.reshape(-1, grad.shape[-1]))
        return None, None, None, None


class TableBatchedEmbeddingBags(nn.Module):
    """T tables of `n_rows[t]` rows of `dim`, side by side in one weight; sums rows by bag.

    `row_gradients`: on mtia, backward keeps the rows that were hit, for RowwiseAdagrad; any other optimizer needs
    False. On other devices the gradient is dense.
    """

    def __init__(self, n_rows: Sequence[int], dim: int, *, row_gradients: bool = True) -> None:
        super().__init__()
        self.n_rows, self.dim, self.row_gradients = tuple(n_rows), dim, row_gradients
        bounds = torch.cat([torch.full((n, 1), n**-0.5) for n in n_rows])
        self.weight = nn.Parameter((2 * torch.rand(sum(n_rows), dim) - 1) * bounds)
        self.first_rows: torch.Tensor
        self.register_buffer("first_rows", torch.tensor([0, *n_rows[:-1]]).cumsum(0), persistent=False)

    def forward(self, indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pooled rows [B, T, dim]; indices int64 [N] table by table, bag by bag, offsets int64 [T * B + 1]."""
        if self.row_gradients and self.weight.device.type == "mtia" and torch.is_grad_enabled():
            pooled = _RowGradients.apply(self.weight, indices, offsets, self.first_rows)
            assert isinstance(pooled, torch.Tensor)
            return pooled
        return torch.ops.mtia.embedding_lists(self.weight, indices, offsets, self.first_rows)[0]

    def extra_repr(self) -> str:
        return f"n_rows={self.n_rows}, dim={self.dim}, row_gradients={self.row_gradients}"


__all__ = ["TableBatchedEmbeddingBags", "embedding_lists", "embedding_lists_backward"]
