"""Training runs: losses follow the CPU's for every task, optimizer and precision, with no host route."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from mtia.errors import BadProblem
from mtia.report import train_command
from mtia.training.loop import OPTIMIZERS, Options, TrainingRun, train
from mtia.training.optimizers import Shampoo
from mtia.training.parts import GAPS


def beside_the_cpu(options: Options, rtol: float) -> TrainingRun:
    run, cpu = train(options), train(replace(options, device="cpu"))
    assert run.losses == pytest.approx(cpu.losses, rel=rtol)
    assert run.fallbacks == {}
    return run


def test_dlrm_step_has_its_parts():
    run = beside_the_cpu(Options(task="dlrm", steps=2, batch=256), 1e-5)
    step = run.mean_step
    assert {"embedding", "bottom MLP", "interaction", "top MLP", "embedding backward", "optimiser, embedding rows",
            "optimiser, dense", GAPS} <= set(step.parts)  # fmt: skip
    assert abs(sum(p.time_fs for p in step.parts.values()) - step.time_fs) <= len(step.parts)  # rounded means
    assert run.steps[-1].parts["optimiser, embedding rows"].n_calls == 1  # one fused kernel
    assert step.energy_j > 0
    assert 0.5 < run.metrics["test_auc"] < 1


@pytest.mark.parametrize("task, optimizer", [
    ("gpt2", "adamw"), ("llama", "sgd"), ("bert", "rowwise-adagrad"), ("vit", "shampoo"),
])  # fmt: skip
def test_transformers(task: str, optimizer: str):
    """Each model and each optimizer once; a whole table is `mtia train TASK --optimizer NAME --compare-cpu`."""
    beside_the_cpu(Options(task=task, optimizer=optimizer, steps=2, batch=2), 2e-4)


@pytest.mark.parametrize("task, dtype", [("dlrm", "bfloat16"), ("dlrm", "float16"), ("gpt2", "float16")])
def test_mixed_precision(task: str, dtype: str):
    """Autocast on both sides; a product rounded once more or less shows at the type's precision."""
    beside_the_cpu(Options(task=task, dtype=dtype, steps=2, batch=8), 1e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_lower_a_loss(name: str):
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 4)
    x, y = torch.randn(32, 6), torch.randn(32, 4)
    optimizer = OPTIMIZERS[name](model.parameters(), 0.02)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_shampoo_by_hand():
    """A gradient U diag(s) V^T becomes a multiple of U V^T (all singular values alike), as long as Adagrad's step."""
    u, v = torch.linalg.qr(torch.randn(3, 3))[0], torch.linalg.qr(torch.randn(3, 3))[0]
    gradient = u @ torch.diag(torch.tensor([3.0, 2.0, 1.0])) @ v.T
    weight = torch.nn.Parameter(torch.zeros(3, 3))
    weight.grad = gradient
    Shampoo([weight], lr=1.0, damping=0.0).step()
    torch.testing.assert_close(-weight.detach(), u @ v.T * (3 / 3**0.5), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("place", ["cpu", "mtia"])
def test_shampoo_on_the_device(place: str):
    torch.manual_seed(1)
    start, gradients = torch.randn(4, 6), torch.randn(3, 4, 6)

    def trained(device: str, roots_on: str) -> torch.Tensor:
        weight = torch.nn.Parameter(start.to(device))
        optimizer = Shampoo([weight], lr=0.1, every=2, roots_on=roots_on)
        for gradient in gradients:
            weight.grad = gradient.to(device)
            optimizer.step()
        return weight.detach().cpu()

    torch.testing.assert_close(trained("mtia", place), trained("cpu", "cpu"), atol=1e-4, rtol=1e-3)


def test_an_unknown_task_is_named():
    with pytest.raises(BadProblem, match=r"task = 'gpt3'; one of dlrm, gpt2, llama, bert, vit Did you mean 'gpt2'\?"):
        train(Options(task="gpt3"))


def test_command():
    words = ["gpt2", "--steps", "1", "--batch", "2", "--compare-cpu", "--chip", "mtia400"]
    done = CliRunner().invoke(train_command.app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["chip"] == "mtia400" and document["losses"] == pytest.approx(document["cpu"]["losses"], rel=1e-5)
    assert sum(p["time_s"] for p in document["parts"].values()) == pytest.approx(document["step_time_s"])
    assert "step 1/1 loss" in done.stderr
    table = CliRunner().invoke(train_command.app, words).stdout
    assert "relative difference" in table and "attention backward" in table and "launch gaps" in table
