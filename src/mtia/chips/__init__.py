"""Chips as data: `load("mtia400")`, `load("my.toml")`, `names()`, `spec.vary({...})`."""

from mtia.chips.loader import aliases, load, loads, names
from mtia.chips.spec import ChipSpec, Figure, Source, SourceKind

__all__ = ["ChipSpec", "Figure", "Source", "SourceKind", "aliases", "load", "loads", "names"]
