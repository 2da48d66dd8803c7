"""Graphs: launches recorded on a stream and submitted again, with one enqueue by the host.

While a stream captures, launches are recorded and not run: `launch.py` asks `capturing(device, stream)` and, where
there is a graph, hands it a callable that does the launch. Memory allocated during capture belongs to the graph's pool
and keeps its addresses until the pool is released.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from mtia import _C
from mtia.errors import MtiaError
from mtia.host_runtime.clock import clock


class GraphError(MtiaError, RuntimeError):
    """A graph was used out of order, or something that cannot be captured was asked for."""


@dataclass(slots=True)
class Graph:
    """One graph. `nodes`: (name, callable) in submission order."""

    handle: int
    pool: int = 0
    device: int = 0
    stream: int = 0
    is_capturing: bool = False
    is_debugged: bool = False
    nodes: list[tuple[str, Callable[[], object]]] = field(default_factory=list)

    def add(self, name: str, launch: Callable[[], object]) -> None:
        self.nodes.append((name, launch))


_graphs: dict[int, Graph] = {}
_handles = count(1)
_pools = count(1)
_users_of_pool: dict[int, set[int]] = {}
_active: Graph | None = None


def capturing(device: int, stream: int) -> Graph | None:
    """The graph that records this stream, if any."""
    if _active is not None and (_active.device, _active.stream) == (device, stream):
        return _active
    return None


def pool_being_filled(device: int) -> int:
    """The memory pool of the graph that a stream of this device captures, 0 where none does."""
    return _active.pool if _active is not None and _active.device == device else 0


def refuse_in_capture(what: str) -> None:
    """Raise where work that a replay could not repeat is asked for while a stream captures."""
    if _active is not None:
        raise GraphError(
            f"{what} cannot be captured in a graph: it needs the host. Do it before torch.mtia.graph(...), on tensors "
            f"that the graph then reads."
        )


def create(keep_graph: int = 0) -> int:
    handle = next(_handles)
    _graphs[handle] = Graph(handle)
    return handle


def new_pool() -> int:
    return next(_pools)


def capture_begin(handle: int, pool_first: int, pool_second: int, device: int, stream: int) -> None:
    global _active
    graph = _graph(handle)
    if _active is not None:
        raise GraphError("a graph is being captured already; end that capture first")
    if graph.nodes:
        raise GraphError("this graph holds a capture already; reset() it before capturing again")
    graph.pool = pool_second or pool_first or new_pool()
    graph.device, graph.stream, graph.is_capturing = device, stream, True
    _users_of_pool.setdefault(graph.pool, set()).add(handle)
    _active = graph
    _C.set_pool(device, graph.pool)
    _C.set_capturing(True)


def capture_end(handle: int) -> None:
    global _active
    graph = _graph(handle)
    if not graph.is_capturing:
        raise GraphError("capture_end() without capture_begin()")
    graph.is_capturing = False
    _active = None
    _C.set_pool(graph.device, 0)
    _C.set_capturing(False)


def instantiate(handle: int) -> None:
    """Nothing to prepare: nodes hold compiled programs."""
    if _graph(handle).is_capturing:
        raise GraphError("instantiate() while capturing; call capture_end() first")


def replay(handle: int, device: int, stream: int) -> None:
    """Submit all nodes again, one enqueue for the host."""
    graph = _graph(handle)
    if graph.is_capturing:
        raise GraphError("replay() while capturing; call capture_end() first")
    with clock().replaying((graph.device, graph.stream), (device, stream)):
        for _, launch in graph.nodes:
            launch()


def reset(handle: int) -> None:
    graph = _graph(handle)
    if graph.is_capturing:
        capture_end(handle)
    graph.nodes.clear()
    _leave_pool(graph)


def destroy(handle: int) -> None:
    if handle in _graphs:
        reset(handle)
        del _graphs[handle]


def pool_of(handle: int) -> int:
    return _graph(handle).pool


def enable_debug(handle: int) -> None:
    _graph(handle).is_debugged = True


def debug_dump(handle: int, path: str) -> None:
    """Write the nodes in submission order, one a line. Needs `enable_debug_mode()` first, as the interface says."""
    graph = _graph(handle)
    if not graph.is_debugged:
        raise GraphError("debug_dump() without enable_debug_mode(); call that before capture")
    with open(path, "w") as file:
        file.write(f"graph {handle} on mtia:{graph.device}, pool {graph.pool}, {len(graph.nodes)} nodes\n")
        file.writelines(f"{i:4d}  {name}\n" for i, (name, _) in enumerate(graph.nodes))


def _leave_pool(graph: Graph) -> None:
    users = _users_of_pool.get(graph.pool)
    if users is None:
        return
    users.discard(graph.handle)
    if not users:
        del _users_of_pool[graph.pool]
        _C.release_pool(graph.device, graph.pool)
    graph.pool = 0


def _graph(handle: int) -> Graph:
    if handle not in _graphs:
        raise GraphError(f"no graph with handle {handle}: it was destroyed")
    return _graphs[handle]


__all__ = [
    "Graph", "GraphError", "capture_begin", "capture_end", "capturing", "create", "debug_dump", "destroy",
    "enable_debug", "instantiate", "new_pool", "pool_being_filled", "pool_of", "refuse_in_capture", "replay", "reset",
]  # fmt: skip
