"""What MTIA_DEBUG prints and MTIA_VERIFY refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mtia import chips, knobs
from mtia.errors import ProgramError
from mtia.host_runtime import launch, silicon


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_for_each_launch_and_a_text_for_each_program(capsys) -> None:
    x = torch.ones(7, 5, device="mtia")
    x.addcmul(x, x, value=0.125)
    with knobs.scope(debug=1):
        x.addcmul(x, x, value=0.125)
        told = lines(capsys)
    assert len(told) == 1
    assert told[0].startswith(f"mtia: mtia_addcmul grid (1, 1, 1) on {silicon.chip().name}: ")
    assert told[0].endswith(", native")
    with knobs.scope(debug=2):
        x.addcmul(x, x, value=0.125)
        first = lines(capsys)
        x.addcmul(x, x, value=0.125)
        second = lines(capsys)
    assert len(first) > 5 and "mtia_addcmul" in first[0] and any("load" in line for line in first)
    assert first[-1] == told[0] and second == told
    with knobs.scope(debug=1, values=False):
        x.addcmul(x, x, value=0.125)
    assert lines(capsys)[-1].endswith(", values off")
    with knobs.scope(debug=1, interpret=True):
        x.addcmul(x, x, value=0.125)
    assert lines(capsys)[-1].endswith(", interpreted (MTIA_INTERPRET=1)")


def test_nothing_is_said_unasked(capsys) -> None:
    torch.ones(3, device="mtia").addcmul(torch.ones(3, device="mtia"), torch.ones(3, device="mtia"))
    assert lines(capsys) == []


def test_verify_checks_a_program_at_its_first_launch_on_a_chip(monkeypatch) -> None:
    def broken(program, *args, **named):
        body = replace(program.body, commands=program.body.commands[1:])
        return replace(program, body=body), ()

    chip = replace(chips.load("mtia300"))  # equal, and new to every program
    x = torch.ones(4, device="mtia")
    with silicon.use(chip):
        with knobs.scope(verify=True):
            assert torch.equal((x + 1).cpu(), torch.full((4,), 2.0))
        monkeypatch.setattr(launch, "fit", broken)
        with knobs.scope(verify=True), pytest.raises(ProgramError, match=r"mtia_sub\w*: command 0: .*MTIA_DEBUG=2"):
            _ = x - 1
