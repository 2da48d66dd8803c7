"""The same bits from run to run, in every process, and from the interpreter as from the executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from sampled_bits import built_in_bits, digest, random_program_bits
from test_executor import N_PROGRAMS, programs

from mtia.engine.functional import executor
from mtia.engine.functional.assembly import assemble


@settings(max_examples=25)
@given(programs())
def test_a_program_gives_the_same_instructions_and_bits_again(case) -> None:
    program, memory, scalars = case
    start = [t.clone() for t in memory.tensors]
    executor.run(memory.launch(program, scalars, N_PROGRAMS))
    first = digest(memory.tensors)
    for t, s in zip(memory.tensors, start, strict=True):
        t.copy_(s)
    executor.run(memory.launch(program, scalars, N_PROGRAMS))
    assert digest(memory.tensors) == first
    one, other = assemble(program), assemble(program)
    assert (one.code.tobytes(), one.data) == (other.code.tobytes(), other.data)


@pytest.fixture(scope="module")
def bits() -> dict[str, str]:
    return {**random_program_bits(), **built_in_bits()}


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "2"}, {"PYTHONHASHSEED": "2", "MTIA_INTERPRET": "1"}],
    ids=["another process", "another process, interpreted"],
)
def test_another_process_gives_the_same_bits(bits: dict[str, str], environment: dict[str, str]) -> None:
    script = Path(__file__).with_name("sampled_bits.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert theirs.keys() == bits.keys()
    assert {name for name in bits if bits[name] != theirs[name]} == set()


def test_the_sample_is_computed_natively_and_differs_within_itself(bits: dict[str, str]) -> None:
    before = executor.counts["interpreted"]
    assert random_program_bits() == {k: v for k, v in bits.items() if k.startswith("random program")}
    assert executor.counts["interpreted"] == before
    assert len(set(bits.values())) > 20
