"""What makes a launch quick changes no bit: tapes, lent tiles, big chunks, reductions known by name."""

import pytest
import torch
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers

from mtia import knobs
from mtia.engine.functional import plan as plans
from mtia.host_runtime.launch import compile_kernel
from mtia.kernels.matmul import mtia_matmul


@triton.jit
def extremes(x_ptr, most_ptr, least_ptr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * BLOCK + tl.arange(0, BLOCK)[None, :])
    tl.store(most_ptr + row + tl.arange(0, 1), triton_helpers.max2(x, 1))
    tl.store(least_ptr + row + tl.arange(0, 1), triton_helpers.min2(x, 1))


def test_inductors_maximum_and_minimum_are_known_and_keep_nan():
    x = torch.randn(4, 64)
    x[1, 7] = torch.nan
    x[2, 3] = torch.inf
    most, least = (torch.empty(4, device="mtia") for _ in range(2))
    program = compile_kernel(extremes, (x, most, least), {"BLOCK": 64})
    assert [cmd.op for cmd in program.commands if cmd.mnemonic == "reduce"] == ["max_nan", "min_nan"]
    extremes[(4,)](x.to("mtia"), most, least, BLOCK=64)
    assert torch.equal(most.cpu().isnan(), torch.tensor([False, True, False, False]))
    assert torch.equal(most.cpu().nan_to_num(1e9), x.amax(1).nan_to_num(1e9))
    assert torch.equal(least.cpu().nan_to_num(1e9), x.amin(1).nan_to_num(1e9))


@triton.jit
def almost_maximum(a, b):
    return tl.where((a > b) | (b != b), a, b)


@triton.jit
def reduce_by_almost_maximum(x_ptr, out_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK)[None, :])
    tl.store(out_ptr + tl.arange(0, 1), tl.reduce(x, 1, almost_maximum))


def test_a_combiner_that_only_looks_like_it_is_interpreted():
    x = torch.empty(8)
    program = compile_kernel(reduce_by_almost_maximum, (x, x), {"BLOCK": 8})
    assert [cmd.op for cmd in program.commands if cmd.mnemonic == "reduce"] == [""]


MATRICES = [(1, 576, 1536), (3, 192, 640), (40, 130, 96)]


@pytest.mark.parametrize("shape", MATRICES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_multiplies_replay_bit_for_bit(shape, dtype):
    m, k, n = shape
    x, w = torch.randn(m, k, dtype=dtype).to("mtia"), torch.randn(n, k, dtype=dtype).to("mtia")
    replayed = [x @ w.t() for _ in range(4)][-1].cpu()
    with knobs.scope(interpret=True):
        assert torch.equal(replayed, (x @ w.t()).cpu())


def test_the_size_of_a_chunk_changes_no_bit(monkeypatch):
    x, w = torch.randn(1, 256).to("mtia"), torch.randn(2048, 256).to("mtia")
    with knobs.scope(interpret=True):
        whole = (x @ w.t()).cpu()
        monkeypatch.setattr(plans, "CHUNK_ELEMENTS", 1 << 9)
        assert torch.equal(whole, (x @ w.t()).cpu())


def test_addresses_masks_and_lent_tiles_take_no_room_in_a_chunk():
    numbers = (1, 1536, 512, 0, 512, 1, 0, 1, 512, 0, 0, 0, 0, 1536, 1)
    constants = dict(BM=1, BN=64, BK=128, ACC=tl.float32, GROUP=8, EVEN_K=True, SCALED=False, HAS_C=False)
    x = torch.empty(1)
    program = compile_kernel(mtia_matmul, (x, x, x, x, 1.0, 1.0, *numbers), {**constants, "INDEX": tl.int32})
    plan = plans.plan_of(program)
    assert (plan.largest_tile, plan.largest_held) == (128 * 64, 128)
