"""Speed ratios of number formats: the chips' published ratios where compute binds, those of bytes where memory does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import mtia
from mtia import knobs
from mtia.engine.timeline import KernelTiming
from mtia.host_runtime import silicon
from mtia.host_runtime.launch import residency_of
from mtia.host_runtime.record import Session, session
from mtia.kernels.matmul import multiply
from mtia.kernels.scaled_matmul import multiply_blocks, multiply_rows
from mtia.units import fs_to_s

BITS = {"bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "mx8": 8.5, "mx4": 4.5}
WIDE = {"bf16": torch.bfloat16, "fp16": torch.float16}
NARROW = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@pytest.fixture(autouse=True)
def without_values(tmp_path: Path) -> Iterator[None]:
    """Timing only, and no tiling remembered from elsewhere."""
    torch.mtia.init()
    with knobs.scope(values=False, cache_dir=tmp_path):
        yield


def new(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="mtia")


def product(fmt: str, M: int, N: int, K: int) -> Callable[[], None]:
    """A launch of out[M, N] = x[M, K] @ w[N, K]^T in `fmt`, a 16-bit result."""
    if fmt in WIDE:
        x, w, out = (new(1, *s, dtype=WIDE[fmt]) for s in ((M, K), (N, K), (M, N)))
        return lambda: multiply(x, w.transpose(1, 2), out)
    out = new(M, N, dtype=torch.bfloat16)
    if fmt in NARROW:
        x, w = new(M, K, dtype=NARROW[fmt]), new(N, K, dtype=NARROW[fmt])
        scales = new(M, dtype=torch.float32), new(N, dtype=torch.float32)
        return lambda: multiply_rows(x, w, *scales, None, out)
    packed, element = (2, torch.uint8) if fmt == "mx4" else (1, torch.float8_e4m3fn)
    x, w = new(M, K // packed, dtype=element), new(N, K // packed, dtype=element)
    turned = [new(K // 16, rows, dtype=torch.uint8).t() for rows in (M, N)]
    return lambda: multiply_blocks(x, w, turned[0], turned[1], None, out, block=16)


def timed(launch: Callable[[], None]) -> KernelTiming:
    """The kernel's time with nothing in SRAM before."""
    launch()
    residency_of(0, silicon.chip()).clear()
    with session() as done:
        launch()
    timing = done.spans[-1].work.timing
    assert timing is not None
    return timing


def test_mtia450_large_products_stand_six_to_two_to_one() -> None:
    """8192 cubed, operands in DRAM before: published peaks 21 : 7 : 3.5 PF."""
    n = 8192
    with silicon.use("mtia450"):
        of = {fmt: timed(product(fmt, n, n, n)) for fmt in ("bf16", "fp8", "mx8", "mx4")}
    ratio = {fmt: of["bf16"].makespan_fs / t.makespan_fs for fmt, t in of.items()}
    print({fmt: f"{2 * n**3 / fs_to_s(t.makespan_fs) / 1e15:.2f} PF, {ratio[fmt]:.2f}" for fmt, t in of.items()})
    assert all(t.bound == "dpe" for t in of.values())
    assert ratio["mx4"] == pytest.approx(6, rel=0.1)
    assert ratio["fp8"] == pytest.approx(2, rel=0.1)
    assert ratio["mx8"] == pytest.approx(2, rel=0.1)
    assert ratio["mx4"] / ratio["fp8"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("fmt", ["bf16", "fp8", "mx8", "mx4"])
def test_a_product_moves_its_formats_bytes(fmt: str) -> None:
    """Packed nibbles and one scale for 16: each operand's bytes are fetched from DRAM once, and asked of SRAM so often
    as tiles of 256 x 256 need them."""
    n, tile = 4096, 256
    with silicon.use("mtia450"):
        timing = timed(product(fmt, n, n, n))
    operand = n * n * BITS[fmt] / 8
    row_scales = 2 * 4 * n if fmt == "fp8" else 0
    assert timing.dram_read_bytes == pytest.approx(2 * operand + row_scales, rel=0.01)
    asked = 2 * operand * n / tile + 2 * n * n + row_scales * n / tile
    assert timing.requested_bytes == pytest.approx(asked, rel=0.01)


@pytest.mark.parametrize("m", [1, 4, 16])
def test_mtia450_decode_products_stand_as_their_bytes(m: int) -> None:
    """A few rows by 16384 x 16384 weights in DRAM."""
    n = 16384
    with silicon.use("mtia450") as spec:
        of = {fmt: timed(product(fmt, m, n, n)) for fmt in ("bf16", "fp8", "mx8", "mx4")}
    print(
        {f: f"{t.dram_read_bytes / fs_to_s(t.makespan_fs) / spec.dram.bytes_per_s:.2f} of HBM" for f, t in of.items()}
    )
    for fmt, t in of.items():
        assert t.makespan_fs / of["bf16"].makespan_fs == pytest.approx(BITS[fmt] / 16, rel=0.1), fmt


@pytest.mark.parametrize("chip", ["mtia100", "mtia200"])
def test_decode_products_in_int8_take_half_of_fp16(chip: str) -> None:
    with silicon.use(chip):
        int8, fp16 = (timed(product(fmt, 1, 8192, 8192)).makespan_fs for fmt in ("int8", "fp16"))
    assert int8 / fp16 == pytest.approx(0.5, rel=0.1)


# --- INT8 as MTIA 100 and 200 run it ----------------------------------------------------------------------------------


def seconds(done: Session) -> float:
    return fs_to_s(done.spans[-1].end_fs - done.spans[0].start_fs)


def layer_seconds(n: int, scheme: str | None) -> float:
    """A linear layer n x n on n rows of float16, from its first kernel's start to its last one's end; weights,
    activations and results stay in SRAM from run to run."""
    layer = nn.Sequential(nn.Linear(n, n, bias=False, device="mtia", dtype=torch.float16))
    run = layer if scheme is None else mtia.quantize(layer, scheme)
    x = new(n, n, dtype=torch.float16)
    with torch.no_grad():
        for _ in range(2):
            run(x)
        torch.mtia.synchronize()
        with session() as done:
            run(x)
            torch.mtia.synchronize()
    return seconds(done)


def test_mtia200_dynamic_int8_at_2048_cubed_is_1_6_times_fp16() -> None:
    """Rows quantised as they come, products, scales: published as about 1.6 net of quantise and dequantise."""
    with silicon.use("mtia200"):
        ratio = layer_seconds(2048, None) / layer_seconds(2048, "int8")
    print(f"dynamic INT8 over FP16, 2048 cubed on MTIA 200: {ratio:.2f}; published about 1.6")
    assert ratio == pytest.approx(1.6, rel=0.15)


@pytest.mark.parametrize(("chip", "published"), [("mtia100", 102.4 / 51.2), ("mtia200", 354 / 177)])
def test_the_int8_product_alone_is_twice_fp16s(chip: str, published: float) -> None:
    n = 2048
    with silicon.use(chip):
        launches = [product(fmt, n, n, n) for fmt in ("fp16", "int8")]
        times = []
        for launch in launches:
            with session() as done:
                launch()
                launch()
            times.append(done.spans[-1].work.timing.makespan_fs)  # type: ignore[union-attr]
    assert times[0] / times[1] == pytest.approx(published, rel=0.1)
