"""Which chip the device is.

    mtia.use("mtia400")                  # from here on
    with mtia.use("my.toml") as spec:    # for a block
        ...

The chip in force is one for the whole process (autograd's threads see the same). It starts as MTIA_CHIP. Device memory
keeps its addresses when the chip changes; a chip too small for what is live is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mtia import chips, knobs
from mtia.chips.spec import ChipSpec
from mtia.errors import MtiaError
from mtia.units import format_capacity

_current: ChipSpec | None = None
_listeners: list[Callable[[ChipSpec], None]] = []


class ChipTooSmall(MtiaError):
    """The chip asked for cannot hold what is live on the device."""

    def __init__(self, chip: str, *, device: str, live_bytes: int, capacity_bytes: int) -> None:
        super().__init__(
            f"{chip} has {format_capacity(capacity_bytes)} of device memory, but {format_capacity(live_bytes)} are "
            f"live on {device}. Free tensors first, or choose a chip with more."
        )
        self.chip, self.device, self.live_bytes, self.capacity_bytes = chip, device, live_bytes, capacity_bytes


class Use:
    """What `use` hands back: the change is made already; leaving the block takes it back."""

    def __init__(self, spec: ChipSpec, previous: ChipSpec | None) -> None:
        self.spec, self.previous = spec, previous

    def __enter__(self) -> ChipSpec:
        return self.spec

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _switch(self.previous if self.previous is not None else _from_knobs())


def chip() -> ChipSpec:
    """The chip in force."""
    global _current
    if _current is None:
        _current = _from_knobs()
    return _current


def use(which: str | Path | ChipSpec) -> Use:
    """Make the device this chip: a name, a chip file or a ChipSpec. Also a context manager giving the spec.

    Raises UnknownChip, ChipFileError, ChipTooSmall.
    """
    previous = _current
    spec = chips.load(which)
    _switch(spec)
    return Use(spec, previous)


def on_change(listener: Callable[[ChipSpec], None]) -> None:
    """Call `listener(spec)` after every change of chip. One that raises keeps the old chip."""
    _listeners.append(listener)


def _switch(spec: ChipSpec) -> None:
    global _current
    previous, _current = _current, spec
    try:
        for listener in _listeners:
            listener(spec)
    except MtiaError:
        _current = previous
        raise


def _from_knobs() -> ChipSpec:
    return chips.load(knobs.get().chip)


__all__ = ["ChipTooSmall", "Use", "chip", "on_change", "use"]
