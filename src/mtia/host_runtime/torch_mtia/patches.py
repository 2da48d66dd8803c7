"""What stock PyTorch 2.13 needs changed to serve an out-of-tree mtia device, each with its reason.

`import torch` stays light: a patch of a module that is not imported yet is applied when somebody imports it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def install() -> None:
    """Apply what can be applied now, and leave the rest to imports."""
    _empty_strided()
    _unpickling()
    _capturable_optimizers()
    _ctc_loss()
    sys.meta_path.insert(0, _PatchOnImport())
    for name in list(PATCHES):
        if name in sys.modules:
            PATCHES.pop(name)(sys.modules[name])


def _empty_strided() -> None:
    """`torch._C._dynamo.guards._empty_strided_mtia` raises in CPU builds ("compiled without support for the specified
    device"), and every wrapper that Inductor generates for mtia calls it."""
    import torch

    def empty_strided_mtia(size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty_strided(size, stride, dtype=dtype, device="mtia")

    torch._C._dynamo.guards._empty_strided_mtia = empty_strided_mtia  # type: ignore[attr-defined]


def _unpickling() -> None:
    """A pickled device tensor is rebuilt by `data.to(device)` and then told its `requires_grad`, which is refused where
    the data required it already: the copy is no leaf."""
    import torch
    from torch import _utils

    original = _utils._rebuild_device_tensor_from_cpu_tensor

    def _rebuild_device_tensor_from_cpu_tensor(data: Any, dtype: Any, device: Any, requires_grad: bool) -> Any:
        with torch.no_grad():
            return original(data, dtype, device, requires_grad)

    rebuilt = _rebuild_device_tensor_from_cpu_tensor
    rebuilt.__module__, rebuilt.__qualname__ = original.__module__, original.__qualname__  # pickles name it
    _utils._rebuild_device_tensor_from_cpu_tensor = rebuilt


def _capturable_optimizers() -> None:
    """Optimisers with `capturable=True` (their step count on the device, as graphs need it) refuse devices outside a
    list, and mtia is not in it. Every optimiser's module holds the list's function by its own name."""
    original: Any = sys.modules["torch.optim.optimizer"]._get_capturable_supported_devices

    def capturable_supported_devices(supports_xla: bool = True) -> list[str]:
        return [*original(supports_xla), "mtia"]

    for name, module in list(sys.modules.items()):
        if name.startswith("torch.optim.") and getattr(module, original.__name__, None) is original:
            setattr(module, original.__name__, capturable_supported_devices)


def _ctc_loss() -> None:
    """`torch.ctc_loss` copies lengths given as tensors to the host on every device without cuDNN; the dispatch key that
    would compose it otherwise (AutogradMTIA) has no name in Python."""
    import torch

    original = torch.ctc_loss

    @functools.wraps(original)
    def ctc_loss(
        log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any, *rest: Any, **named: Any
    ) -> Any:
        lengths = (input_lengths, target_lengths)
        if log_probs.device.type != "mtia" or not all(isinstance(n, torch.Tensor) for n in lengths):
            return original(log_probs, targets, input_lengths, target_lengths, *rest, **named)
        from mtia.kernels.ctc import loss_of_counts

        return loss_of_counts(log_probs, targets, input_lengths, target_lengths, *rest, **named)

    torch.ctc_loss = ctc_loss


def _device_interface(module: ModuleType) -> None:
    """`MtiaInterface.get_raw_stream` is bound at import to None when the device was registered later than that."""
    from torch._C import _mtia_getCurrentRawStream  # type: ignore[attr-defined]

    module.get_mtia_stream = _mtia_getCurrentRawStream  # type: ignore[attr-defined]
    module.MtiaInterface.get_raw_stream = staticmethod(_mtia_getCurrentRawStream)


def _flex_attention(module: ModuleType) -> None:
    """`_validate_device` lists the device types it knows, and mtia is not among them."""
    original = module._validate_device

    def validate_device(query: Any, key: Any, value: Any) -> None:
        if query.device.type != "mtia":
            original(query, key, value)

    module._validate_device = validate_device  # type: ignore[attr-defined]


def _flex_decoding(module: ModuleType) -> None:
    """Flex decoding asks torch.cuda how many processors there are, whatever the device."""
    original = module.get_split_k

    def get_split_k(B: int, H: int, Mk: int) -> int:
        import torch

        if torch.cuda.is_available() or not torch.mtia.is_available():
            return original(B, H, Mk)
        n_processors = torch.mtia.get_device_properties()["multi_processor_count"]
        return max(n_processors // max(B * H, 1) * 2, 1)

    module.get_split_k = get_split_k  # type: ignore[attr-defined]


def _benchmarking(module: ModuleType) -> None:
    """Inductor would time candidates by the wall clock of the simulator; simulated time is what differs on silicon."""

    def benchmark(self: Any, call: Callable[[], Any], *, warmup: int = 0, rep: int = 0, **options: Any) -> Any:
        from mtia.host_runtime.benchmark import simulated_ms

        return simulated_ms(call)

    module.register_benchmarker("mtia", benchmark, override=True)


def _profiler(module: ModuleType) -> None:
    """torch.profiler gives an operator the time of its kernels for CUDA, XPU and PrivateUse1 rows alone; ours carry the
    correlation id of the operator that submitted them."""
    original = module.profile._parse_kineto_results

    def parse_kineto_results(self: Any, *args: Any, **options: Any) -> Any:
        events = original(self, *args, **options)
        if self.use_device == "mtia":
            operators = {e.id: e for e in events if e.device_type.name == "CPU" and not e.is_async}
            for event in events:
                if event.device_type.name == "MTIA" and event.id in operators:
                    operators[event.id].append_kernel(event.name, event.device_index, event.time_range.elapsed_us())
        return events

    module.profile._parse_kineto_results = parse_kineto_results  # type: ignore[attr-defined]


def _linear_cross_entropy(module: ModuleType) -> None:
    """The fused loss sums in float32 on the devices that it knows, elsewhere in the input's type: in bfloat16 the loss
    is 7 % off where float32 sums are 0.2 % off. The choices are the CPU's."""
    import torch

    options = module.LinearCrossEntropyOptions
    known = options._resolve_auto_acc_dtype

    def resolve_auto_acc_dtype(dtype: Any, device: Any) -> Any:
        return known(dtype, torch.device("cpu") if device is not None and device.type == "mtia" else device)

    options._resolve_auto_acc_dtype = staticmethod(resolve_auto_acc_dtype)
    defaults = module._AUTO_DEFAULTS
    defaults.update({("mtia", dtype): choice for (device, dtype), choice in list(defaults.items()) if device == "cpu"})


def _output_code(module: ModuleType) -> None:
    """Inductor records graphs where the one device is CUDA, and says why it left them out on CUDA alone."""
    original = module.CompiledFxGraph.post_compile

    @functools.wraps(original)
    def post_compile(self: Any, example_inputs: Any, constants: Any, graph_kwargs: Any) -> None:
        if graph_kwargs["cudagraphs"] and "mtia" in self.device_types:
            from mtia.host_runtime.graphed import say_graphs_left_out

            say_graphs_left_out()
        original(self, example_inputs, constants, graph_kwargs)

    module.CompiledFxGraph.post_compile = post_compile  # type: ignore[attr-defined]


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "torch._dynamo.device_interface": _device_interface,
    "torch.nn.attention.flex_attention": _flex_attention,
    "torch._inductor.kernel.flex.flex_decoding": _flex_decoding,
    "torch._inductor.runtime.benchmarking": _benchmarking,
    "torch._inductor.output_code": _output_code,
    "torch.autograd.profiler": _profiler,
    "torch.nn.modules.linear_cross_entropy_options": _linear_cross_entropy,
}


class _PatchOnImport(MetaPathFinder):
    """Finds a module that has a patch, by asking the finders after it, and patches it once it has run."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = PATCHES.pop(fullname, None)
        if patch is None:
            return None
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, patch)
        return spec


class _PatchingLoader(Loader):
    def __init__(self, loader: Loader, patch: Callable[[ModuleType], None]) -> None:
        self.loader, self.patch = loader, patch

    def __getattr__(self, name: str) -> Any:  # inspect and linecache ask the loader for sources
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        self.patch(module)
