"""Blocks of their own, loops that work one iteration ahead, and rings that loads share: three mechanisms of attention."""

from __future__ import annotations

import torch
import triton.language as tl

from mtia.chips import load
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.tracer import trace_launch
from mtia.engine.schedule import UNITS, compile_schedule
from mtia.engine.timing import run_timed
from mtia.engine.trace import Trace
from mtia.host_runtime.launch import compile_kernel
from mtia.kernels.attention import LOG2_E, mtia_attention_forward
from mtia.program.commands import Load, Store, Unit
from mtia.program.fit import fit, share_by_tensor
from mtia.program.program import TileProgram

H, S, D, B = 8, 512, 64, 64
FIRST = 1 << 40


def _program(lookahead: bool) -> TileProgram:
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    arguments = [*[like] * 5, 1.0, 1.0, *[1] * 8, *[1] * 16]
    constants = dict(
        BQ=B, BG=1, BN=B, BD=D, D=D, CAUSAL=True, WINDOWED=False, HAS_LSE=False, LOOKAHEAD=lookahead, TYPE=tl.bfloat16,
        INDEX=tl.int32,
    )  # fmt: skip
    return compile_kernel(mtia_attention_forward, arguments, constants)


def _trace(chip: str, lookahead: bool = False) -> Trace:
    size = 2 * H * S * D
    pointers = [FIRST + i * size for i in range(4)]
    strides = (H * S * D, S * D, D, 1)
    arguments = [*pointers, pointers[3], LOG2_E / D**0.5, 1.0, S, S, H, 1, H, 1, 0, 0, *strides * 4]
    program = fit(_program(lookahead), load(chip))[0]
    return trace_launch(Launch(program=program, grid=(H * S // B, 1, 1), arguments=arguments))


def test_blocks_that_wait_for_each_other_are_never_faster() -> None:
    """More of them on a PE at once: sooner; as buffers allow: soonest. Each takes its time to be set up."""
    spec = load("h100_sxm").vary({"grid.rows": 2, "grid.cols": 2, "launch.program_s": 1e-6})
    trace = _trace("h100_sxm")
    free = run_timed(trace, spec)
    times = [run_timed(trace, spec, resident=n).makespan_fs for n in (1, 2, 4)]
    assert times == sorted(times, reverse=True)
    assert times[-1] > free.makespan_fs
    waves = -(-trace.n_programs // spec.grid.n_pes)
    assert times[0] > free.makespan_fs + (waves - 1) * 1_000_000_000  # a microsecond each, one after the other
    assert run_timed(trace, spec, resident=1).dram_read_bytes == free.dram_read_bytes


def test_scores_of_the_next_block_do_not_wait_for_this_ones_weights() -> None:
    """A value that a loop hands to its next iteration is the one made before, though this iteration has made its own."""
    spec = load("mtia300")
    schedule = compile_schedule(_trace("mtia300", lookahead=True), spec)
    multiplies = [i for i, node in enumerate(schedule.nodes) if UNITS[node.unit] is Unit.DPE]
    first_scores, next_scores, answers = multiplies[:3]
    behind = _all_before(schedule.nodes, answers)
    assert first_scores in behind
    assert next_scores not in behind
    ahead, plain = (run_timed(_trace("mtia300", lookahead=ahead), spec).makespan_fs for ahead in (True, False))
    assert ahead < 0.95 * plain


def _all_before(nodes: list, node: int) -> set[int]:
    pending, found = [node], set[int]()
    while pending:
        fresh = nodes[pending.pop()].deps - found
        found |= fresh
        pending.extend(fresh)
    return found


def test_loads_of_one_tensor_share_a_ring_where_memory_is_short() -> None:
    """Keys of the plain and the masked loop: one ring. The answer takes the place of the queries."""
    program = _program(False)
    shared = share_by_tensor(program)
    rings: dict[int, list[str]] = {}
    for b in shared:
        command = program.commands[b.command]
        rings.setdefault(b.id, []).append("store" if isinstance(command, Store) else "load")
        assert isinstance(command, Load | Store)
    assert sorted(sorted(ring) for ring in rings.values()) == [["load", "load"], ["load", "load"], ["load", "store"]]
    assert [b.slots for b in shared] == [b.slots for b in program.buffers]
    roomy, tight = load("h100_sxm"), load("h100_sxm").vary({"pe.local_memory_bytes": 6 * B * D * 2})
    assert len({b.id for b in fit(program, roomy)[0].buffers}) == len(program.buffers)
    assert fit(program, tight)[0].buffer_bytes <= 6 * B * D * 2
