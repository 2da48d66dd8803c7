"""Operations of Triton's language that are few lines here: mapped functions, polls, tiles of one element as scalars."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import mtia
from mtia.errors import UnsupportedOperation

N = 64


@triton.jit
def quotient_and_more(a, b):
    return a // b, a % b + 1


@triton.jit
def branches(a):
    if a > 0:
        a = a * 2
    return a


@triton.jit
def mapped(a_ptr, b_ptr, c_ptr, d_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    c, d = tl.map_elementwise(quotient_and_more, tl.load(a_ptr + i), tl.load(b_ptr + i))
    tl.store(c_ptr + i, c)
    tl.store(d_ptr + i, d)


@triton.jit
def mapped_branch(a_ptr, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(a_ptr + i, tl.map_elementwise(branches, tl.load(a_ptr + i)))


@triton.jit
def polls(flag_ptr, out_ptr):
    pid = tl.program_id(0)
    if pid > 0:
        tl.atomic_poll(flag_ptr, pid)
    tl.store(out_ptr + pid, tl.load(flag_ptr))
    tl.atomic_add(flag_ptr, 1)


@triton.jit
def exchange_under_a_branch(own_ptr, shared_ptr):
    pid = tl.program_id(0)
    if pid == 1:
        tl.atomic_cas(own_ptr + pid, 0, 5)
    if pid == 2:
        tl.atomic_cas(shared_ptr, 0, 7 + pid)


@triton.jit
def one_of_a_tile(x_ptr, out_ptr):
    tl.store(out_ptr, tl.load(x_ptr + tl.arange(0, 1)).item() * 3)


@pytest.mark.parametrize("interpret", [False, True])
def test_only_the_instances_of_a_branch_compare_and_exchange(interpret):
    own, shared = (torch.zeros(n, dtype=torch.int32, device="mtia") for n in (4, 1))
    with mtia.knobs.scope(interpret=interpret):
        exchange_under_a_branch[(4,)](own, shared)
    assert own.cpu().tolist() == [0, 5, 0, 0] and shared.item() == 9


def test_a_mapped_function_gives_several_results():
    a, b = torch.randint(-100, 100, (N,), dtype=torch.int32), torch.randint(1, 9, (N,), dtype=torch.int32)
    c, d = (torch.empty(N, dtype=torch.int32, device="mtia") for _ in range(2))
    mapped[(1,)](a.to("mtia"), b.to("mtia"), c, d, N=N)
    assert torch.equal(c.cpu(), torch.div(a, b, rounding_mode="trunc"))
    assert torch.equal(d.cpu(), torch.fmod(a, b) + 1)


def test_a_mapped_function_that_branches_is_refused():
    with pytest.raises(UnsupportedOperation, match=r"'scf.if' .inside tl.map_elementwise; use tl.where"):
        mapped_branch[(1,)](torch.ones(N, device="mtia"), N=N)


def test_a_poll_waits_for_what_another_instance_writes():
    flag, out = torch.zeros(1, dtype=torch.int32, device="mtia"), torch.empty(5, dtype=torch.int32, device="mtia")
    polls[(5,)](flag, out)
    assert out.tolist() == [0, 1, 2, 3, 4]


def test_a_tile_of_one_element_as_a_scalar():
    out = torch.empty(1, device="mtia")
    one_of_a_tile[(1,)](torch.full((1,), 2.5, device="mtia"), out)
    assert out.item() == 7.5
