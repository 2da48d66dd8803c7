"""What a chip refuses in a user's kernel, and how it says so: kernel, program instance, line, limit, way out."""

import inspect
import re

import pytest
import torch
import triton
import triton.language as tl

import mtia
from mtia import errors
from mtia.chips.multiply import first_with
from mtia.program.fit import ChipLimitWarning


@triton.jit
def copy_block(x_ptr, out_ptr, offset, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + offset + i, mask=i < n, other=0), mask=i < n)


@triton.jit
def gather_rows(x_ptr, index_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + tl.load(index_ptr + i)))


@triton.jit
def huge_tile(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]
    tl.store(out_ptr + at, tl.load(x_ptr + at) + 1)


@triton.jit
def many_loads(x_ptr, out_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    tiles = ()
    for j in tl.static_range(N):
        tiles = tiles + (tl.load(x_ptr + j * BLOCK + i),)
    for j in tl.static_range(N):
        total = tl.maximum(total, tiles[j]) + tiles[N - 1 - j]
    tl.store(out_ptr + i, total)


@triton.jit
def dot_fp8(x_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    x = tl.load(x_ptr + at).to(tl.float8e4nv)
    tl.store(out_ptr + at, tl.dot(x, x))


@triton.jit
def checked(x_ptr, n):
    i = tl.program_id(0)
    tl.device_assert(tl.load(x_ptr + i) < n, "index too large")


@triton.jit
def inline_assembly(x_ptr):
    x = tl.load(x_ptr + tl.arange(0, 16))
    y = tl.inline_asm_elementwise("mov.u32 $0, $1;", "=r,r", [x], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(x_ptr + tl.arange(0, 16), y)


def line_of(kernel, text):
    source, first = inspect.getsourcelines(kernel.fn)
    return first + next(i for i, line in enumerate(source) if text in line)


def ones(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype).to("mtia")


def test_a_load_beyond_its_allocation_names_instance_line_and_tensor():
    x, out = ones(1000), ones(2048)
    with pytest.raises(errors.OutOfBoundsAccess) as caught:
        copy_block[(2,)](x, out, 0, 2048, BLOCK=1024)
    error = caught.value
    assert (error.kernel, error.instance, error.argument, error.access) == ("copy_block", (0, 0, 0), "x_ptr", "load")
    assert (error.offset_bytes, error.allocation_bytes) == (4000, 4000)
    assert error.line.endswith(f":{line_of(copy_block, 'tl.store')}")
    assert "Mask the access" in str(error)


def test_a_gathered_address_beyond_its_allocation_is_found():
    index = torch.tensor([0, 1, 2, 900, 4, 5, 6, 7], dtype=torch.int32).to("mtia")
    with pytest.raises(
        errors.OutOfBoundsAccess, match=r"offset 3,600 bytes of 'x_ptr', whose allocation has 400 bytes"
    ):
        gather_rows[(1,)](ones(100), index, ones(8), BLOCK=8)


def test_a_store_before_its_allocation_is_found():
    with pytest.raises(errors.OutOfBoundsAccess, match=r"load at 0x[0-9a-f]+, offset -64 bytes of 'x_ptr'"):
        copy_block[(1,)](ones(64), ones(64), -16, 64, BLOCK=64)


def test_a_misaligned_access_is_refused_where_the_dma_needs_32_bytes():
    with mtia.use("mtia100"):
        with pytest.raises(errors.MisalignedAccess, match=r"'x_ptr' is not a multiple of 32 bytes.*mtia100") as caught:
            copy_block[(1,)](ones(100), ones(64), 1, 64, BLOCK=64)
        assert caught.value.kernel == "copy_block"
        assert caught.value.line.endswith(f":{line_of(copy_block, 'tl.store')}")
        with pytest.raises(errors.MisalignedAccess) as caught:
            copy_block[(5,)](ones(400), ones(320), 1, 320, BLOCK=64)
        assert caught.value.instance == (0, 0, 0)
    with mtia.use("mtia300"):  # byte-aligned DMA (facts 4.2)
        copy_block[(1,)](ones(100), ones(64), 1, 64, BLOCK=64)


def test_a_tile_larger_than_local_memory_is_refused():
    with mtia.use("mtia100"):
        x = ones(256, 256)
        with pytest.raises(errors.OutOfLocalMemory, match=r"need 524,288 bytes of local memory, the PE has 131,072"):
            huge_tile[(1,)](x, torch.empty_like(x), ROWS=256, COLS=256)


def test_more_circular_buffers_than_the_pe_has_are_refused():
    x, out = ones(32 * 64), ones(64)
    with pytest.raises(errors.TooManyCircularBuffers, match=r"needs \d+ circular buffers, a PE has 14") as caught:
        many_loads[(1,)](x, out, N=32, BLOCK=64)
    assert caught.value.needed > caught.value.limit == 14
    many_loads[(1,)](x, out, N=8, BLOCK=64)


def test_fp8_is_refused_on_a_chip_without_it():
    x, out = ones(32, 32), ones(32, 32)
    with mtia.use("mtia100"), pytest.raises(errors.UnsupportedDtype, match=r"mtia100 has no fp8.*since MTIA 300"):
        dot_fp8[(1,)](x, out, BLOCK=32)
    with mtia.use("mtia300"):
        dot_fp8[(1,)](x, out, BLOCK=32)
    assert torch.equal(out.cpu(), torch.full((32, 32), 32.0))


def test_a_failed_device_assertion_names_the_instance():
    index = torch.tensor([1, 2, 30], dtype=torch.int32).to("mtia")
    with pytest.raises(errors.KernelAssertion, match=r"'checked', program instance \(2, 0, 0\).*index too large"):
        checked[(3,)](index, 10, debug=True)


def test_an_operation_that_is_not_lowered_is_a_compile_error_with_op_kernel_and_line():
    with pytest.raises(errors.UnsupportedOperation, match="inline_asm") as caught:
        inline_assembly[(1,)](ones(16, dtype=torch.int32))
    assert caught.value.kernel == "inline_assembly"
    assert caught.value.line.endswith(f":{line_of(inline_assembly, 'inline_asm_elementwise')}")


def test_a_host_tensor_is_refused():
    with pytest.raises(ValueError, match=r"cpu"):
        copy_block[(1,)](torch.ones(8), ones(8), 0, 8, BLOCK=8)


def seconds_of(call):
    with mtia.session() as seen:
        call()
    return sum(span.end_fs - span.start_fs for span in seen.spans if span.kind == "kernel") / 1e15


def test_without_strict_the_limit_is_said_with_its_cost_and_the_kernel_runs():
    x, out = ones(32 * 64), ones(64)
    with mtia.knobs.scope(strict=False), pytest.warns(ChipLimitWarning, match=r"a PE has 14.*in software costs .* %"):
        many_loads[(1,)](x, out, N=32, BLOCK=64)
    with pytest.raises(errors.TooManyCircularBuffers):  # and strict again refuses it
        many_loads[(1,)](x, out, N=32, BLOCK=64)


def test_without_strict_a_tile_too_large_is_spilled_and_the_time_includes_it():
    with mtia.use("mtia100"), mtia.knobs.scope(strict=False):
        x = ones(256, 256)
        out = torch.empty_like(x)
        with pytest.warns(ChipLimitWarning, match=r"need 524,288 bytes.*costs (\d+\.\d+) µs") as said:
            took_s = seconds_of(lambda: huge_tile[(1,)](x, out, ROWS=256, COLS=256))
        spilled = 524_288 - 131_072
        spec = mtia.chip()
        cost_s = 2 * spilled / spec.noc.pe_bytes_per_s
        said_s = float(re.search(r"costs (\d+\.\d+) µs", str(said[0].message))[1]) / 1e6
        assert said_s == pytest.approx(cost_s, rel=0.01) and took_s > cost_s
        assert torch.equal(out.cpu(), torch.full((256, 256), 2.0))


def test_without_strict_a_misaligned_copy_is_slower_than_an_aligned_one():
    x, out = ones(4096), ones(2048)
    with mtia.use("mtia100"), mtia.knobs.scope(strict=False):
        aligned_s = seconds_of(lambda: copy_block[(2,)](x, out, 8, 2048, BLOCK=1024))
        with pytest.warns(ChipLimitWarning, match=r"'x_ptr' is not a multiple of 32 bytes.*in software costs"):
            shifted_s = seconds_of(lambda: copy_block[(2,)](x, out, 1, 2048, BLOCK=1024))
    assert shifted_s > aligned_s


def test_without_strict_fp8_is_multiplied_as_a_wider_type():
    x, out = ones(32, 32), ones(32, 32)
    warns = pytest.warns(ChipLimitWarning, match=r"mtia100 has no fp8.*in software costs")
    with mtia.use("mtia100"), mtia.knobs.scope(strict=False), warns:
        dot_fp8[(1,)](x, out, BLOCK=32)
    assert torch.equal(out.cpu(), torch.full((32, 32), 32.0))


def test_a_refused_dtype_names_the_first_generation_on_the_roadmap_that_has_it():
    assert first_with("fp8") == "MTIA 300" and first_with("int8").startswith("MTIA 100") and first_with("fp3") == ""
