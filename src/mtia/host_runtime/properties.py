"""Device properties: what torch.mtia, Inductor and Triton ask about the chip."""

from __future__ import annotations

from typing import Any

from mtia.chips.spec import ChipSpec

WARP_SIZE = 32
"""A PE has no warps; Inductor's reduction splitting divides by this, and 1 trips an assertion on ordinary shapes."""


class DeviceProperties(dict[str, Any]):
    """A dict, as torch.mtia documents it, whose keys are attributes too, as Inductor reads them."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no device property {name!r}; there are {', '.join(self)}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (DeviceProperties, (dict(self),))


def properties(spec: ChipSpec) -> DeviceProperties:
    """`multi_processor_count` counts PEs. Thread counts steer Inductor's tile sizes; they name no hardware."""
    major, minor = capability(spec)
    return DeviceProperties(
        name=spec.title,
        chip=spec.name,
        total_memory=spec.dram.capacity_bytes,
        multi_processor_count=spec.grid.n_pes,
        major=major,
        minor=minor,
        warp_size=WARP_SIZE,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        regs_per_multiprocessor=65536,
        shared_memory_per_block=spec.pe.local_memory_bytes,
        shared_memory_per_block_optin=spec.pe.local_memory_bytes,
        shared_memory_per_multiprocessor=spec.pe.local_memory_bytes,
        L2_cache_size=spec.sram.capacity_bytes,
        clock_rate=int(spec.clock_hz / 1e3),
        grid=(spec.grid.rows, spec.grid.cols),
        integrated=False,
    )


def capability(spec: ChipSpec) -> tuple[int, int]:
    """(generation on the roadmap, 0)."""
    return spec.info.generation, 0


__all__ = ["WARP_SIZE", "DeviceProperties", "capability", "properties"]
