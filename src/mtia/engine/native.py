"""The native library (`mtia/_native.so`): block copies for the functional simulator, the event loop of timing.

Built by the install from `engine/csrc/*.cpp`, plain C ABI, loaded once on first use.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

from mtia.errors import MtiaError


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The loaded library. Raises MtiaError saying how to build it where it is missing."""
    path = Path(__file__).resolve().parent.parent / "_native.so"
    if not path.exists():
        raise MtiaError(
            f"the native library {path.name} is not built; run `make setup` (it needs a C++ compiler: "
            "Debian package g++)"
        )
    return ctypes.CDLL(str(path))
