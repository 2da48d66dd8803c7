"""TorchRec's EmbeddingBagCollection, unmodified, where torchrec and fbgemm-gpu-cpu are installed (docs/training.md)."""

from __future__ import annotations

import copy

import pytest
import torch

import mtia


def test_embedding_bag_collection() -> None:
    torchrec = pytest.importorskip("torchrec", reason="torchrec is not installed", exc_type=ImportError)
    from mtia.training.torchrec import register

    register()
    tables = [
        torchrec.EmbeddingBagConfig(name=f"{f}s", embedding_dim=8, num_embeddings=n, feature_names=[f])
        for f, n in (("user", 20), ("genre", 30))
    ]

    def lists(device: str):
        return torchrec.KeyedJaggedTensor.from_lengths_sync(
            keys=["user", "genre"], values=torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 0], device=device),
            lengths=torch.tensor([1, 1, 1, 2, 0, 4], device=device))  # fmt: skip

    host = torchrec.EmbeddingBagCollection(device=torch.device("cpu"), tables=tables)
    device = copy.deepcopy(host).to("mtia")
    before = mtia.host_fallbacks()
    expected, got = host(lists("cpu")).values(), device(lists("mtia")).values()
    torch.testing.assert_close(got.detach().cpu(), expected.detach())
    expected.square().sum().backward()
    got.square().sum().backward()
    for p, q in zip(device.parameters(), host.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(p.grad.cpu(), q.grad)
    assert mtia.host_fallbacks() == before
