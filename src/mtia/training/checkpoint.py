"""Checkpoints that are whole or not there: a draft beside the file, flushed to disk, then renamed over it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from mtia.errors import MtiaError

NAME = "checkpoint.pt"


class CheckpointMismatch(MtiaError, ValueError):
    """A checkpoint of another run."""

    def __init__(self, path: Path, *, field: str, found: object, wanted: object) -> None:
        super().__init__(
            f"{path} was written with {field} = {found!r}, this run has {wanted!r}. Give the same options to resume, "
            f"or another folder to start anew."
        )
        self.path, self.field, self.found, self.wanted = path, field, found, wanted


class NoCheckpoint(MtiaError, FileNotFoundError):
    def __init__(self, folder: Path) -> None:
        super().__init__(f"nothing to resume: {folder} has no {NAME}. Leave --resume out to start anew.")
        self.folder = folder


def save(folder: Path, state: Mapping[str, Any]) -> Path:
    """Write `state` (tensors go through the host) to `folder`. A kill at any moment leaves the old file or the new."""
    folder.mkdir(parents=True, exist_ok=True)
    path, draft = folder / NAME, folder / f"{NAME}.{os.getpid()}.draft"
    with draft.open("wb") as file:
        torch.save(tree_map_only(torch.Tensor, lambda t: t.detach().cpu(), dict(state)), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync(folder)
    for left in folder.glob(f"{NAME}.*.draft"):  # of runs that were killed
        left.unlink(missing_ok=True)
    return path


def _sync(folder: Path) -> None:
    """The rename itself reaches the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(folder: Path, run: Mapping[str, object]) -> dict[str, Any]:
    """The state last saved. Raises NoCheckpoint, and CheckpointMismatch where its `run` differs from this one."""
    path = folder / NAME
    if not path.exists():
        raise NoCheckpoint(folder)
    state = torch.load(path, weights_only=True)
    for field, wanted in run.items():
        if state["run"].get(field) != wanted:
            raise CheckpointMismatch(path, field=field, found=state["run"].get(field), wanted=wanted)
    return state


__all__ = ["NAME", "CheckpointMismatch", "NoCheckpoint", "load", "save"]
