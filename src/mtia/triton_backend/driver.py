"""Triton's driver for mtia: which device is current, and how a compiled program is launched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase, decompose_descriptor

from mtia.program.program import TileProgram
from mtia.triton_backend.compiler import ARCH, WARP_SIZE, read_binary


@cache
def _launch() -> Callable[..., None]:
    """The runtime's launch, imported at the first one: Triton loads this driver where there may be no device."""
    from mtia.host_runtime.launch import launch

    return launch


class MtiaUtils:
    """What Triton's CompiledKernel asks a driver for. Local memory and buffer limits are checked at launch, against
    the chip in use then (`host_runtime/launch.py`): one compiled program serves every generation."""

    @staticmethod
    def get_device_properties(device: int) -> dict[str, int]:
        from mtia.host_runtime import silicon

        spec = silicon.chip()
        return {
            "max_shared_mem": 1 << 40,
            "multiprocessor_count": spec.grid.n_pes,
            "warpSize": WARP_SIZE,
            "sm_clock_rate": int(spec.clock_hz / 1e3),
            "max_num_regs": 65536,
            "mem_clock_rate": 1,
            "mem_bus_width": 1,
        }

    @staticmethod
    def load_binary(name: str, kernel: bytes, shared: int, device: int) -> tuple[Any, TileProgram, int, int, int]:
        """(module, function, registers, spills, threads); registers are non-zero because tutorials divide by it."""
        program = read_binary(kernel)
        return program, program, 32, 0, 1 << 20

    @staticmethod
    def unload_module(module: Any) -> None:
        """A program is an ordinary object."""


class MtiaLauncher:
    """Called by Triton for each launch; picks the run-time arguments out of what the kernel was called with."""

    def __init__(self, src: Any, metadata: Any) -> None:
        signature = src.signature
        self.pick = _argument_picker(list(signature.values()))
        names = list(getattr(getattr(src, "fn", None), "arg_names", signature.keys()))
        self.file = getattr(getattr(getattr(src, "fn", None), "fn", None), "__code__", None)
        self.names = names

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: TileProgram,
        packed: Any,
        launch_metadata: Any,
        enter_hook: Any,
        exit_hook: Any,
        *args: Any,
    ) -> None:
        if enter_hook is not None:
            enter_hook(launch_metadata)
        _launch()(function, (grid_x, grid_y, grid_z), self.pick(args), stream)
        if exit_hook is not None:
            exit_hook(launch_metadata)


def _argument_picker(types: Sequence[Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """A function from call arguments to run-time arguments: constexprs dropped, tuples and descriptors flattened."""
    simple = [i for i, t in enumerate(types) if t != "constexpr"]
    if all(isinstance(types[i], str) and not types[i].startswith("tensordesc") for i in simple):
        return lambda args: [args[i] for i in simple]

    def pick(args: Sequence[Any]) -> list[Any]:
        out: list[Any] = []
        for type_, arg in zip(types, args, strict=True):
            _flatten(type_, arg, out)
        return out

    return pick


def _flatten(type_: Any, arg: Any, out: list[Any]) -> None:
    if isinstance(type_, tuple):
        for t, a in zip(type_, arg, strict=True):
            _flatten(t, a, out)
    elif isinstance(type_, str) and type_.startswith("tensordesc"):
        out.extend(decompose_descriptor(arg))
    elif type_ != "constexpr":
        out.append(arg)


def simulated_do_bench(
    call: Callable[[], Any], *, quantiles: Sequence[float] | None = None, **_: Any
) -> float | list[float]:
    """Milliseconds of simulated time, from one run: every run of it takes the same."""
    from mtia.host_runtime.benchmark import simulated_ms

    ms = simulated_ms(call)
    return ms if quantiles is None else [ms] * len(quantiles)


class MtiaDriver(DriverBase):
    """Active where the process has an mtia device."""

    def __init__(self) -> None:
        super().__init__()
        self.utils = MtiaUtils()
        self.launcher_cls = MtiaLauncher

    @classmethod
    def is_active(cls) -> bool:
        try:
            import torch
        except ImportError:
            return False
        return torch.mtia.is_available()

    def get_current_device(self) -> int:
        import torch

        return torch.mtia.current_device()

    def set_current_device(self, device: int) -> None:
        import torch

        torch.mtia.set_device(device)

    def get_current_stream(self, device: int) -> int:
        import torch

        return torch._C._mtia_getCurrentRawStream(device)

    def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
        import torch

        return torch.mtia.get_device_capability(device)

    def get_device_interface(self) -> Any:
        import torch

        return torch.mtia

    def map_python_to_cpp_type(self, ty: str) -> str:
        return "uint64_t" if ty.startswith("*") else ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("mtia", ARCH, WARP_SIZE)

    def get_active_torch_device(self) -> Any:
        import torch

        return torch.device("mtia", self.get_current_device())

    def get_benchmarker(self) -> Callable[..., Any]:
        return simulated_do_bench

    def get_empty_cache_for_benchmark(self) -> Any:
        import torch

        return torch.empty(1, dtype=torch.int32, device=self.get_active_torch_device())

    def clear_cache(self, cache: Any) -> None:
        """Simulated time does not depend on how warm the host is."""
