"""Changes figures in the text of a chip file and leaves the rest of it as it is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def set_figures(text: str, figures: Mapping[str, tuple[object, Mapping[str, Any]]]) -> str:
    """The file's text with `figures` (dotted key -> value and source) in place of its own, or at its end.

    A key of a table without an entry ("power.mac_j") replaces the whole table, entries given one by one included.
    """
    for key, (value, source) in figures.items():
        block = f"[{key}]\nvalue = {toml(value)}\nsource = {toml(source)}\n"
        text = _without_entries(text, key) if isinstance(value, Mapping) else text
        pattern = _block(key)
        text = (
            pattern.sub(lambda _, b=block: b, text, count=1) if pattern.search(text) else f"{text.rstrip()}\n\n{block}"
        )
    return text


def write_figures(path: Path, figures: Mapping[str, tuple[object, Mapping[str, Any]]]) -> None:
    """`set_figures` on a file."""
    path.write_text(set_figures(path.read_text(encoding="utf-8"), figures), encoding="utf-8")


def _block(key: str) -> re.Pattern[str]:
    """A figure: its header and the lines up to the next blank line or header."""
    return re.compile(rf"^\[{re.escape(key)}\]\n(?:(?!\[|\n).*\n?)*", re.MULTILINE)


def _without_entries(text: str, key: str) -> str:
    return re.sub(rf"^\[{re.escape(key)}\.\w+\]\n(?:(?!\[|\n).*\n?)*\n?", "", text, flags=re.MULTILINE)


def toml(value: object) -> str:
    """A value as chip files write it: inline tables, five significant digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, float):
        return _number(value)
    return f'"{_escaped(value)}"' if isinstance(value, str) else str(value)


def _number(value: float) -> str:
    text = f"{value:.5g}"
    mantissa, e, exponent = text.partition("e")
    if e:
        return f"{mantissa}e{int(exponent)}"
    return text if "." in text else f"{text}.0"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


__all__ = ["set_figures", "toml", "write_figures"]
