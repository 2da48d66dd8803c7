"""Rows to calibrate a chip on, and how errors before and after are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from mtia.chips.loader import load
from mtia.chips.spec import ChipSpec
from mtia.errors import UnknownChip
from mtia.validate.calibrate import TABLES
from mtia.validate.cases import Case
from mtia.validate.rows import read_folder
from mtia.validate.sampling import sample
from mtia.validate.statistics import Errors


def rows_of(
    spec: ChipSpec, folder: Path, *, files: Collection[str] = (), dtypes: Collection[str] = (), n_per_file: int,
    draw: int,
) -> list[Case]:  # fmt: skip
    """The draw's rows of this chip, whatever its tables call it: of tables of kernels, or of those named in `files`
    (collectives). Raises MeasuredDataError on an unreadable folder."""
    tables, errors = read_folder(folder)
    if errors:
        raise errors[0]
    wanted = [table for table in tables if (files or table.kind.name in TABLES) and _is_wanted(table.file, files)]
    cases = [case for table in wanted for case in table.cases if _chip_name(case.system) == spec.name
             and (not dtypes or case.dtype in dtypes)]  # fmt: skip
    return sample(cases, n_per_file, draw=draw)


def _is_wanted(file: str, files: Collection[str]) -> bool:
    return not files or file.removesuffix(".csv") in {name.removesuffix(".csv") for name in files}


def _chip_name(system: str) -> str:
    try:
        return load(system).name
    except UnknownChip:
        return system


def columns_of(title: str, before: Mapping[str, Errors], after: Mapping[str, Errors]) -> Table:
    """Errors by file, before -> after."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("file", "rows", "mean %", "median %", "p90 %", "bias %", "|ln|"):
        table.add_column(heading, justify="left" if heading == "file" else "right", no_wrap=True)
    for name, old in before.items():
        table.add_row(name, str(old.n), *_cells(old, after[name]))
    return table


def _cells(old: Errors, new: Errors) -> Sequence[str]:
    percent = [(old.mean_frac, new.mean_frac), (old.median_frac, new.median_frac), (old.p90_frac, new.p90_frac),
               (old.bias_frac, new.bias_frac)]  # fmt: skip
    shown = [f"{100 * a:.1f}→{100 * b:.1f}" for a, b in percent]
    return [*shown, f"{old.mean_abs_ln:.3f}→{new.mean_abs_ln:.3f}"]


__all__ = ["columns_of", "rows_of"]
