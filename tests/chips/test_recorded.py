"""A figure of a chip's file has an effect, or is said to have none."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

import mtia
from mtia import chips
from mtia.chips import spec as spec_module
from mtia.chips.recorded import RECORDED, RecordedFigure
from mtia.chips.spec import ChipSpec
from mtia.report.chips_command import document


def figure_fields() -> dict[str, str]:
    """ "section.field" -> field, of every section of a chip."""
    found = {}
    for section, hint in get_type_hints(ChipSpec, dict(vars(spec_module))).items():
        for cls in (hint, *getattr(hint, "__args__", ())):
            if isinstance(cls, type) and is_dataclass(cls) and cls.__name__.endswith(("Spec", "Info")):
                found.update({f"{section}.{f.name}": f.name for f in fields(cls)})
    return found


def test_every_figure_is_read_or_recorded():
    package = Path(mtia.__file__).parent
    source = "\n".join(p.read_text(encoding="utf-8") for p in package.rglob("*.py") if p.name != "recorded.py")
    unread = {key for key, name in figure_fields().items() if not re.search(rf"\.{name}\b", source)}
    assert unread == set(RECORDED)


def test_a_change_of_a_recorded_figure_is_told():
    text = 'name = "x"\nbase = "mtia200"\n[sram.banks]\nvalue = 7\nsource = {kind = "chosen", why = "more banks"}\n'
    with pytest.warns(
        RecordedFigure, match=r"x\.toml: sram\.banks = 7, \d+ in mtia200: recorded, and no rule reads it"
    ):
        changed = chips.loads(text, file="x.toml")
    assert changed.sram.banks == 7
    assert "all banks together" in document(changed)["all"]["sram.banks"]["unread"]


def test_figures_that_are_read_are_not_told_of():
    text = 'name = "x"\nbase = "mtia200"\n[sram.line_bytes]\nvalue = 128\nsource = {kind = "chosen", why = "longer"}\n'
    assert chips.loads(text).sram.line_bytes == 128  # a warning would fail
