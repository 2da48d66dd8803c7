"""From a TileProgram to the instructions of the native executor (engine/csrc/executor.cpp).

One pass over the commands (`assembler.py`; the other files hold a family of commands each). What a value is decides
what its command becomes:

* `Scalar`: an integer, flag or address of one program: a 64-bit register, computed by scalar instructions.
* `Linear`: a tile of integers or addresses that is affine in the tile's indices: a base and a stride per dim, all
  `Scalar`. A load or store through it is one block copy.
* `Mask`: a box of the tile (an interval per dim, a flag), all `Scalar`.
* `Tile`: elements in a slot, with a stride per dim (0: the same for all its indices), so that splats, broadcasts,
  transposes and splits are views.

These are `values.Lin` and `values.Box` with registers for numbers, and the same rules keep them symbolic; arithmetic
is exact either way, so the interpreter and the executor agree bit for bit. What depends on arguments alone is computed
once a launch, before the programs run. A program with a command that has no instruction raises `NotAssembled`.
"""

from __future__ import annotations

from mtia.engine.functional.assembly import control, multiply, reductions, shapes  # noqa: F401  (fill the table)
from mtia.engine.functional.assembly.assembler import ASSEMBLERS, Assembler
from mtia.engine.functional.assembly.held import Assembled, NotAssembled, Redo, float_bits
from mtia.program.program import TileProgram


def assemble(program: TileProgram, *, any_grid: bool = False) -> Assembled:
    """The program's instructions; those of `any_grid` may be slower. Raises NotAssembled."""
    as_tiles: set[int] = set()
    while True:
        try:
            return Assembler(program, as_tiles, any_grid=any_grid).assemble()
        except Redo as again:
            as_tiles.add(again.args[0])


__all__ = ["ASSEMBLERS", "Assembled", "NotAssembled", "assemble", "float_bits"]
