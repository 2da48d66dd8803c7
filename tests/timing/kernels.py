"""Launches of real kernels for the laws: what PyTorch operators launch, recorded once with values off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F

from mtia import knobs
from mtia.chips import ChipSpec
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.tracer import trace_launch
from mtia.engine.trace import Trace
from mtia.host_runtime import launch, silicon
from mtia.kernels.weight_stationary import launch_arguments, mtia_fc_weight_stationary
from mtia.program.program import TileProgram


@dataclass(frozen=True)
class Recorded:
    """One launch, held so that it can be timed again; arguments are addresses and numbers."""

    program: TileProgram
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    tensors: tuple[torch.Tensor, ...]

    def trace(self, spec: ChipSpec) -> Trace:
        site = launch.site_of(self.program, spec)
        return trace_launch(Launch(program=site.program, grid=self.grid, arguments=list(self.arguments)))


def _new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="mtia")


OPERATORS: dict[str, Callable[[], Any]] = {
    "add": lambda: torch.add(_new(300, 1000), _new(300, 1000)),
    "transposed copy": lambda: _new(256, 384).t().contiguous(),
    "softmax": lambda: torch.softmax(_new(200, 300), -1),
    "sum": lambda: _new(256, 1024, dtype=torch.float32).sum(1),
    "matmul": lambda: torch.mm(_new(512, 512), _new(512, 512)),
    "uneven matmul": lambda: torch.mm(_new(200, 320), _new(320, 130)),
    "vector matrix": lambda: torch.mm(_new(1, 512), _new(512, 1024)),
    "batched matmul": lambda: torch.bmm(_new(6, 64, 96), _new(6, 96, 64)),
    "layer norm": lambda: F.layer_norm(_new(128, 768), (768,)),
}


def record(name: str, chip: str = "mtia200") -> Recorded:
    """The last launch of the operator, with the tiling that `chip` chooses."""
    return _record(name, chip)


@cache
def _record(name: str, chip: str) -> Recorded:
    torch.mtia.init()
    with knobs.scope(values=False), silicon.use(chip) as spec:
        if name == "fc":
            return _fully_connected(spec)
        seen: list[tuple[TileProgram, tuple[int, int, int], Sequence[Any]]] = []
        plain = launch.launch_now

        def spy(program: TileProgram, grid: tuple[int, int, int], arguments: Sequence[Any], *rest: Any) -> None:
            seen.append((program, grid, list(arguments)))
            plain(program, grid, arguments, *rest)

        launch.launch_now = spy
        try:
            OPERATORS[name]()
        finally:
            launch.launch_now = plain
    program, grid, arguments = seen[-1]
    return _recorded(program, grid, arguments)


def _fully_connected(spec: ChipSpec) -> Recorded:
    x, w = _new(128, 512, dtype=torch.float16), _new(512, 512, dtype=torch.float16)
    grid, arguments, constants = launch_arguments(x, w, _new(128, 512, dtype=torch.float32), spec)
    program = launch.compile_kernel(mtia_fc_weight_stationary, arguments, constants)
    return _recorded(program, grid, arguments)


def _recorded(program: TileProgram, grid: tuple[int, int, int], arguments: Sequence[Any]) -> Recorded:
    tensors = tuple(a for a in arguments if isinstance(a, torch.Tensor))
    plain = tuple(a.data_ptr() if isinstance(a, torch.Tensor) else a for a in arguments)
    return Recorded(program, grid, plain, tensors)


NAMES = (*OPERATORS, "fc")
