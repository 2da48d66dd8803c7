"""Table-batched embedding bags as a module: one lookup on every device, dense gradients or rows that were hit."""

from __future__ import annotations

import copy

import pytest
import torch

from mtia.errors import BadProblem
from mtia.training import movielens
from mtia.training.dlrm import DLRM, EmbeddingBags
from mtia.training.embeddings import TableBatchedEmbeddingBags
from mtia.training.optimizers import RowwiseAdagrad

ROWS, DIM = (6, 11, 3), 8


def lookups(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(batch)
    sizes = torch.randint(0, 4, (len(ROWS) * batch,), generator=random)
    each = [torch.randint(0, n, (int(s.sum()),), generator=random) for n, s in zip(ROWS, sizes.split(batch))]
    return torch.cat(each), torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])


def as_bags(tables: TableBatchedEmbeddingBags) -> EmbeddingBags:
    """The same weights, an nn.EmbeddingBag a table."""
    bags = EmbeddingBags(tables.n_rows, tables.dim)
    for table, weight in zip(bags.tables, tables.weight.detach().split(tables.n_rows)):
        table.load_state_dict({"weight": weight})
    return bags


@pytest.mark.parametrize("device", ["cpu", "mtia"])
def test_values_and_gradients_are_those_of_embedding_bags(device: str):
    torch.manual_seed(0)
    tables = TableBatchedEmbeddingBags(ROWS, DIM, row_gradients=False)
    bags, (indices, offsets) = as_bags(tables), lookups(13)
    tables = tables.to(device)
    got, expected = tables(indices.to(device), offsets.to(device)), bags(indices, offsets)
    torch.testing.assert_close(got.detach().cpu(), expected.detach())
    upstream = torch.randn_like(expected)
    expected.backward(upstream)
    got.backward(upstream.to(device))
    assert tables.weight.grad is not None
    want = torch.cat([t.weight.grad for t in bags.tables])  # type: ignore[misc]
    torch.testing.assert_close(tables.weight.grad.cpu(), want)


def test_the_operator_is_what_pytorch_asks_of_one():
    weight, (indices, offsets) = torch.randn(sum(ROWS), DIM, requires_grad=True), lookups(4)
    first = torch.tensor([0, *ROWS[:-1]]).cumsum(0)
    torch.library.opcheck(torch.ops.mtia.embedding_lists, (weight, indices, offsets, first))


def test_it_compiles_without_a_break():
    tables, (indices, offsets) = TableBatchedEmbeddingBags(ROWS, DIM, row_gradients=False), lookups(5)
    compiled = torch.compile(tables, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(indices, offsets), tables(indices, offsets))


def test_row_gradients_train_as_dense_ones_do():
    torch.manual_seed(1)
    host = TableBatchedEmbeddingBags(ROWS, DIM)
    device = copy.deepcopy(host).to("mtia")
    for module, on in ((host, "cpu"), (device, "mtia")):
        optimizer = RowwiseAdagrad(module.parameters(), lr=0.1)
        for batch in (3, 20, 7):
            indices, offsets = lookups(batch)
            module(indices.to(on), offsets.to(on)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert device.weight.grad is None
    torch.testing.assert_close(device.weight.detach().cpu(), host.weight.detach(), atol=1e-5, rtol=1e-5)


def test_a_second_backward_before_a_step_is_refused():
    tables = TableBatchedEmbeddingBags(ROWS, DIM).to("mtia")
    indices, offsets = (t.to("mtia") for t in lookups(2))
    tables(indices, offsets).sum().backward()
    with pytest.raises(BadProblem, match=r"a second one before a step.*row_gradients=False"):
        tables(indices, offsets).sum().backward()
    RowwiseAdagrad(tables.parameters()).zero_grad()
    tables(indices, offsets).sum().backward()


def test_dlrm_with_plain_embedding_bags():
    """What a user writes without a module of ours: the same logits, and gradients on the device."""
    torch.manual_seed(2)
    data = movielens.load()
    batched = DLRM(data.rows, 3)
    plain = DLRM(data.rows, 3, batched=False)
    assert isinstance(batched.embeddings, TableBatchedEmbeddingBags)
    plain.load_state_dict(batched.state_dict(), strict=False)
    plain.embeddings = as_bags(batched.embeddings)
    batch = data.batch(torch.arange(40))
    expected = batched(*batch[:3])
    model, moved = plain.to("mtia"), batch.to("mtia")
    got = model(*moved[:3])
    torch.testing.assert_close(got.detach().cpu(), expected.detach(), atol=1e-5, rtol=1e-4)
    torch.nn.functional.binary_cross_entropy_with_logits(got, moved.labels).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
