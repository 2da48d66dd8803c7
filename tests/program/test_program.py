"""What is found of a program is found once, stays with its commands, and is not pickled."""

from __future__ import annotations

import pickle

from mtia.program.commands import Block
from mtia.program.program import TileProgram, once_a_program


def test_what_is_found_of_commands_is_found_once_and_stays_with_other_buffers_but_not_in_a_pickle() -> None:
    asked: list[str] = []

    @once_a_program
    def found(program: TileProgram) -> str:
        asked.append(program.name)
        return program.name.upper()

    program = TileProgram(name="empty", parameters=(), body=Block(commands=()), buffers=())
    assert [found(program), found(program), found(program.with_buffers(()))] == ["EMPTY"] * 3
    assert asked == ["empty"]
    again = pickle.loads(pickle.dumps(program))
    assert again.name == program.name
    assert found(again) == "EMPTY"
    assert asked == ["empty", "empty"]
