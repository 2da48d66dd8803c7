"""Machines by name (`data/nodes.toml`): the chip in them and what the box changes about its links."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mtia import chips
from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, did_you_mean

DATA = Path(__file__).parent / "data" / "nodes.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`figures` replace the chip's, by dotted key; `why` says where they come from."""

    name: str
    chip: str
    why: str
    figures: Mapping[str, object]

    @property
    def spec(self) -> ChipSpec:
        """The chip as it is linked in this machine."""
        return chips.load(self.chip).vary(self.figures, name=self.name)


@cache
def nodes() -> dict[str, Node]:
    """All machines, by name."""
    document = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return {name: Node(name=name, chip=entry["chip"], why=entry["why"], figures=entry.get("figures", {}))
            for name, entry in document.items()}  # fmt: skip


def node(name: str) -> Node:
    """A machine by name. Raises BadProblem on one nobody has described."""
    known = nodes()
    if name not in known:
        raise BadProblem("machine", argument="name", value=name,
                         allowed=f"known: {', '.join(known)}.{did_you_mean(name, known)}")  # fmt: skip
    return known[name]


__all__ = ["Node", "node", "nodes"]
