"""The native executor gives the interpreter's bits: random programs over every command and element type."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import (
    EIGHTS,
    F32,
    FLOATS,
    I1,
    I32,
    INTEGERS,
    SHAPES,
    Draft,
    Memory,
    Writer,
    random_tensor,
    row_major,
    same_bits,
)

from mtia.engine.functional import executor, interpreter
from mtia.engine.functional.assembly import ASSEMBLERS, ranges
from mtia.errors import OutOfBoundsAccess
from mtia.program import commands as c
from mtia.program.types import Element, TileType

N_PROGRAMS = 3


def test_every_command_has_an_entry():
    assert set(ASSEMBLERS) == set(c.COMMANDS)


def agree(program, memory, scalars=(), n_programs=N_PROGRAMS):
    """Both run on memory that starts alike and end alike."""
    assert executor.why_interpreted(program) is None, f"{executor.why_interpreted(program)}\n{program}"
    start = [t.clone() for t in memory.tensors]
    interpreter.run(memory.launch(program, scalars, n_programs))
    defined = [t.clone() for t in memory.tensors]
    for t, s in zip(memory.tensors, start, strict=True):
        t.view(torch.uint8).copy_(s.view(torch.uint8))
    executor.run(memory.launch(program, scalars, n_programs))
    for i, (mine, theirs) in enumerate(zip(memory.tensors, defined, strict=True)):
        assert same_bits(mine, theirs), f"argument {i} differs\n{program}"


@st.composite
def programs(draw):
    """Loads of every element type, drawn commands, a loop and a branch around some of them, a store of every tile."""
    draft, memory = Draft(), Memory()
    shape = draw(st.sampled_from(SHAPES))
    n = TileType(F32, shape).n_elements
    elements = draw(st.lists(st.sampled_from((*FLOATS, *INTEGERS, *EIGHTS)), min_size=2, max_size=4, unique=True))
    outputs = 6
    pointers = {e: draft.parameter(TileType(Element.PTR, (), e)) for e in elements}
    for at, e in enumerate(elements):
        memory.tensors.append(random_tensor(e, N_PROGRAMS * n, draw(st.integers(0, 99)) + at))
    out_elements = [draw(st.sampled_from((F32, Element.F64, I32, Element.BF16))) for _ in range(outputs)]
    out_pointers = [draft.parameter(TileType(Element.PTR, (), e)) for e in out_elements]
    memory.tensors.extend(random_tensor(e, N_PROGRAMS * n, 7) for e in out_elements)
    count = draft.parameter(TileType(I32))
    scale = draft.parameter(TileType(F32))
    scalars = (draw(st.integers(-3, 60)), draw(st.sampled_from((0.5, -3.0, 1e30))))

    pid = draft.add(c.ProgramId, (), TileType(I32), axis=0)
    first = draft.ew("muli", pid, draft.constant(n, TileType(I32)))
    inside = draft.offsets(shape, row_major(shape))
    at = draft.ew("addi", draft.splat(first, shape), inside)
    mask = draft.ew("cmpi", inside, draft.splat(count, shape), element=I1, predicate="slt")
    writer = Writer(draw, draft, shape, [draft.splat(scale, shape), inside], [mask], [pid, count])
    for e, pointer in pointers.items():
        operands = [draft.address(pointer, at)]
        how = draw(st.integers(0, 2))
        if how:
            operands.append(draw(st.sampled_from(writer.flags)))
        if how == 2:
            other = draft.constant(3.0 if e.is_float else 3, TileType(e, shape))
            operands.append(other)
        loaded = draft.add(c.Load, operands, TileType(e, shape), has_mask=how > 0, has_other=how == 2)
        writer.tiles.append(loaded)
        writer.compare()
    for _ in range(draw(st.integers(1, 6))):
        writer.step()
    if draw(st.booleans()):
        loop(draw, writer, count)
    if draw(st.booleans()):
        branch(draw, writer, pid)
    for _ in range(draw(st.integers(0, 4))):
        writer.step()
    for e, pointer in zip(out_elements, out_pointers, strict=True):
        value = writer.pick((e,))
        if value is None:
            continue
        operands = [draft.address(pointer, at), value]
        masked = draw(st.booleans())
        if masked:
            operands.append(draw(st.sampled_from(writer.flags)))
        draft.add(c.Store, operands, has_mask=masked)
    return draft.program(), memory, scalars


def inner(writer, tiles):
    return Writer(writer.draw, writer.draft, writer.shape, tiles, list(writer.flags), list(writer.scalars))


def loop(draw, writer, count):
    """Tiles and a scalar carried round a loop whose length is each program's own."""
    draft = writer.draft
    carried = [writer.pick((F32, I32)) for _ in range(draw(st.integers(1, 3)))] + [
        draw(st.sampled_from(writer.scalars))
    ]
    if draw(st.booleans()):
        carried.append(carried[0])
    lower, step = draft.constant(0, TileType(I32)), draft.constant(1, TileType(I32))
    bound = draft.ew("minsi", count, draft.constant(4, TileType(I32)))
    upper = draft.ew("addi", bound, writer.scalars[0])
    index = draft.index()
    args = [draft.value(TileType(I32)), *(draft.value(v.type) for v in carried)]
    draft.open()
    body = inner(writer, [*writer.tiles, *(a for a in args if a.type.shape)])
    body.scalars += [a for a in args if not a.type.shape]
    for _ in range(draw(st.integers(0, 4))):
        body.step()
    yields = []
    for arg in args[1:]:
        like = [v for v in (*body.tiles, *body.scalars) if v.type == arg.type]
        yields.append(draw(st.sampled_from(like)))
    block = draft.close(args, yields)
    results = draft.add(c.For, (lower, upper, step, *carried), *(v.type for v in carried), body=block, index=index)
    results = results if isinstance(results, tuple) else (results,)
    writer.tiles += [r for r in results if r.type.shape]
    writer.scalars += [r for r in results if not r.type.shape]


def branch(draw, writer, pid):
    draft = writer.draft
    limit = draft.constant(draw(st.integers(0, 3)), TileType(I32))
    condition = draft.add(c.Elementwise, (pid, limit), TileType(I1), op="cmpi", predicate="slt")
    index = draft.index()
    wanted = [writer.pick((*FLOATS, *INTEGERS)), draw(st.sampled_from(writer.scalars))]
    sides = []
    for _ in range(2):
        draft.open()
        side = inner(writer, list(writer.tiles))
        for _ in range(draw(st.integers(0, 3))):
            side.step()
        pool = [*side.tiles, *side.scalars]
        sides.append(draft.close((), [draw(st.sampled_from([v for v in pool if v.type == w.type])) for w in wanted]))
    results = draft.add(c.If, (condition,), *(w.type for w in wanted), then=sides[0], otherwise=sides[1], index=index)
    writer.tiles.append(results[0])
    writer.scalars.append(results[1])


@settings(max_examples=150)
@given(programs())
def test_random_programs(case):
    agree(*case)


def tile(element, *shape):
    return TileType(element, shape)


def pointer(draft, memory, element, n, seed=3):
    memory.tensors.append(random_tensor(element, n, seed))
    return draft.parameter(TileType(Element.PTR, (), element))


def block_of(draft, pointer_, shape, strides=None):
    """Addresses of one block a program, all of it."""
    n = tile(I32, *shape).n_elements
    pid = draft.add(c.ProgramId, (), tile(I32), axis=0)
    first = draft.splat(draft.ew("muli", pid, draft.constant(n, tile(I32))), shape)
    return draft.address(pointer_, draft.ew("addi", first, draft.offsets(shape, strides or row_major(shape))))


MULTIPLIES = [
    (F32, F32, "ieee"), (F32, F32, "tf32"), (Element.BF16, F32, "ieee"), (Element.F16, Element.F16, "ieee"),
    (Element.F64, Element.F64, "ieee"), (Element.I8, I32, "ieee"), (Element.F8E4M3, F32, "ieee"),
]  # fmt: skip


@pytest.mark.parametrize(("element", "accumulator", "precision"), MULTIPLIES)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(1, 32, 64), (16, 16, 16), (32, 8, 40)])
def test_multiplies(element, accumulator, precision, turned, shape):
    """Accumulated in a loop over K, `b` in either layout."""
    m, k, n = shape
    draft, memory = Draft(), Memory()
    a, b = (pointer(draft, memory, element, N_PROGRAMS * size, seed) for seed, size in ((1, m * k), (2, k * n)))
    out = pointer(draft, memory, accumulator, N_PROGRAMS * m * n)
    x = draft.add(c.Load, (block_of(draft, a, (m, k)),), tile(element, m, k))
    y = draft.add(c.Load, (block_of(draft, b, (k, n), [1, k] if turned else None),), tile(element, k, n))
    zero = draft.constant(0.0 if accumulator.is_float else 0, tile(accumulator, m, n))
    bounds = [draft.constant(v, tile(I32)) for v in (0, 3, 1)]
    index = draft.index()
    args = [draft.value(tile(I32)), draft.value(zero.type)]
    draft.open()
    total = draft.add(c.MatMul, (x, y, args[1]), zero.type, precision=precision)
    body = draft.close(args, (total,))
    total = draft.add(c.For, (*bounds, zero), zero.type, body=body, index=index)
    draft.add(c.Store, (block_of(draft, out, (m, n)), total))
    agree(draft.program(), memory)


def inside(draft, shape, dim, bound):
    """Mask of the indices along `dim` below `bound`."""
    along = draft.offsets(shape, [int(d == dim) for d in range(len(shape))])
    return draft.ew("cmpi", along, draft.splat(bound, shape), element=I1, predicate="slt")


@pytest.mark.parametrize("other", [None, 0.0, 3.0, float("nan")])
@pytest.mark.parametrize("depth", [-1, 0, 5, 16, 40, 64, 99])
@pytest.mark.parametrize("columns", [7, 48])
@pytest.mark.parametrize("rows", [1, 2, 4, 8])
def test_a_right_hand_side_left_in_memory(rows, columns, depth, other):
    """Turned, cut off in depth and in columns: bits of the multiply do not say where its operand lay. Accumulators and
    factors hold zeros of both signs, infinities and NaN."""
    k, n = 64, 48
    draft, memory = Draft(), Memory()
    a, b, start = (
        pointer(draft, memory, F32, N_PROGRAMS * size, seed)
        for seed, size in ((1, rows * k), (2, k * n), (3, rows * n))
    )
    out = pointer(draft, memory, F32, N_PROGRAMS * rows * n)
    limits = [draft.parameter(tile(I32)) for _ in range(2)]
    x = draft.add(c.Load, (block_of(draft, a, (rows, k)), inside(draft, (rows, k), 1, limits[0])), tile(F32, rows, k),
                  has_mask=True)  # fmt: skip
    mask = draft.ew("andi", inside(draft, (k, n), 0, limits[0]), inside(draft, (k, n), 1, limits[1]))
    operands = [block_of(draft, b, (k, n), [1, k]), mask]
    operands += [] if other is None else [draft.constant(other, tile(F32, k, n))]
    y = draft.add(c.Load, operands, tile(F32, k, n), has_mask=True, has_other=other is not None)
    total = draft.add(c.Load, (block_of(draft, start, (rows, n)),), tile(F32, rows, n))
    total = draft.add(c.MatMul, (x, y, total), total.type, precision="ieee")
    draft.add(c.Store, (block_of(draft, out, (rows, n)), total))
    agree(draft.program(), memory, (depth, columns))


def later(draft, args):
    """The region of a running extreme: of two (value, place) pairs the larger value's, the later place of equals."""
    left, at, right, other = args
    first = draft.add(c.Elementwise, (left, right), tile(I1), op="cmpf" if left.type.element.is_float else "cmpi",
                      predicate="ogt" if left.type.element.is_float else "sgt")  # fmt: skip
    return [draft.ew("select", first, x, y, element=x.type.element) for x, y in ((left, right), (at, other))]


def narrow_sum(draft, args):
    """The region of a sum that adds one third each time: its order shows."""
    third = draft.constant(1 / 3 if args[0].type.element.is_float else 3, args[0].type)
    add = "addf" if args[0].type.element.is_float else "addi"
    return [draft.ew(add, draft.ew(add, *args), third)]


@pytest.mark.parametrize("element", [F32, Element.BF16, Element.F64, I32, Element.I8])
@pytest.mark.parametrize("region", [later, narrow_sum])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("shape", "dim"), [((64,), 0), ((1,), 0), ((4, 32), 1), ((32, 4), 0), ((2, 8, 4), 1)])
def test_scans_with_a_region(element, region, reverse, shape, dim):
    draft, memory = Draft(), Memory()
    n = tile(I32, *shape).n_elements
    source, out, places = (pointer(draft, memory, e, N_PROGRAMS * n, 4) for e in (element, element, I32))
    x = draft.add(c.Load, (block_of(draft, source, shape),), tile(element, *shape))
    operands = [x, draft.offsets(shape, row_major(shape))] if region is later else [x]
    index = draft.index()
    args = [draft.value(tile(o.type.element)) for _ in range(2) for o in operands]
    draft.open()
    combine = draft.close(args, region(draft, args))
    found = draft.add(c.Scan, operands, *(o.type for o in operands), combine=combine, index=index, dim=dim,
                      reverse=reverse)  # fmt: skip
    found = found if isinstance(found, tuple) else (found,)
    for target, value in zip((out, places), found, strict=False):
        draft.add(c.Store, (block_of(draft, target, shape), value))
    agree(draft.program(), memory)


@pytest.mark.parametrize("op", ["add", "mul"])
@pytest.mark.parametrize("element", [Element.I8, Element.I16])
def test_running_totals_of_short_integers_wrap(element, op):
    draft, memory = Draft(), Memory()
    source, out = (pointer(draft, memory, element, N_PROGRAMS * 64, seed) for seed in (1, 2))
    x = draft.add(c.Load, (block_of(draft, source, (64,)),), tile(element, 64))
    index = draft.index()
    args = [draft.value(tile(element)) for _ in range(2)]
    draft.open()
    combine = draft.close(args, [draft.ew("addi" if op == "add" else "muli", *args)])
    total = draft.add(c.Scan, (x,), x.type, combine=combine, index=index, dim=0, op=op)
    draft.add(c.Store, (block_of(draft, out, (64,)), total))
    agree(draft.program(), memory)


@pytest.mark.parametrize("op", ["divsi", "divui", "remsi", "remui"])
@pytest.mark.parametrize("divisor", [1, 2, 16, 24, 32, 96, 1024])
@pytest.mark.parametrize("first", [0, 16, 8, -32])
def test_division_of_a_programs_indices(op, divisor, first):
    """Indices that stay below one multiple of the divisor are affine; all others are divided one by one."""
    draft, memory = Draft(), Memory()
    values, out = pointer(draft, memory, F32, 4096, 1), pointer(draft, memory, I32, 16 * N_PROGRAMS)
    shape = (16,)
    pid = draft.add(c.ProgramId, (), tile(I32), axis=0)
    base = draft.ew("addi", draft.ew("muli", pid, draft.constant(16, tile(I32))), draft.constant(first, tile(I32)))
    index = draft.ew("addi", draft.splat(base, shape), draft.offsets(shape, [1]))
    found = draft.ew(op, index, draft.constant(divisor, index.type))
    below = draft.ew("andi", found, draft.constant(4095, index.type))
    draft.add(c.Load, (draft.address(values, below),), tile(F32, *shape))
    draft.add(c.Store, (block_of(draft, out, shape), found))
    agree(draft.program(), memory)


def test_a_grid_larger_than_was_assumed_runs_other_instructions(monkeypatch):
    """An index that overflows is divided as it is, not as one that cannot."""
    monkeypatch.setattr(ranges, "MOST_PROGRAMS", 2)
    draft, memory = Draft(), Memory()
    out = pointer(draft, memory, I32, 16 * N_PROGRAMS)
    pid = draft.add(c.ProgramId, (), tile(I32), axis=0)
    base = draft.ew("muli", pid, draft.constant(1 << 30, tile(I32)))
    index = draft.ew("addi", draft.splat(base, (16,)), draft.offsets((16,), [1]))
    draft.add(c.Store, (block_of(draft, out, (16,)), draft.ew("divsi", index, draft.constant(1 << 29, index.type))))
    program = draft.program()
    agree(program, memory)
    known = executor.executor_of(program)
    assert isinstance(known, executor.Executor)
    assert known.most_programs == 2 < N_PROGRAMS and known.for_any_grid.most_programs is None
    assert len(known.assembled.code) < len(known.for_any_grid.assembled.code)


@pytest.mark.parametrize("op", ["add", "max", "min", "umax", "and", "or", "xor", "exch"])
@pytest.mark.parametrize("element", [I32, Element.I64])
def test_atomics_update_in_program_order(op, element):
    draft, memory = Draft(), Memory()
    counters, values = (pointer(draft, memory, element, 64, seed) for seed in (1, 2))
    where, out = pointer(draft, memory, I32, 64, 4), pointer(draft, memory, element, 64)
    shape = (16,)
    index = draft.add(c.Load, (block_of(draft, where, shape),), tile(I32, *shape))
    slot = draft.ew("remui", index, draft.constant(8, index.type))
    value = draft.add(c.Load, (block_of(draft, values, shape),), tile(element, *shape))
    old = draft.add(c.AtomicRmw, (draft.address(counters, slot), value), value.type, op=op)
    draft.add(c.Store, (block_of(draft, out, shape), old))
    agree(draft.program(), memory)


def test_floats_are_added_atomically_in_program_order():
    draft, memory = Draft(), Memory()
    total, values = pointer(draft, memory, F32, 4, 1), pointer(draft, memory, F32, 64, 2)
    value = draft.add(c.Load, (block_of(draft, values, (16,)),), tile(F32, 16))
    at = draft.ew("andi", draft.offsets((16,), [1]), draft.constant(3, tile(I32, 16)))
    draft.add(c.AtomicRmw, (draft.address(total, at), value), op="fadd")
    agree(draft.program(), memory)


def test_scattered_stores_keep_the_last_write_and_histograms_count():
    draft, memory = Draft(), Memory()
    data, where = pointer(draft, memory, F32, 64, 1), pointer(draft, memory, I32, 64, 2)
    out, counts = pointer(draft, memory, F32, 16), pointer(draft, memory, I32, 64)
    index = draft.add(c.Load, (block_of(draft, where, (16,)),), tile(I32, 16))
    inside = draft.ew("remui", index, draft.constant(16, index.type))
    value = draft.add(c.Load, (block_of(draft, data, (16,)),), tile(F32, 16))
    keep = draft.ew("cmpf", value, draft.constant(0.0, value.type), element=I1, predicate="ogt")
    draft.add(c.Store, (draft.address(out, inside), value, keep), has_mask=True)
    bins = draft.add(c.Histogram, (inside, keep), tile(I32, 8))
    draft.add(c.Store, (block_of(draft, counts, (8,)), bins))
    agree(draft.program(), memory)


def test_a_while_loop_runs_as_long_as_each_program_asks():
    draft, memory = Draft(), Memory()
    values = pointer(draft, memory, F32, 64, 1)
    at = block_of(draft, values, (16,))
    start = draft.add(c.Load, (at,), tile(F32, 16))
    pid = draft.add(c.ProgramId, (), tile(I32), axis=0)
    index = draft.index()
    before = [draft.value(tile(I32)), draft.value(start.type)]
    draft.open()
    more = draft.add(c.Elementwise, (before[0], draft.constant(5, tile(I32))), tile(I1), op="cmpi", predicate="slt")
    first = draft.close(before, (more, *before))
    after = [draft.value(tile(I32)), draft.value(start.type)]
    draft.open()
    counted = draft.ew("addi", after[0], draft.constant(1, tile(I32)))
    grown = draft.ew("addf", after[1], draft.constant(0.1, start.type))
    second = draft.close(after, (counted, grown))
    _, end = draft.add(c.While, (pid, start), tile(I32), start.type, before=first, after=second, index=index)
    draft.add(c.Store, (at, end))
    agree(draft.program(), memory)


def outside():
    draft, memory = Draft(), Memory()
    values = pointer(draft, memory, F32, 40, 1)
    at = block_of(draft, values, (16,))
    draft.add(c.Store, (at, draft.add(c.Load, (at,), tile(F32, 16))))
    return draft.program(), memory


def test_an_access_outside_is_refused_in_the_interpreters_words():
    program, memory = outside()
    texts = []
    for run in (interpreter.run, executor.run):
        with pytest.raises(OutOfBoundsAccess) as caught:
            run(memory.launch(program, (), N_PROGRAMS))
        texts.append(str(caught.value))
    assert texts[0] == texts[1] and "(2, 0, 0)" in texts[0]


def test_a_program_without_instructions_is_interpreted_and_says_why(capsys):
    draft, memory = Draft(), Memory()
    values = pointer(draft, memory, F32, 48, 1)
    draft.add(
        c.Print, (draft.add(c.Load, (block_of(draft, values, (16,)),), tile(F32, 16)),), prefix="x ", signed=(False,)
    )
    program = draft.program()
    assert executor.why_interpreted(program) == "print, which the interpreter runs"
    before = executor.counts["interpreted"]
    executor.run(memory.launch(program, (), N_PROGRAMS))
    assert executor.reasons["print, which the interpreter runs"] >= 1
    assert executor.counts["interpreted"] == before + 1 and "pid (0, 0, 0)" in capsys.readouterr().out
