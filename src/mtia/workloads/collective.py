"""A collective over several chips, as its library and the measurement's protocol time it."""

from __future__ import annotations

from mtia.chips.spec import ChipSpec
from mtia.fabric.collectives import CollectiveTime, Method, time_collective
from mtia.workloads.prediction import Prediction, Protocol, launch_overhead_s

EAGER_LAUNCHES = 2  # a framework's eager all-reduce: a copy of the input, then the collective


def predict_collective(spec: ChipSpec, *, op: str, n_bytes: int, ranks: int, dtype: str = "bfloat16",
                       library: str = "nccl", protocol: Protocol = Protocol.GRAPH_CHAIN,
                       ranks_per_node: int | None = None) -> Prediction:  # fmt: skip
    """Latency of `op` on every one of `ranks` chips; `n_bytes` as nccl-tests counts them.

    op: all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send_recv. all_gather: bytes gathered in all;
    reduce_scatter: bytes of the input; else of one rank's buffer. A `library` with "custom" in its name is an
    inference framework's all-reduce (peers' buffers are read, in one or two shots, where that is faster); any other has
    the standard algorithms. Raises BadProblem on a word or size that makes no sense.
    """
    method = method_of(library)
    quick_s = launch_overhead_s(spec, Protocol.GRAPH_CHAIN, 1)
    timed = time_collective(spec, op, n_bytes, ranks, dtype=dtype, ranks_per_node=ranks_per_node, method=method,
                            peer_reads_launch_s=quick_s)  # fmt: skip
    parts = {**timed.parts, "launch": timed.parts["launch"] + _host_s(spec, protocol, method, timed)}
    if method is Method.PEER_READS and protocol is Protocol.EAGER:
        parts["copy"] = _copy_s(spec, n_bytes)
    bound = max(parts, key=lambda part: parts[part])
    return Prediction(seconds=sum(parts.values()), bound=bound, parts=parts, how=timed.how)


def method_of(library: str) -> Method:
    return Method.PEER_READS if "custom" in library.lower() else Method.STANDARD


def _host_s(spec: ChipSpec, protocol: Protocol, method: Method, timed: CollectiveTime) -> float:
    """What the protocol adds to (or leaves out of) the launch that is in `timed`."""
    match protocol, method:
        case Protocol.KERNEL, _:
            return -timed.launch_s
        case Protocol.EAGER, Method.PEER_READS:
            return EAGER_LAUNCHES * launch_overhead_s(spec, Protocol.EAGER, 1) - timed.launch_s
        case _:  # the library's launch figure has its host path in it
            return 0.0


def _copy_s(spec: ChipSpec, n_bytes: int) -> float:
    """Eager frameworks reduce a copy of the input: read and written once."""
    return 2 * n_bytes / (spec.dram.bytes_per_s * spec.dram.efficiency_frac)


__all__ = ["method_of", "predict_collective"]
