"""Every example runs, and prints what the file beside it says (`--update-golden` writes it anew)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(script: Path, update_golden: bool) -> None:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("MTIA_")}
    environment = {**clean, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = script.with_suffix(".out")
    if update_golden:
        expected.write_text(done.stdout)
    assert done.stdout == expected.read_text()
