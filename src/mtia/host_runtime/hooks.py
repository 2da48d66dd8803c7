"""What the C++ shim calls, by name. Arguments and results are integers unless said otherwise."""

from __future__ import annotations

from typing import Any

from mtia import _C, knobs
from mtia.chips.spec import ChipSpec
from mtia.host_runtime import allocations, fallback, graphs, profiling, properties, silicon
from mtia.host_runtime.clock import clock
from mtia.knobs import HostFallback

UPLOAD, DOWNLOAD, PEER = 0, 1, 2


def initialize() -> None:
    """First use of a device: memory gets the chip's capacity, kernels are registered, patches are set."""
    from mtia.host_runtime.torch_mtia import device_kernels

    _C.set_fallbacks_quiet(knobs.get().host_fallback is HostFallback.COUNT)
    silicon.on_change(_set_capacity)
    _set_capacity(silicon.chip())
    device_kernels.register()
    allocations.follow_knob()
    knobs.on_change(allocations.follow_knob)


def _set_capacity(spec: ChipSpec) -> None:
    wanted = spec.dram.capacity_bytes
    for device in range(_C.device_count()):
        live = _C.memory_stats(device)["allocated_bytes"] if _C.arena_exists(device) else 0
        if live > wanted:
            raise silicon.ChipTooSmall(spec.name, device=f"mtia:{device}", live_bytes=live, capacity_bytes=wanted)
    for device in range(_C.device_count()):
        _C.set_capacity(device, wanted)


# --- transfers and host routes ----------------------------------------------------------------------------------------


def transfer(kind: int, device: int, stream: int, n_bytes: int, host_waits: int, peer: int) -> None:
    if kind == PEER:
        clock().peer_transfer(device, stream, n_bytes, peer)
    else:
        clock().transfer(device, stream, n_bytes, upload=kind == UPLOAD, host_waits=bool(host_waits))


def host_fallback(op: str, n_bytes_in: int, n_bytes_out: int, device: int) -> None:
    clock().host_fallback(device, _C.current_stream(device), op, n_bytes_in, n_bytes_out)


fallback_notice = fallback.notice
profiler_start = profiling.start
profiler_stop = profiling.stop
allocated = allocations.allocated
freed = allocations.freed
refuse_in_capture = graphs.refuse_in_capture

# --- streams and events -----------------------------------------------------------------------------------------------


def stream_query(device: int, stream: int) -> int:
    return clock().stream_is_idle(device, stream)


def stream_synchronize(device: int, stream: int) -> None:
    clock().synchronize_stream(device, stream)


def device_synchronize(device: int) -> None:
    clock().synchronize_device(device)


def stream_is_capturing(device: int, stream: int) -> int:
    return graphs.capturing(device, stream) is not None


def event_record(event: int, device: int, stream: int) -> int:
    return clock().record_event(event, device, stream)


def event_block(event: int, device: int, stream: int) -> None:
    clock().wait_event(event, device, stream)


def event_query(event: int) -> int:
    return clock().event_has_passed(event)


def event_synchronize(event: int) -> None:
    clock().synchronize_event(event)


def event_elapsed_ms(start: int, end: int) -> float:
    return clock().elapsed_ms(start, end)


def event_destroy(event: int) -> None:
    clock().forget_event(event)


# --- the chip as torch sees it ----------------------------------------------------------------------------------------


def chip_title(device: int) -> str:
    return silicon.chip().title


def device_properties(device: int) -> properties.DeviceProperties:
    return properties.properties(silicon.chip())


def device_capability(device: int) -> tuple[int, int]:
    return properties.capability(silicon.chip())


def memory_stats(device: int) -> dict[str, Any]:
    """Bytes in device memory, under "dram" as torch.mtia reads them. Nothing is cached: reserved is allocated."""
    s = _C.memory_stats(device)
    dram = {
        "allocated_bytes": s["allocated_bytes"],
        "requested_bytes": s["requested_bytes"],
        "peak_bytes": s["peak_bytes"],
        "reserved_bytes": s["allocated_bytes"],
        "free_bytes": s["capacity_bytes"] - s["allocated_bytes"],
        "total_bytes": s["capacity_bytes"],
        "num_allocs": s["total_allocations"],
        "num_frees": s["total_frees"],
        "num_ooms": s["n_out_of_memory"],
        "live_allocs": s["n_allocations"],
    }
    return {"dram": dram, **{name: dram[name] for name in ("allocated_bytes", "peak_bytes", "reserved_bytes")}}


def memory_snapshot(path: str | None) -> dict[str, Any]:
    """Live allocations and recorded history of every device; also pickled to `path` where one is given."""
    devices = range(_C.device_count())
    snapshot = {
        "segments": [_segment(device) for device in devices],
        "device_traces": [_trace(device) for device in devices],
    }
    if path is not None:
        import pickle

        with open(path, "wb") as file:
            pickle.dump(snapshot, file)
    return snapshot


def _segment(device: int) -> dict[str, Any]:
    base, capacity = _C.arena(device)
    blocks = [
        {"address": start, "size": size, "requested_size": size, "state": "active_allocated"}
        for start, size in _C.allocations(device)
    ]
    allocated = _C.memory_stats(device)["allocated_bytes"]
    return {
        "device": device, "address": base, "total_size": capacity, "allocated_size": allocated,
        "active_size": allocated, "blocks": blocks,
    }  # fmt: skip


def _trace(device: int) -> list[dict[str, Any]]:
    return [{"action": action, "addr": addr, "size": size} for action, addr, size in _C.memory_history(device)]


# --- graphs -----------------------------------------------------------------------------------------------------------

graph_create = graphs.create
graph_destroy = graphs.destroy
graph_capture_begin = graphs.capture_begin
graph_capture_end = graphs.capture_end
graph_instantiate = graphs.instantiate
graph_replay = graphs.replay
graph_reset = graphs.reset
graph_pool = graphs.pool_of
graph_enable_debug = graphs.enable_debug
graph_debug_dump = graphs.debug_dump
graph_pool_handle = graphs.new_pool
