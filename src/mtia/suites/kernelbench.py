"""KernelBench's problems as pytest cases: the module on the device against the CPU. (Run by `mtia suite`.)

The stated shapes are for a GPU. Values are compared at shapes that the simulator computes in seconds: the problem's
own integer constants, the large ones divided by the smallest power of two at which its CPU result costs little and
exists. At the stated shapes the problem runs with values off: it must be launched whole, without the host, and its
simulated time is what the journal keeps.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mtia import knobs
from mtia.suites.plugin import SOURCE

SEED = 2026
MOST_ELEMENTS = 1 << 20  # of the inputs and parameters of a case whose values are computed
KEPT_BELOW = 9  # an integer this small is a rank, a stride, a number of groups: it stays
MOST_SHRINK = 256


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.stash[SOURCE] / "KernelBench"
    problems = sorted(folder.glob("level[0-9]/*.py"), key=lambda p: (p.parent.name, int(p.stem.partition("_")[0])))
    metafunc.parametrize("problem", problems, ids=lambda path: f"{path.parent.name}/{path.stem}")


def test_values(problem: Path) -> None:
    """Small shapes: the device gives what the CPU gives."""
    module = _small(problem)
    expected, got = (_result(module, device) for device in ("cpu", "mtia"))
    torch.testing.assert_close(_plain(got), _plain(expected), rtol=1e-3, atol=1e-4)


def test_time(problem: Path) -> None:
    """Stated shapes, values off: the whole problem is launched."""
    module = _loaded(problem, 1)
    with knobs.scope(values=False), torch.device("mtia"), torch.no_grad():
        model = module.Model(*module.get_init_inputs())
        inputs = [x.to("mtia") if isinstance(x, torch.Tensor) else x for x in module.get_inputs()]
        model(*inputs)


def _small(problem: Path) -> ModuleType:
    """The problem with the largest shapes that are cheap; skips where no division of its constants leaves it sound."""
    why = ""
    for shrink in _powers_of_2(MOST_SHRINK):
        module = _loaded(problem, shrink)
        try:
            with torch.device("meta"):
                tensors = [*module.get_inputs(), *module.Model(*module.get_init_inputs()).parameters()]
            if sum(t.numel() for t in tensors if isinstance(t, torch.Tensor)) > MOST_ELEMENTS:
                continue
            _result(module, "cpu")
        except Exception as error:  # these shapes do not fit each other: others may
            why = str(error)
            continue
        return module
    pytest.skip(f"no small shapes: {why or 'its constants are not in the file'}")


def _powers_of_2(most: int) -> Iterator[int]:
    factor = 1
    while factor <= most:
        yield factor
        factor *= 2


class _Divide(ast.NodeTransformer):
    """Divides the integers of assignments at the top of a module, where they are large and even enough."""

    def __init__(self, by: int) -> None:
        self.by = by

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if type(node.value) is int and node.value >= KEPT_BELOW:
            return ast.copy_location(ast.Constant(max(KEPT_BELOW - 1, node.value // self.by)), node)
        return node


def _loaded(problem: Path, shrink: int) -> ModuleType:
    tree = ast.parse(problem.read_text(encoding="utf-8"))
    tree.body = [_Divide(shrink).visit(n) if isinstance(n, ast.Assign) and shrink > 1 else n for n in tree.body]
    module = ModuleType(problem.stem)
    exec(compile(ast.fix_missing_locations(tree), str(problem), "exec"), module.__dict__)
    return module


def _result(module: ModuleType, device: str) -> Any:
    """The model and its inputs are made on the CPU from one seed, then moved. Nothing is dropped out."""
    torch.manual_seed(SEED)
    model = module.Model(*module.get_init_inputs()).to(device)
    for layer in model.modules():  # which elements are dropped is each device's own affair
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    inputs = [x.to(device) if isinstance(x, torch.Tensor) else x for x in module.get_inputs()]
    torch.manual_seed(SEED)
    with torch.no_grad():
        return model(*inputs)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    return [_plain(x) for x in value] if isinstance(value, list | tuple) else value
