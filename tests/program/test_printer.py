"""A program prints as text that fits on a screen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mtia
from mtia import knobs
from mtia.host_runtime.launch import site_of
from mtia.host_runtime.record import session

GOLDEN = Path(__file__).parent / "golden"


def printed_matmul(cache_dir: Path) -> str:
    """torch.mm of 512 x 512 x 512 as it runs on MTIA 200, tiling chosen anew."""
    with knobs.scope(values=False, cache_dir=cache_dir), mtia.use("mtia200") as spec, session() as done:
        x = torch.empty(512, 512, dtype=torch.bfloat16, device="mtia")
        torch.mm(x, x)
        program = done.spans[-1].work.program
        assert program is not None
        return str(site_of(program, spec).program)


def test_matmul_512_on_mtia200(tmp_path: Path, update_golden: bool):
    """`pytest --update-golden` rewrites the file after a wanted change; read the difference before committing it."""
    text, file = printed_matmul(tmp_path), GOLDEN / "matmul_512_mtia200.txt"
    if update_golden:
        file.write_text(text)
        pytest.skip(f"wrote {file.name}")
    assert text == file.read_text()


def test_it_fits_on_a_screen_and_shows_what_the_engines_do(tmp_path: Path):
    text = printed_matmul(tmp_path)
    lines = text.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 120, max(lines, key=len)
    for word in ("dma_in", "dma_out", "dpe", "load", "store", "matmul", "cb0", "slots", "for"):
        assert word in text
