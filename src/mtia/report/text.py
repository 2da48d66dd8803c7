"""Real text that installs with Python: CPython's documentation, in two parts that share no paragraph.

`pydoc_data.topics` repeats paragraphs among topics; each is taken once, in the order of topics' names. The tokens are
cut into windows; every other one is for scoring, those between are for calibration.
"""

from __future__ import annotations

import platform
from functools import lru_cache

import torch

from mtia.errors import BadProblem
from mtia.report import smollm2

SOURCE = f"pydoc_data.topics of Python {platform.python_version()}"


def paragraphs() -> list[str]:
    """Each paragraph once."""
    from pydoc_data.topics import topics

    found = {" ".join(p.split()): p for name in sorted(topics, reverse=True) for p in topics[name].split("\n\n")[::-1]}
    return list(found.values())[::-1]


@lru_cache(maxsize=1)
def token_ids() -> torch.Tensor:
    """int64, SmolLM2's tokens of all paragraphs."""
    return torch.tensor(smollm2.load_tokenizer()("\n\n".join(paragraphs()))["input_ids"])


def scored(n_windows: int, length: int) -> torch.Tensor:
    """int64 [n_windows, length], spread evenly. Raises BadProblem where the text has not so many."""
    return _every_other(n_windows, length, 1)


def calibration(n_windows: int, length: int) -> torch.Tensor:
    """int64 [n_windows, length] of text that `scored` never gives, whatever their lengths are alike."""
    return _every_other(n_windows, length, 0)


def _every_other(n_windows: int, length: int, first: int) -> torch.Tensor:
    ids = token_ids()
    held = ids[: len(ids) // length * length].view(-1, length)[first::2]
    if not 0 < n_windows <= len(held):
        raise BadProblem("text", argument="windows", value=n_windows, allowed=f"1 to {len(held)} of {length} tokens")
    return held[torch.linspace(0, len(held) - 1, n_windows).round().long()]


__all__ = ["SOURCE", "calibration", "paragraphs", "scored", "token_ids"]
