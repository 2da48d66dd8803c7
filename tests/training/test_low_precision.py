"""DLRM with FP8 and MX8S products learns as it does in float32, on the host's definition and on the device."""

from __future__ import annotations

from statistics import mean

import pytest
import torch

import mtia
from mtia.quantization.training import TrainedLinear, train_in
from mtia.training.optimizers import RowwiseAdagrad
from mtia.training.tasks import RatingTask

BATCH = 256


def losses(products: str, device: str, steps: int) -> list[float]:
    task = RatingTask(0)
    task.row_gradients = device == "mtia"
    torch.manual_seed(0)
    model = task.model()
    if products != "float32":
        model = train_in(model, products)
        assert sum(isinstance(m, TrainedLinear) for m in model.modules()) == 5  # two MLPs
    model = model.to(device)
    tables = [p for name, p in model.named_parameters() if name.startswith("embeddings.")]
    dense = [p for name, p in model.named_parameters() if not name.startswith("embeddings.")]
    table_rate, rate = task.learning_rate["rowwise-adagrad"], task.learning_rate["adagrad"]
    optimizers = [(RowwiseAdagrad if device == "mtia" else torch.optim.Adagrad)(tables, lr=table_rate),
                  torch.optim.Adagrad(dense, lr=rate)]  # fmt: skip
    found = []
    for step in range(steps):
        loss = task.loss(model, tuple(t.to(device) for t in task.inputs(task.samples[step * BATCH :][:BATCH])))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("products", ["fp8", "mx8s"])
def test_the_curve_lies_beside_float32s(products: str) -> None:
    exact, low = losses("float32", "cpu", 12), losses(products, "cpu", 12)
    assert exact != low
    learned, apart = exact[0] - mean(exact[6:]), abs(mean(exact[6:]) - mean(low[6:]))
    assert apart < learned / 4


@pytest.mark.parametrize("products", ["fp8", "mx8s"])
def test_the_device_takes_the_hosts_first_step(products: str) -> None:
    before = mtia.host_fallbacks()
    with mtia.use("mtia400"):
        (got,) = losses(products, "mtia", 1)
    (expected,) = losses(products, "cpu", 1)
    assert got == pytest.approx(expected, rel=1e-4)
    assert mtia.host_fallbacks() == before
