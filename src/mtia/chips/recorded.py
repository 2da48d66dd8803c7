"""Figures that a chip's file records and no rule reads: to change one changes no time, value or energy."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtia.chips.spec import ChipSpec, Figure

RECORDED: dict[str, str] = {
    "grid.spare_pes": "software sees the grid without them",
    "sram.banks": "the SRAM's rate and latency are those of all banks together",
    "dram.channels": "the DRAM's rate is that of all channels together",
    "power.link_j_per_byte": "collectives are timed, and no energy is given for them",
    "info.package": "a description",
}
"""Key -> why nothing depends on it."""


class RecordedFigure(UserWarning):
    """A chip file of the user's changes a figure that no rule reads."""


def warn_of_changes(file: str, figures: Mapping[str, Figure], base: ChipSpec) -> None:
    """Warn where the file states a recorded figure otherwise than its base."""
    for key, why in RECORDED.items():
        if key in figures and key in base.figures and figures[key].value != base.figures[key].value:
            warnings.warn(
                f"{file}: {key} = {figures[key].value!r}, {base.figures[key].value!r} in {base.name}: recorded, and no "
                f"rule reads it ({why}). `mtia chips show` marks such figures; change what they add up to instead.",
                RecordedFigure,
                stacklevel=4,
            )


__all__ = ["RECORDED", "RecordedFigure", "warn_of_changes"]
