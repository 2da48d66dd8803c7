"""The suites: where each keeps its tests, and how pytest is called on them.

A suite is given the folder of its sources (a checkout of the project). Nothing is written there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mtia.errors import BadProblem, MtiaError, did_you_mean

HERE = Path(__file__).resolve().parent


class SuiteUnusable(MtiaError):
    """The folder is not what the suite needs, or a package that its tests import is not installed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """`marks`: files that a checkout has. `copied`: test folders and files that are copied away from the checkout, so
    that its own packages are not imported in place of the installed ones. `tests`: what pytest gets, below the copy or
    the checkout. `cases`: a module of this package instead, that makes tests of the sources. `packages`: modules that
    its tests import. `on_path`: the checkout itself is imported from."""

    name: str
    what: str
    marks: tuple[str, ...]
    tests: tuple[str, ...] = ()
    cases: str = ""
    copied: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    on_path: bool = False
    environment: dict[str, str] = field(default_factory=dict)


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="triton",
            what="Triton's tests of its language (python/test/unit/language)",
            marks=("python/test/unit/language/test_core.py", "python/conftest.py"),
            copied=(("python/test", "test"), ("python/conftest.py", "conftest.py")),
            tests=("test/unit/language",),
            arguments=("--device", "mtia"),
        ),
        Suite(
            name="tutorials",
            what="Triton's tutorials, run to their end with their benchmarks left out",
            marks=("python/tutorials/01-vector-add.py",),
            cases="tutorials.py",
            packages=("tabulate",),
        ),
        Suite(
            name="helion",
            what="Helion's tests and examples (test/)",
            marks=("helion/__init__.py", "test/test_examples.py"),
            tests=("test",),
            packages=("psutil", "filecheck", "sklearn", "expecttest"),
            on_path=True,
            environment={"HELION_AUTOTUNE_EFFORT": "none"},
        ),
        Suite(
            name="kernelbench",
            what="KernelBench's problems: values at a size the simulator computes, time at the size they state",
            marks=("KernelBench/level1",),
            cases="kernelbench.py",
        ),
    )
}


def suite(name: str) -> Suite:
    """Raises BadProblem on an unknown name."""
    if name not in SUITES:
        hint = f"known: {', '.join(SUITES)}. {did_you_mean(name, SUITES)}".strip()
        raise BadProblem("mtia suite", argument="NAME", value=name, allowed=hint)
    return SUITES[name]


def check(suite: Suite, source: Path) -> None:
    """Raises SuiteUnusable where the folder has not what the suite needs, or a package is missing."""
    missing = [mark for mark in suite.marks if not (source / mark).exists()]
    if missing:
        raise SuiteUnusable(
            f"suite {suite.name}: {source} has no {missing[0]}. DIR is a checkout of the project whose tests these "
            f"are: {suite.what}."
        )
    absent = [package for package in suite.packages if find_spec(package) is None]
    if absent:
        raise SuiteUnusable(
            f"suite {suite.name}: its tests import {', '.join(absent)}, which is not installed; "
            f"pip install {' '.join(_DISTRIBUTION.get(p, p) for p in absent)}."
        )


_DISTRIBUTION = {"sklearn": "scikit-learn"}


def stage(suite: Suite, source: Path, folder: Path) -> list[str]:
    """pytest's arguments for the suite; copies into `folder` what must not be run in the checkout.

    pytest reads an empty configuration of its own there: neither the project's nor that of the working folder counts.
    """
    for here, there in suite.copied:
        if (source / here).is_dir():
            shutil.copytree(source / here, folder / there, dirs_exist_ok=True)
        else:
            shutil.copy2(source / here, folder / there)
    if suite.cases:
        shutil.copy2(HERE / suite.cases, folder / suite.cases)
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    base = folder if suite.copied or suite.cases else source
    tests = [str(base / test) for test in (suite.tests or (suite.cases,))]
    return [*tests, *suite.arguments, "-c", str(folder / "pytest.ini"), "--rootdir", str(base)]


__all__ = ["SUITES", "Suite", "SuiteUnusable", "check", "stage", "suite"]
