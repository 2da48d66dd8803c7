"""A function on the device as a graph: captured once, replayed with one enqueue by the host.

    step = mtia.graphed(torch.compile(model), example)
    y = step(x)                       # x is copied to where the graph reads it; y is overwritten by the next call

Inductor's own graphs (`mode="reduce-overhead"`, `"max-autotune"`) are left out on every device but CUDA: PyTorch 2.13
records them where the one device is "cuda" (`_inductor/cudagraph_utils.py`) and says nothing elsewhere. Those modes
compile here as they do without graphs, with a warning once; this is the route on mtia. Without gradients: a backward
pass is not captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from mtia.errors import MtiaError


class GraphedInput(MtiaError, ValueError):
    """A replay was given something else than the graph was captured with."""

    def __init__(self, position: int, *, got: str, captured: str) -> None:
        super().__init__(
            f"graphed function: argument {position} is {got}, captured with {captured}. A graph repeats its launches "
            f"as they were; capture another one with mtia.graphed(function, *examples) for other shapes."
        )
        self.position, self.got, self.captured = position, got, captured


class GraphsLeftOut(UserWarning):
    """A mode of torch.compile asked for graphs that Inductor records on CUDA alone."""


@cache
def say_graphs_left_out() -> None:
    """Warn, once a process, that Inductor recorded no graph."""
    warnings.warn(
        'torch.compile was asked for graphs (mode="reduce-overhead", "max-autotune" or triton.cudagraphs), which '
        "PyTorch 2.13 records on CUDA alone: the compiled code is submitted launch by launch. On mtia, "
        "step = mtia.graphed(torch.compile(model), example) submits it as one graph, without gradients.",
        GraphsLeftOut,
        stacklevel=2,
    )


def graphed(function: Callable[..., Any], *examples: torch.Tensor) -> Callable[..., Any]:
    """`function(*examples)` captured in a `torch.mtia.MTIAGraph`; the result replays it on tensors like `examples`.

    The function runs once before capture, so that what compiles or allocates at first use does it there. It must not
    ask for values on the host (GraphError). What it returns stays where it is: copy what must outlive the next call.
    Raises GraphedInput on tensors of another shape, dtype or device.
    """
    static = [example.detach().clone() for example in examples]
    with torch.no_grad():
        function(*static)
        torch.mtia.synchronize()
        graph = torch.mtia.MTIAGraph()
        with torch.mtia.graph(graph):
            answer = function(*static)

    def replay(*arguments: torch.Tensor) -> Any:
        if len(arguments) != len(static):
            raise GraphedInput(len(arguments), got="missing or too much", captured=f"{len(static)} arguments")
        for position, (held, given) in enumerate(zip(static, arguments)):
            if _kind(held) != _kind(given):
                raise GraphedInput(position, got=_kind(given), captured=_kind(held))
            held.copy_(given)
        graph.replay()
        return answer

    return replay


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)} on {tensor.device}"


__all__ = ["GraphedInput", "GraphsLeftOut", "graphed", "say_graphs_left_out"]
