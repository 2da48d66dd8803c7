"""The layers hold: a module imports its own layer or lower ones, and light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mtia

ROOT = Path(mtia.__file__).parent
LAYERS = (
    ("units", "errors", "knobs"),
    ("numerics", "chips"),
    ("program",),
    ("engine",),
    ("fabric",),
    ("triton_backend", "kernels", "host_runtime", "distributed", "re"),
    ("workloads", "quantization"),
    ("serving", "training", "explore"),
    ("conformance", "architectures"),
    ("suites",),
    ("validate", "report", "cli"),
)
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
TORCH_FREE_BELOW = LAYER["triton_backend"]
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def part_of(path: Path) -> str:
    """The package or module right under `mtia` that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[str, int, bool]]:
    """(module, line, is it needed at run time) of every import in a file, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {id(n) for block in ast.walk(tree) if is_type_checking(block) for n in ast.walk(block)}
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = (
                [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
                if node.module == "mtia"
                else [node.module]
            )
        for name in names:
            yield name, node.lineno, id(node) not in typing_only  # type: ignore[attr-defined]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def test_every_part_has_a_layer():
    assert {part_of(p) for p in MODULES} <= set(LAYER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    own = part_of(path)
    for name, line, _ in imports_of(path):
        parts = name.split(".")
        if parts[0] == "mtia" and len(parts) > 1 and parts[1] in LAYER:
            assert LAYER[parts[1]] <= LAYER[own], (
                f"{path.relative_to(ROOT)}:{line}: {own} imports {name}, a higher layer"
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_imports_are_not_used(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_and_triton_only_from_the_back_end_up(path: Path):
    inside = path.relative_to(ROOT)
    if LAYER[part_of(path)] >= TORCH_FREE_BELOW or inside.parts[:2] == ("engine", "functional"):
        return
    found = [(n, line) for n, line, needed in imports_of(path) if n.split(".")[0] in ("torch", "triton") and needed]
    assert not found, f"{inside} imports {found}"


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("statement", ["import mtia", "import mtia.chips", "import mtia.cli", "import mtia.program",
                                       "import mtia.report.chips_command, mtia.report.roadmap_command"])  # fmt: skip
def test_light_imports_stay_light(statement: str):
    heavy = run_python(
        f"import sys; {statement}; print([m for m in ('torch', 'triton', 'matplotlib') if m in sys.modules])"
    )
    assert heavy == "[]"


OTHERS = ("TRITON_", "TORCH", "PYTORCH_", "HF_", "OMP_")


def environment_reads(path: Path) -> Iterator[int]:
    """Lines that touch os.environ or os.getenv, but for settings of other libraries named there."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv"):
            yield from () if any(f'"{prefix}' in lines[node.lineno - 1] for prefix in OTHERS) else (node.lineno,)


def test_only_knobs_reads_the_environment():
    found = {str(p.relative_to(ROOT)): list(environment_reads(p)) for p in MODULES if p != ROOT / "knobs.py"}
    assert not {path: lines for path, lines in found.items() if lines}


def test_the_engine_knows_no_chip_by_name():
    names = {p.stem for p in (ROOT / "chips" / "data").glob("*.toml")}
    for path in (ROOT / "engine").rglob("*.py"):
        strings = {
            n.value
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert not names & {s.lower() for s in strings}, path
