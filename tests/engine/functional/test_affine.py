"""The symbolic rules agree with plain tensors: whatever a rule returns is what the element-wise operation gives."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtia.engine.functional import affine, pointwise
from mtia.engine.functional.values import Box, Lin, dense, full, intersect
from mtia.program import commands as c
from mtia.program.types import Element, TileType, Value

PROGRAMS = 4
SHAPE = (4, 8)
I32, I1 = TileType(Element.I32, SHAPE), TileType(Element.I1, SHAPE)


STRIDES = st.integers(-40, 40)


def lins(strides=STRIDES):
    base = st.one_of(
        st.integers(-200, 200),
        st.lists(st.integers(-200, 200), min_size=PROGRAMS, max_size=PROGRAMS).map(lambda xs: np.array(xs, np.int64)),
    )
    sparse = st.tuples(st.one_of(st.just(0), strides), st.one_of(st.just(0), strides))
    return st.builds(Lin, base, sparse)


def command(op, result=I32, predicate="", n_operands=2):
    operands = tuple(Value(i, f"v{i}", I32) for i in range(n_operands))
    return c.Elementwise(index=0, operands=operands, results=(Value(9, "r", result),), op=op, predicate=predicate)


def agree(cmd, held):
    result = affine.RULES[cmd.op](cmd, held)
    if result is None:
        return
    expected = pointwise.evaluate(cmd, [dense(h, o.type) for h, o in zip(held, cmd.operands, strict=True)])
    actual = full(dense(result, cmd.result.type), cmd.result.type, PROGRAMS)
    assert torch.equal(actual, full(expected, cmd.result.type, PROGRAMS))


@given(
    st.sampled_from(["addi", "subi", "muli", "divsi", "remsi", "maxsi", "minsi", "andi", "ori", "xori"]), lins(), lins()
)
def test_arithmetic(op, a, b):
    agree(command(op), [a, b])


@given(
    st.sampled_from(["shli", "shrsi", "divsi", "remsi", "divui", "remui", "floordivsi", "ceildivsi"]),
    lins(st.integers(0, 8)),
    st.integers(1, 9),
)
def test_by_a_constant(op, a, constant):
    if op in ("divui", "remui"):
        a = Lin(np.abs(a.base) if isinstance(a.base, np.ndarray) else abs(a.base), a.strides)
    agree(command(op), [a, Lin(constant, (0, 0))])


PREDICATES = ["eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge"]


@given(st.sampled_from(PREDICATES), lins(), lins())
def test_comparisons_become_boxes_or_nothing(predicate, a, b):
    agree(command("cmpi", I1, predicate), [a, b])


def test_a_bound_on_one_dim_is_a_box():
    rows = Lin(0, (1, 0))
    box = affine.compare(command("cmpi", I1, "slt"), [rows, Lin(3, (0, 0))])
    assert isinstance(box, Box) and box.bounds == ((0, 3), None)


@given(st.sampled_from(PREDICATES), lins(), lins(), st.sampled_from(PREDICATES), lins(), lins())
def test_intersection_is_and(p, a, b, q, x, y):
    left, right = (affine.compare(command("cmpi", I1, k), [s, t]) for k, s, t in ((p, a, b), (q, x, y)))
    if isinstance(left, Box) and isinstance(right, Box):
        both = full(dense(left, I1), I1, PROGRAMS) & full(dense(right, I1), I1, PROGRAMS)
        assert torch.equal(full(dense(intersect(left, right), I1), I1, PROGRAMS), both)


@settings(max_examples=200)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_products_wrap_like_32_bit_integers(a, b):
    agree(command("muli"), [Lin(a, (0, 0)), Lin(b, (0, 0))])


WIDTHS = (Element.I8, Element.I16, Element.I32, Element.I64)


@settings(deadline=None)
@given(lins(st.integers(-20_000, 20_000)), st.sampled_from(WIDTHS), st.sampled_from(WIDTHS), st.booleans())
def test_a_conversion_is_what_the_bits_say(x, source, target, signed):
    """extsi, extui and trunci of symbolic integers, held against the same on tensors; from values the source holds."""
    if source.n_bits == target.n_bits:
        return
    op = "trunci" if target.n_bits < source.n_bits else "extsi" if signed else "extui"
    from_, to = TileType(source, SHAPE), TileType(target, SHAPE)
    plain = full(dense(x, TileType(Element.I64, SHAPE)), TileType(Element.I64, SHAPE), PROGRAMS)
    if not -(1 << (source.n_bits - 1)) <= int(plain.min()) <= int(plain.max()) < 1 << (source.n_bits - 1):
        return
    result = affine.convert(op, x, from_, target)
    if result is not None:
        cmd = c.Convert(index=0, operands=(Value(0, "x", from_),), results=(Value(1, "r", to),), op=op)
        expected = full(pointwise.convert(cmd, dense(x, from_)), to, PROGRAMS)
        assert torch.equal(full(dense(result, to), to, PROGRAMS), expected)
