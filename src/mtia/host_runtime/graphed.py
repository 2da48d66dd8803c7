"""A function on the device as a graph: captured once, replayed with one enqueue by the host.

    step = mtia.graphed(torch.compile(model), example)
    y = step(x)                       # x is copied to where the graph reads it; y is overwritten by the next call

Inductor's own graphs (`mode="reduce-overhead"`) are written for CUDA and left out on other devices: that mode compiles
as the default one does. This is the route on mtia. Without gradients: a backward pass is not captured.
"""

from __future__ import annotations

from collections.abc import Callable
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


__all__ = ["GraphedInput", "graphed"]
