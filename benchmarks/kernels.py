"""The three Triton kernels of the benchmarks, and one best-of timing loop. Runs as a script in the interpreter process.

TRITON_INTERPRET=1 python benchmarks/kernels.py    # prints one JSON line of seconds, on CPU tensors
"""

from __future__ import annotations

import json
from collections.abc import Callable
from time import process_time

import torch
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, out_ptr, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=mask) + tl.load(y_ptr + at, mask=mask), mask=mask)


@triton.jit
def softmax_kernel(x_ptr, out_ptr, n_columns, BLOCK: tl.constexpr):
    at = tl.program_id(0) * n_columns + tl.arange(0, BLOCK)
    mask = tl.arange(0, BLOCK) < n_columns
    x = tl.load(x_ptr + at, mask=mask, other=-float("inf"))
    e = tl.exp(x - tl.max(x, axis=0))
    tl.store(out_ptr + at, e / tl.sum(e, axis=0), mask=mask)


@triton.jit
def matmul_kernel(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        a = tl.load(a_ptr + rows[:, None] * K + (k + depth)[None, :])
        b = tl.load(b_ptr + (k + depth)[:, None] * N + columns[None, :])
        total += tl.dot(a, b, input_precision="ieee")
    tl.store(c_ptr + rows[:, None] * N + columns[None, :], total)


def add_case(device: str, n: int = 1 << 20) -> Callable[[], None]:
    """Vector add of `n` float32, blocks of 1024."""
    x, y = torch.randn(n).to(device), torch.randn(n).to(device)
    out = torch.empty_like(x)

    def run() -> None:
        add_kernel[(triton.cdiv(n, 1024),)](x, y, out, n, BLOCK=1024)

    run()
    torch.testing.assert_close(out.cpu(), x.cpu() + y.cpu())
    return run


def softmax_case(device: str, rows: int = 4096, columns: int = 1024) -> Callable[[], None]:
    """Row softmax in float32, one row per program."""
    x = torch.randn(rows, columns).to(device)
    out = torch.empty_like(x)

    def run() -> None:
        softmax_kernel[(rows,)](x, out, columns, BLOCK=triton.next_power_of_2(columns))

    run()
    torch.testing.assert_close(out.cpu(), x.cpu().softmax(-1))
    return run


def matmul_case(device: str, n: int = 512, block: int = 64, depth: int = 32) -> Callable[[], None]:
    """Square float32 matrix multiply, 64 x 64 x 32 blocks."""
    a, b = torch.randn(n, n).to(device), torch.randn(n, n).to(device)
    c = torch.empty_like(a)

    def run() -> None:
        matmul_kernel[(n // block, n // block)](a, b, c, n, n, n, BM=block, BN=block, BK=depth)

    run()
    torch.testing.assert_close(c.cpu(), a.cpu() @ b.cpu(), rtol=1e-4, atol=1e-3)
    return run


def best_s(run: Callable[[], object], repeats: int = 5) -> float:
    """The shortest of `repeats` times; `run` has been called before. Processor time of this process: with one thread
    that is wall time on an idle machine, and what else a busy one does is left out."""
    times = []
    for _ in range(repeats):
        start_s = process_time()
        run()
        times.append(process_time() - start_s)
    return min(times)


def native_cases() -> dict[str, Callable[[], object]]:
    """The same work by torch on the CPU."""
    x, y, out = torch.randn(1 << 20), torch.randn(1 << 20), torch.empty(1 << 20)
    rows, shares = torch.randn(4096, 1024), torch.empty(4096, 1024)
    a, b, c = torch.randn(512, 512), torch.randn(512, 512), torch.empty(512, 512)
    return {
        "add": lambda: torch.add(x, y, out=out),
        "softmax": lambda: torch.softmax(rows, -1, out=shares),
        "matmul": lambda: torch.mm(a, b, out=c),
    }


INTERPRETED_ROWS = 256
"""Rows of softmax that the interpreter computes; its time is per row, so 4096 rows are 16 times as many."""


def interpreter_times() -> dict[str, float]:
    """Seconds of each case in Triton's own interpreter. Each is run once to check, once to time."""
    softmax_s = best_s(softmax_case("cpu", rows=INTERPRETED_ROWS), 1)
    return {
        "add": best_s(add_case("cpu"), 1),
        "softmax": softmax_s * 4096 / INTERPRETED_ROWS,
        "matmul": best_s(matmul_case("cpu"), 1),
    }


if __name__ == "__main__":
    print(json.dumps(interpreter_times()))
