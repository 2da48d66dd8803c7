"""DLRM (Naumov et al., 2019): embedding tables, a bottom MLP for what is dense, dot products between all, a top MLP.

B samples, T tables, D width of a row, F = T + 1 vectors that interact.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from mtia.training.embeddings import TableBatchedEmbeddingBags


class EmbeddingBags(nn.Module):
    """The same as TableBatchedEmbeddingBags, with an `nn.EmbeddingBag` a table."""

    def __init__(self, n_rows: Sequence[int], dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(n, dim, mode="sum", include_last_offset=True) for n in n_rows)

    def forward(self, indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Pooled rows [B, T, D]; the host reads where each table's lookups start."""
        T = len(self.tables)
        B = (offsets.numel() - 1) // T
        starts = offsets[::B].tolist()
        pooled = [
            table(indices[starts[t] : starts[t + 1]], offsets[t * B : (t + 1) * B + 1] - starts[t])
            for t, table in enumerate(self.tables)
        ]
        return torch.stack(pooled, 1)


class DotInteraction(nn.Module):
    """The dot product of every pair of F vectors, after the first of them: [B, D + F (F - 1) / 2]."""

    def __init__(self, n_vectors: int) -> None:
        super().__init__()
        first, second = torch.tril_indices(n_vectors, n_vectors, -1)
        self.pairs: torch.Tensor
        self.register_buffer("pairs", first * n_vectors + second, persistent=False)

    def forward(self, dense_BD: torch.Tensor, pooled_BTD: torch.Tensor) -> torch.Tensor:
        vectors_BFD = torch.cat([dense_BD.unsqueeze(1), pooled_BTD.to(dense_BD.dtype)], 1)
        dots_BFF = torch.bmm(vectors_BFD, vectors_BFD.transpose(1, 2))
        return torch.cat([dense_BD, dots_BFF.flatten(1).index_select(1, self.pairs).to(dense_BD.dtype)], 1)


class DLRM(nn.Module):
    """Logits [B] from dense [B, n_dense] and lookups. `batched`: one table-batched module, else one nn.EmbeddingBag a
    table; both are plain modules that run on any device."""

    def __init__(
        self, n_rows: Sequence[int], n_dense: int, *, dim: int = 32, bottom: Sequence[int] = (64,),
        top: Sequence[int] = (128, 64), batched: bool = True, row_gradients: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        n_vectors = len(n_rows) + 1
        self.embeddings: nn.Module = (
            TableBatchedEmbeddingBags(n_rows, dim, row_gradients=row_gradients)
            if batched
            else EmbeddingBags(n_rows, dim)
        )
        self.bottom = mlp([n_dense, *bottom, dim], last=nn.ReLU())
        self.interaction = DotInteraction(n_vectors)
        self.top = mlp([dim + n_vectors * (n_vectors - 1) // 2, *top, 1], last=nn.Identity())

    def forward(self, dense: torch.Tensor, indices: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.top(self.interaction(self.bottom(dense), self.embeddings(indices, offsets))).squeeze(1)


def mlp(sizes: Sequence[int], *, last: nn.Module) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


def auc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Area under the ROC curve: how often a liked film scores above a disliked one, ties counted half. NaN where the
    labels are all alike."""
    values, place = torch.unique(scores.double(), return_inverse=True)
    counts = torch.bincount(place, minlength=values.numel()).double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]
    liked = labels > 0
    n_liked, n_other = int(liked.sum()), int((~liked).sum())
    if not n_liked or not n_other:
        return float("nan")
    return float((ranks[liked].sum() - n_liked * (n_liked + 1) / 2) / (n_liked * n_other))


__all__ = ["DLRM", "DotInteraction", "EmbeddingBags", "auc", "mlp"]
