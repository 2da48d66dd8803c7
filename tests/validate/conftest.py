"""Small folders of measurements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GEMM = "system,dtype,m,n,k,latency_us"


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(gemm="a,b\\n1,2") writes gemm.csv; names with a dot are kept."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name}.csv").write_text(text.strip() + "\n")
        return tmp_path

    return write
