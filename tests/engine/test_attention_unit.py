"""The units of MTIA 450: exponentials at a rate of their own, conversions on the way; a chip without them pays both."""

from __future__ import annotations

from mtia.chips import load
from mtia.engine.cycles import FREE, cost_of
from mtia.program import commands as c
from mtia.program.types import Element, TileType, Value


def tile(element: Element, identity: int) -> Value:
    return Value(identity, f"v{identity}", TileType(element, (64, 64)))


def command(cls: type, op: str, source: Element, result: Element):
    fields = dict(index=0, operands=(tile(source, 0),), results=(tile(result, 1),), op=op)
    return cls(**fields)


def test_exponentials_take_the_units_rate():
    exp = command(c.Elementwise, "exp", Element.F32, Element.F32)
    log = command(c.Elementwise, "log", Element.F32, Element.F32)
    for name, ratio in (("mtia400", 1.0), ("mtia450", 2.0), ("mtia500", 2.0)):
        spec = load(name)
        startup = spec.pe.sfu.startup_cycles
        tables, unit = (cost_of(x, spec) for x in (log, exp))
        assert tables is not None and unit is not None
        assert (tables.cycles - startup) / (unit.cycles - startup) == ratio


def test_conversions_between_floats_are_free_where_the_file_says():
    narrow = command(c.Convert, "fp_to_fp", Element.F32, Element.F8E4M3)
    whole = command(c.Convert, "fp_to_si", Element.F32, Element.I32)
    assert cost_of(narrow, load("mtia400")) is not FREE
    assert cost_of(narrow, load("mtia450")) is FREE
    assert cost_of(whole, load("mtia450")) is not FREE
