"""Builds the two native libraries; everything else about the package is in pyproject.toml.

`mtia/_native.so`  plain C ABI, no Python and no torch headers: event loop, block gather and scatter (loaded by ctypes)
`mtia._C`          the torch extension: hooks, device guard, allocator

Objects are kept under build/native and compiled again only when a source, a header it includes, or a flag changed, so
`python setup.py build_ext --inplace` is quick when little changed.  A library without sources is left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OBJECTS = ROOT / "build" / "native"
NATIVE = "mtia._native"
TORCH_EXTENSION = "mtia._C"
SOURCES = {NATIVE: "src/mtia/engine/csrc/*.cpp", TORCH_EXTENSION: "src/mtia/host_runtime/torch_mtia/csrc/*.cpp"}

NO_COMPILER = """no C++ compiler found (tried {tried}). openMTIA builds two small native libraries with one (C++20):
  Debian, Ubuntu:  apt-get install g++
  Fedora, RHEL:    dnf install gcc-c++
  macOS:           xcode-select --install
or set CXX to the compiler's path."""

NO_PYTHON_HEADERS = """Python.h is not in {include}: the headers of this Python are needed to build mtia._C:
  Debian, Ubuntu:  apt-get install python3-dev
  Fedora, RHEL:    dnf install python3-devel"""

NO_TORCH = """torch is not installed in {python}: mtia._C is built against its headers. Run
  {python} -m pip install torch==2.13.0
first (with the pin: without it pip may fetch several gigabytes of GPU libraries)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one library is compiled and linked."""

    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]


def main() -> None:
    extensions = [Extension(name, sources) for name, sources in found_sources().items()]
    setup(ext_modules=extensions, cmdclass={"build_ext": BuildNative})


def found_sources() -> dict[str, list[str]]:
    """Library name -> its sources, for the libraries that have any."""
    found = {name: sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(glob)) for name, glob in SOURCES.items()}
    return {name: sources for name, sources in found.items() if sources}


class BuildNative(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        if fullname == NATIVE or fullname == NATIVE.rpartition(".")[2]:
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        built = build_library(ext.name, [ROOT / s for s in ext.sources])
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.resolve() != built.resolve():
            target.unlink(missing_ok=True)  # a running process keeps the old file
            shutil.copy2(built, target)


def build_library(name: str, sources: Sequence[Path]) -> Path:
    """Compile what changed and link; returns the library under build/native."""
    compiler = find_compiler()
    recipe = native_recipe() if name == NATIVE else torch_recipe()
    folder = OBJECTS / name
    folder.mkdir(parents=True, exist_ok=True)
    units = sources if name == NATIVE else merged(folder, sources)
    jobs = [(unit, object_path(folder, unit, (compiler, *recipe.compile_flags))) for unit in units]
    stale = [job for job in jobs if is_stale(job[1])]
    with ThreadPoolExecutor(max_workers=max(1, min(len(stale), os.cpu_count() or 1))) as pool:
        list(pool.map(lambda job: compile_one(compiler, recipe, *job), stale))
    library = folder / "library.so"
    objects = [obj for _, obj in jobs]
    if stale or is_unlinked(library, objects):
        run([compiler, "-shared", "-o", str(library), *map(str, objects), *recipe.link_flags], f"link {name}")
        (folder / "objects.txt").write_text("\n".join(map(str, objects)))
    return library


def merged(folder: Path, sources: Sequence[Path], parts: int = 2) -> list[Path]:
    """`parts` files that include the sources, dealt out by size: most of the work is torch's headers."""
    by_size = sorted(sources, key=lambda source: -source.stat().st_size)
    units = [folder / f"part{part}.cpp" for part in range(min(parts, len(sources)))]
    for part, unit in enumerate(units):
        text = "".join(f'#include "{source}"\n' for source in sorted(by_size[part::parts]))
        if not unit.exists() or unit.read_text() != text:
            unit.write_text(text)
    return units


def object_path(folder: Path, source: Path, flags: Sequence[str]) -> Path:
    """One object per source and flag set: changed flags give a new name, hence a new compile."""
    digest = hashlib.sha256("\0".join(flags).encode()).hexdigest()[:12]
    return folder / f"{source.stem}.{digest}.o"


def is_stale(obj: Path) -> bool:
    """True when the object is missing, or older than its source or a header it included (compiler's .d file)."""
    dependencies = obj.with_suffix(".d")
    if not obj.exists() or not dependencies.exists():
        return True
    words = dependencies.read_text().replace("\\\n", " ").split()[1:]
    return any(not os.path.exists(w) or os.stat(w).st_mtime_ns > obj.stat().st_mtime_ns for w in words)


def newest(paths: Sequence[Path]) -> int:
    return max(p.stat().st_mtime_ns for p in paths)


def is_unlinked(library: Path, objects: Sequence[Path]) -> bool:
    """True when the library is missing, older than an object, or was linked from other objects."""
    record = library.with_name("objects.txt")
    if not library.exists() or not record.exists() or newest(objects) > library.stat().st_mtime_ns:
        return True
    return record.read_text() != "\n".join(map(str, objects))


def compile_one(compiler: str, recipe: Recipe, source: Path, obj: Path) -> None:
    flags = [*recipe.compile_flags, "-MMD", "-MF", str(obj.with_suffix(".d"))]
    run([compiler, *flags, "-c", str(source), "-o", str(obj)], f"compile {source.relative_to(ROOT)}")


def run(command: Sequence[str], what: str) -> None:
    print(f"native: {what}", flush=True)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"native: could not {what}:\n  {' '.join(command)}\n{done.stdout}{done.stderr}")


def find_compiler() -> str:
    tried = [c for c in (os.environ.get("CXX"), "g++", "c++", "clang++") if c]
    for candidate in tried:
        if path := shutil.which(candidate):
            return path
    sys.exit(NO_COMPILER.format(tried=", ".join(tried)))


def native_recipe() -> Recipe:
    exact = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")  # a multiply and an add round each
    flags = ("-O3", "-std=c++17", "-fPIC", "-fopenmp-simd", "-Wall", "-Wextra", *exact, *native_arch())
    return Recipe(compile_flags=flags, link_flags=("-pthread",))


def native_arch() -> tuple[str, ...]:
    """Tuned for this machine unless OPENMTIA_PORTABLE_BUILD is set (to build on one machine for another)."""
    return () if os.environ.get("OPENMTIA_PORTABLE_BUILD") else ("-march=native",)


def torch_recipe() -> Recipe:
    include = sysconfig.get_paths()["include"]
    if not os.path.exists(os.path.join(include, "Python.h")):
        sys.exit(NO_PYTHON_HEADERS.format(include=include))
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # torch is wanted for its headers: keep our own device out
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError:
        sys.exit(NO_TORCH.format(python=sys.executable))
    abi = int(torch._C._GLIBCXX_USE_CXX11_ABI)
    torch_includes = cpp_extension.include_paths()
    kineto = os.path.join(torch_includes[0], "kineto")
    includes = [f"-isystem{path}" for path in (*torch_includes, kineto, include)]
    flags = (
        "-O2",
        "-std=c++20",
        "-fPIC",
        "-fvisibility=hidden",
        "-Wall",
        "-DTORCH_EXTENSION_NAME=_C",
        "-DTORCH_API_INCLUDE_EXTENSION_H",
        f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
        *includes,
    )
    libraries = [f"-L{path}" for path in cpp_extension.library_paths()]
    return Recipe(compile_flags=flags, link_flags=(*libraries, "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"))


main()
