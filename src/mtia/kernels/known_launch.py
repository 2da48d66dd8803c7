"""A kernel launched again and again with the same grid and integers: straight to the runtime once it is compiled.

Triton's own launch binds arguments and looks the kernel up by their types at every call, which takes longer than the
launch itself. Here that is done once for each kind of number (Triton compiles for 32- and 64-bit integers apart), and
where every address is aligned as it was then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from triton import knobs

from mtia.host_runtime.launch import launch
from mtia.program.program import TileProgram

ALIGNMENT_BYTES = 16  # what Triton compiles for: a multiple of it, or any address


class KnownLaunch:
    """`kernel` on `grid`, with `integers` after tensors and numbers (none of them specialised on), and constants."""

    __slots__ = ("constants", "grid", "integers", "kernel", "programs")

    def __init__(
        self, kernel: Any, grid: tuple[int, ...], integers: tuple[int, ...], constants: dict[str, Any]
    ) -> None:
        self.kernel, self.integers, self.constants = kernel, integers, constants
        x, y, z = (*grid, 1, 1)[:3]
        self.grid = (x, y, z)
        self.programs: dict[tuple, TileProgram] = {}

    def __call__(self, tensors: Sequence[torch.Tensor], numbers: Sequence[int | float] = ()) -> None:
        kinds = tuple([_kind(n) for n in numbers])
        program = self.programs.get(kinds)
        if program is None or self._is_watched() or not _are_aligned(tensors):
            self._by_triton(kinds, tensors, numbers)
            return
        stream = torch._C._mtia_getCurrentRawStream(torch.mtia.current_device())  # type: ignore[attr-defined]
        launch(program, self.grid, [*tensors, *numbers, *self.integers], stream)

    def _by_triton(self, kinds: tuple, tensors: Sequence[torch.Tensor], numbers: Sequence[int | float]) -> None:
        compiled = self.kernel[self.grid](*tensors, *numbers, *self.integers, **self.constants)
        if compiled is not None and _are_aligned(tensors):  # None: interpreted by Triton
            self.programs[kinds] = compiled.function

    def _is_watched(self) -> bool:
        """Somebody hooked Triton's launches, and is told of each by Triton."""
        hooks = (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)
        return bool(self.kernel.pre_run_hooks) or any(h is not None and h.calls for h in hooks)


def _are_aligned(tensors: Sequence[torch.Tensor]) -> bool:
    bits = 0
    for tensor in tensors:
        bits |= tensor.data_ptr()
    return bits % ALIGNMENT_BYTES == 0


def _kind(number: int | float) -> str:
    if isinstance(number, float):
        return "float"
    return "int32" if -(1 << 31) <= number < 1 << 31 else "int64" if number < 1 << 63 else "uint64"


__all__ = ["KnownLaunch"]
