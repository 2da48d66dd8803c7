"""Planted bugs, one class each, all caught under MTIA_SANITIZE=1 and named: kernel, instance, line, tensor, history."""

import re
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

import mtia
from mtia import errors

pytestmark = pytest.mark.usefixtures("sanitized")


@pytest.fixture
def sanitized():
    torch.mtia.init()
    with mtia.knobs.scope(sanitize=True):
        yield


class RawPointer:
    """An address without its tensor: what a user does who keeps `data_ptr()`."""

    def __init__(self, tensor):
        self.address, self.dtype = tensor.data_ptr(), tensor.dtype

    def data_ptr(self):
        return self.address


def ones(*shape, dtype=torch.float32):
    return torch.ones(*shape, dtype=dtype, device="mtia")


def unwritten(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="mtia")


# --- out of bounds ----------------------------------------------------------------------------------------------------


@triton.jit
def copy_without_mask(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i))  # bug


@triton.jit
def copy_wrong_mask(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i, mask=i <= n), mask=i < n)  # bug


@triton.jit
def neighbour_sum(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    left = tl.load(x_ptr + i - 1)  # bug
    tl.store(out_ptr + i, tl.load(x_ptr + i) + left)


@triton.jit
def gather(x_ptr, index_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + tl.load(index_ptr + i)))  # bug


@triton.jit
def rows_swapped(x_ptr, out_ptr, ROWS: tl.constexpr, COLS: tl.constexpr):
    r, col = tl.arange(0, ROWS)[:, None], tl.arange(0, COLS)[None, :]
    x = tl.load(x_ptr + r * COLS + col)
    tl.store(out_ptr + r * ROWS + col * COLS, x)  # bug


@triton.jit
def atomic_histogram(x_ptr, bins_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.arange(0, BLOCK))
    tl.atomic_add(bins_ptr + x, 1)  # bug


@triton.jit
def through_a_table(table_ptr, out_ptr, BLOCK: tl.constexpr):
    x_ptr = tl.load(table_ptr).to(tl.pointer_type(tl.float32))
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i))  # bug


def beyond_the_end():
    copy_without_mask[(4,)](ones(1000), unwritten(1024), BLOCK=256)


def one_too_many():
    copy_wrong_mask[(1,)](ones(64), unwritten(64), 64, BLOCK=128)


def before_the_start():
    neighbour_sum[(1,)](ones(64), unwritten(64), BLOCK=64)


def bad_index():
    index = torch.tensor([0, 1, 2, -3], dtype=torch.int32).to("mtia")
    gather[(1,)](ones(16), index, unwritten(4), BLOCK=4)


def wrong_stride():
    rows_swapped[(1,)](ones(4, 8), unwritten(4, 8), ROWS=4, COLS=8)


def bin_out_of_range():
    atomic_histogram[(1,)](torch.tensor([0, 1, 2, 8], device="mtia"), ones(8, dtype=torch.int32), BLOCK=4)


def out_of_the_view():
    copy_without_mask[(1,)](ones(1000)[:100], unwritten(256), BLOCK=256)


def address_of_nothing():
    through_a_table[(1,)](torch.tensor([1 << 20]).to("mtia"), unwritten(8), BLOCK=8)


# --- misaligned -------------------------------------------------------------------------------------------------------


@triton.jit
def read_as_int32(x_ptr, out_ptr, offset, BLOCK: tl.constexpr):
    wide = (x_ptr + offset).to(tl.pointer_type(tl.int32))
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(wide + i))  # bug


@triton.jit
def copy_from(x_ptr, out_ptr, offset, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + offset + i))  # bug


def an_element_across_two():
    read_as_int32[(1,)](ones(64, dtype=torch.int8), unwritten(8, dtype=torch.int32), 2, BLOCK=8)


def a_dma_of_mtia100():
    with mtia.use("mtia100"):
        copy_from[(1,)](ones(128), unwritten(64), 3, BLOCK=64)


# --- uninitialised ----------------------------------------------------------------------------------------------------


@triton.jit
def accumulate(x_ptr, total_ptr, BLOCK: tl.constexpr):
    total = tl.sum(tl.load(x_ptr + tl.arange(0, BLOCK)))
    tl.atomic_add(total_ptr, total)  # bug


@triton.jit
def write_even(out_ptr, BLOCK: tl.constexpr):
    tl.store(out_ptr + 2 * tl.arange(0, BLOCK), 1.0)


@triton.jit
def double(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, 2 * tl.load(x_ptr + i))  # bug


@triton.jit
def pad_rows(x_ptr, out_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i), mask=i < n)  # bug: the mask belongs on the load


def never_written():
    double[(1,)](unwritten(32), unwritten(32), BLOCK=32)


def written_in_part():
    half = unwritten(64)
    write_even[(1,)](half, BLOCK=32)
    double[(1,)](half, unwritten(64), BLOCK=64)


def sum_without_a_start():
    accumulate[(1,)](ones(64), unwritten(1), BLOCK=64)


def padding_that_nobody_wrote():
    padded = unwritten(64)
    padded[:48] = 1.0
    pad_rows[(1,)](padded, unwritten(64), 48, BLOCK=64)


# --- races ------------------------------------------------------------------------------------------------------------


@triton.jit
def everyone_writes_the_total(x_ptr, total_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(total_ptr, tl.load(total_ptr) + tl.sum(tl.load(x_ptr + i)))  # bug


@triton.jit
def overlapping_blocks(out_ptr, STEP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.program_id(0).to(tl.float32))  # bug


@triton.jit
def shift_in_place(x_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i + 1, mask=i + 1 < n, other=0)
    tl.store(x_ptr + i, x)  # bug


@triton.jit
def atomic_and_plain(count_ptr):
    if tl.program_id(0) == 0:
        tl.store(count_ptr, 0)  # bug
    tl.atomic_add(count_ptr, 1)  # bug


@triton.jit
def counted_by_atomics_read_plainly(count_ptr, out_ptr):
    pid = tl.program_id(0)
    if pid == 1:
        tl.atomic_add(count_ptr, 1)
    else:
        tl.store(out_ptr + pid, tl.load(count_ptr))  # bug


@triton.jit
def read_plainly_then_counted(count_ptr, out_ptr):
    pid = tl.program_id(0)
    if pid == 0:
        tl.store(out_ptr, tl.load(count_ptr))
    else:
        tl.atomic_add(count_ptr, 1)  # bug


@triton.jit
def locks_of_their_own(total_ptr, locks_ptr):
    pid = tl.program_id(0)
    while tl.atomic_cas(locks_ptr + pid, 0, 1) == 1:
        pass
    tl.store(total_ptr, tl.load(total_ptr) + 1)  # bug
    tl.atomic_xchg(locks_ptr + pid, 0)


@triton.jit
def arrival_without_order(parts_ptr, count_ptr, out_ptr, N: tl.constexpr):
    pid = tl.program_id(0)
    tl.store(parts_ptr + pid, 1.0)
    if tl.atomic_add(count_ptr, 1, sem="relaxed") == N - 1:
        tl.store(out_ptr, tl.sum(tl.load(parts_ptr + tl.arange(0, N))))  # bug


@triton.jit
def lock_undone_by_a_plain_store(total_ptr, lock_ptr):
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:  # bug
        pass
    tl.store(total_ptr, tl.load(total_ptr) + 1)
    tl.store(lock_ptr, 0)


@triton.jit
def a_lock_that_failed(x_ptr, lock_ptr):
    pid = tl.program_id(0)
    if pid == 0:
        tl.store(x_ptr, 1.0)
    taken = tl.atomic_cas(lock_ptr, 5, 6)  # nobody has it: it holds 0
    if pid == 1:
        tl.store(x_ptr, taken.to(tl.float32))  # bug


def lost_update():
    everyone_writes_the_total[(4,)](ones(256), torch.zeros(1, device="mtia"), BLOCK=64)


def two_owners():
    overlapping_blocks[(4,)](unwritten(256), STEP=48, BLOCK=64)


def neighbour_reads_what_i_write():
    shift_in_place[(4,)](ones(256), 256, BLOCK=64)


def reset_among_atomics():
    atomic_and_plain[(4,)](torch.zeros(1, dtype=torch.int32, device="mtia"))


def count_read_without_an_atomic():
    counted_by_atomics_read_plainly[(4,)](counters(1), unwritten(4, dtype=torch.int32))


def count_changed_under_a_plain_read():
    read_plainly_then_counted[(2,)](counters(1), unwritten(1, dtype=torch.int32))


def another_lock_each():
    locks_of_their_own[(4,)](torch.zeros(1, device="mtia"), counters(4))


def relaxed_arrival():
    arrival_without_order[(4,)](unwritten(4), counters(1), unwritten(1), N=4)


def unlocked_by_a_store():
    lock_undone_by_a_plain_store[(4,)](torch.zeros(1, device="mtia"), counters(1))


def ordered_by_a_lock_that_was_not_taken():
    a_lock_that_failed[(2,)](unwritten(1), counters(1))


# --- use after free ---------------------------------------------------------------------------------------------------


def raw_pointer():
    x = ones(64)
    pointer = RawPointer(x)
    del x
    double[(1,)](pointer, unwritten(64), BLOCK=64)


def storage_resized_away():
    x = ones(64)
    pointer = RawPointer(x)
    x.untyped_storage().resize_(0)
    double[(1,)](ones(64), pointer, BLOCK=64)


def input_of_a_graph():
    x, out = ones(64), unwritten(64)
    graph = torch.mtia.MTIAGraph()
    with torch.mtia.graph(graph):
        double[(1,)](x, out, BLOCK=64)
    graph.replay()
    assert torch.equal(out.cpu(), torch.full((64,), 2.0))
    del x
    graph.replay()


def table_of_the_dead():
    x = ones(8)
    table = torch.tensor([x.data_ptr()]).to("mtia")
    del x
    through_a_table[(1,)](table, unwritten(8), BLOCK=8)


OUT, UNALIGNED, UNWRITTEN = errors.OutOfBoundsAccess, errors.UnalignedElement, errors.UninitializedRead
RACE, FREED = errors.RaceBetweenInstances, errors.UseAfterFree
PLANTED = [
    (beyond_the_end, OUT, copy_without_mask, r"\(3, 0, 0\): load .* offset 4,000 bytes of 'x_ptr', whose allocation"),
    (one_too_many, OUT, copy_wrong_mask, r"load .* offset 256 bytes of 'x_ptr', whose allocation has 256 bytes"),
    (before_the_start, OUT, neighbour_sum, r"load .* offset -4 bytes of 'x_ptr'"),
    (bad_index, OUT, gather, r"load .* offset -12 bytes of 'x_ptr', whose allocation has 64 bytes"),
    (wrong_stride, OUT, rows_swapped, r"store .* offset 128 bytes of 'out_ptr'"),
    (bin_out_of_range, OUT, atomic_histogram, r"atomic .* offset 32 bytes of 'bins_ptr', whose allocation has 32"),
    (out_of_the_view, OUT, copy_without_mask, r"offset 400 bytes of 'x_ptr', whose view has 400 bytes"),
    (address_of_nothing, OUT, through_a_table, r"load at 0x100000.*\n.*\n  no allocation holds 0x100000"),
    (an_element_across_two, UNALIGNED, read_as_int32, r"misaligned load .* an element of 4 bytes lies at a multiple"),
    (a_dma_of_mtia100, errors.MisalignedAccess, copy_from, r"'x_ptr' is not a multiple of 32 bytes, which a DMA of"),
    (never_written, UNWRITTEN, double, r"load of uninitialised memory .* offset 0 bytes of 'x_ptr'"),
    (written_in_part, UNWRITTEN, double, r"load of uninitialised memory .* offset 4 bytes of 'x_ptr'"),
    (sum_without_a_start, UNWRITTEN, accumulate, r"atomic of uninitialised memory .* of 'total_ptr'"),
    (padding_that_nobody_wrote, UNWRITTEN, pad_rows, r"offset 192 bytes of 'x_ptr'"),
    (
        lost_update,
        RACE,
        everyone_writes_the_total,
        r"\(0, 0, 0\): store .* races with the load of program instance \(1",
    ),
    (two_owners, RACE, overlapping_blocks, r"\(1, 0, 0\): store .* offset 192 bytes .* store .* instance \(0, 0, 0\)"),
    (neighbour_reads_what_i_write, RACE, shift_in_place, r"races with the load of program instance \(0, 0, 0\)"),
    (reset_among_atomics, RACE, atomic_and_plain, r"\(1, 0, 0\): atomic .* races with the store of .* \(0, 0, 0\)"),
    (
        count_read_without_an_atomic,
        RACE,
        counted_by_atomics_read_plainly,
        r"load .* races with the atomic of program instance \(1",
    ),
    (
        count_changed_under_a_plain_read,
        RACE,
        read_plainly_then_counted,
        r"\(1, 0, 0\): atomic .* races with the load of program instance \(0",
    ),
    (another_lock_each, RACE, locks_of_their_own, r"'total_ptr', races with .* no atomics order these two"),
    (relaxed_arrival, RACE, arrival_without_order, r"\(3, 0, 0\): load .* of 'parts_ptr', races with the store"),
    (unlocked_by_a_store, RACE, lock_undone_by_a_plain_store, r"atomic .* of 'lock_ptr', races with the store of"),
    (ordered_by_a_lock_that_was_not_taken, RACE, a_lock_that_failed, r"\(1, 0, 0\): store .* with the store of .*\(0"),
    (raw_pointer, FREED, double, r"load .* of 'x_ptr', use after free.*\n  'x_ptr' is a raw pointer"),
    (storage_resized_away, FREED, double, r"store .* of 'out_ptr', use after free"),
    (input_of_a_graph, FREED, double, r"load .* of 'x_ptr', use after free.*\n  'x_ptr' is tensor float32 \[64\]"),
    (table_of_the_dead, FREED, through_a_table, r"load .* use after free.*\n.*an address computed by the kernel"),
]


@pytest.mark.parametrize(("plant", "error", "kernel", "words"), PLANTED, ids=[row[0].__name__ for row in PLANTED])
def test_a_planted_bug_is_caught_and_named(plant, error, kernel, words):
    with pytest.raises(error, match=words) as caught:
        plant()
    text = str(caught.value)
    lines = marked_lines(kernel, "# bug")
    assert f"kernel {kernel.fn.__name__!r}, program instance (" in text
    # The folder may be another checkout's: Triton's cache of compiled kernels does not tell folders apart.
    place, _, _ = text.partition(": ")
    assert any(place.endswith(f"/{Path(__file__).name}:{line}") for line in lines), (text, lines)
    assert re.search(r"allocated [\d,]+ bytes at 0x[0-9a-f]+ on mtia:0:\n +\S+test_sanitizer.py:\d+ in \w+", text)
    assert ("freed:\n" in text) == (error is errors.UseAfterFree)


def marked_lines(kernel, mark):
    import inspect

    source, first = inspect.getsourcelines(kernel.fn)
    return [first + i for i, line in enumerate(source) if mark in line]


def test_every_class_of_bug_is_planted_and_there_are_twenty():
    assert {row[1] for row in PLANTED} == {OUT, UNALIGNED, UNWRITTEN, RACE, FREED, errors.MisalignedAccess}
    assert len(PLANTED) >= 20


# --- no false alarm ---------------------------------------------------------------------------------------------------


@triton.jit
def lock_and_add(x_ptr, total_ptr, lock_ptr, BLOCK: tl.constexpr):
    part = tl.sum(tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)))
    while tl.atomic_cas(lock_ptr, 0, 1) == 1:
        pass
    tl.store(total_ptr, tl.load(total_ptr) + part)
    tl.atomic_xchg(lock_ptr, 0)


@triton.jit
def last_one_sums(x_ptr, parts_ptr, count_ptr, out_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    tl.store(parts_ptr + pid, tl.sum(tl.load(x_ptr + pid * BLOCK + tl.arange(0, BLOCK))))
    if tl.atomic_add(count_ptr, 1) == N - 1:
        tl.store(out_ptr, tl.sum(tl.load(parts_ptr + tl.arange(0, N))))


@triton.jit
def last_one_sums_too_early(x_ptr, parts_ptr, count_ptr, out_ptr, N: tl.constexpr, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    arrived = tl.atomic_add(count_ptr, 1)
    tl.store(parts_ptr + pid, tl.sum(tl.load(x_ptr + pid * BLOCK + tl.arange(0, BLOCK))))
    if arrived == N - 1:
        tl.store(out_ptr, tl.sum(tl.load(parts_ptr + tl.arange(0, N))))  # bug


def counters(n):
    return torch.zeros(n, dtype=torch.int32, device="mtia")


def test_a_lock_orders_plain_accesses():
    total = torch.zeros(1, device="mtia")
    lock_and_add[(8,)](ones(512), total, counters(1), BLOCK=64)
    assert total.item() == 512


def test_an_arrival_counter_orders_the_last_ones_reads_if_it_comes_after_the_store():
    out = unwritten(1)
    last_one_sums[(8,)](ones(512), unwritten(8), counters(1), out, N=8, BLOCK=64)
    assert out.item() == 512
    with pytest.raises(RACE, match=r"\(7, 0, 0\): load .* of 'parts_ptr', races with the store"):
        last_one_sums_too_early[(8,)](ones(512), unwritten(8), counters(1), out, N=8, BLOCK=64)


@triton.jit
def passes_it_on(parts_ptr, flags_ptr, out_ptr, N: tl.constexpr):
    """Instance i + 1 waits for i's flag: 0's store reaches the last one through N - 1 other addresses."""
    pid = tl.program_id(0)
    if pid == 0:
        tl.store(parts_ptr, 7.0)
    if pid > 0:
        tl.atomic_poll(flags_ptr + pid - 1, 1)
    tl.atomic_xchg(flags_ptr + pid, 1)
    if pid == N - 1:
        tl.store(out_ptr, tl.load(parts_ptr))


@triton.jit
def histogram_with_atomics(x_ptr, bins_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(bins_ptr + tl.load(x_ptr + i), 1, sem="relaxed")


@triton.jit
def all_read_then_one_writes(x_ptr, count_ptr, out_ptr, N: tl.constexpr, COUNTED: tl.constexpr):
    """Only the last to arrive writes what everyone read; with `COUNTED` < N, instance 1 does not say that it has."""
    pid = tl.program_id(0)
    tl.store(out_ptr + pid, tl.load(x_ptr))
    counts = (pid != 1) | (COUNTED == N)
    arrived = tl.atomic_add(count_ptr, 1, mask=counts)
    if counts & (arrived == COUNTED - 1):
        tl.store(x_ptr, 0.0)


def test_atomics_on_one_address_are_no_race_in_any_number():
    bins = counters(4)
    histogram_with_atomics[(8,)](torch.arange(512, device="mtia").remainder(4).to(torch.int32), bins, BLOCK=64)
    assert bins.cpu().tolist() == [128] * 4


@pytest.mark.parametrize("n", [2, 3, 16])
def test_order_is_handed_on_from_one_address_to_the_next(n):
    out = unwritten(1)
    passes_it_on[(n,)](unwritten(1), counters(n), out, N=n)
    assert out.item() == 7


@pytest.mark.parametrize("n", [4, 16])
def test_a_store_must_come_after_every_reader_not_just_the_first_and_the_last(n):
    all_read_then_one_writes[(n,)](ones(1), counters(1), unwritten(n), N=n, COUNTED=n)
    with pytest.raises(RACE, match=rf"\({n - 1}, 0, 0\): store .* with the load of program instance \(1, 0, 0\)"):
        all_read_then_one_writes[(n,)](ones(1), counters(1), unwritten(n), N=n, COUNTED=n - 1)


def test_bytes_side_by_side_are_no_race():
    out = unwritten(64, dtype=torch.int8)
    overlapping_blocks[(16,)](out, STEP=4, BLOCK=4)
    assert out.cpu().tolist() == [i // 4 for i in range(64)]


def test_memory_that_the_host_wrote_is_written():
    x = unwritten(64)
    x.copy_(torch.arange(64.0))
    out = unwritten(64)
    double[(1,)](x, out, BLOCK=64)
    assert torch.equal(out.cpu(), 2 * torch.arange(64.0))


def test_what_a_resize_keeps_is_written_and_what_it_adds_is_not():
    x = ones(64)
    x.resize_(4096)
    out = unwritten(64)
    double[(1,)](x[:64], out, BLOCK=64)
    assert out.sum().item() == 128
    with pytest.raises(UNWRITTEN, match="offset 256 bytes of 'x_ptr'"):
        double[(1,)](x, unwritten(128), BLOCK=128)


def test_the_backward_threads_kernels_are_watched_too():
    w = ones(8, 8).requires_grad_()
    (w * 3).sum().backward()
    out = unwritten(64)
    double[(1,)](w.grad.view(-1), out, BLOCK=64)  # written by autograd's thread
    assert out.sum().item() == 2 * 3 * 64


def test_a_block_handed_out_again_is_unwritten_again():
    first = ones(4096)
    address = first.data_ptr()
    del first
    torch.mtia.empty_cache()
    again = unwritten(4096)
    assert again.data_ptr() != address, "freed memory is quarantined"
    with pytest.raises(UNWRITTEN):
        double[(1,)](again, unwritten(4096), BLOCK=64)


def test_memory_written_while_the_sanitizer_was_off_counts_as_written():
    x, out = unwritten(64), unwritten(64)
    with mtia.knobs.scope(sanitize=False):
        write_even[(1,)](x, BLOCK=32)
    double[(1,)](x, out, BLOCK=64)  # half of x is unwritten, but that is no longer known


def test_a_copy_of_unwritten_memory_is_as_unwritten_and_its_reader_is_named():
    x = unwritten(64)
    x[:32] = 1.0
    copied = x.clone().view(8, 8).t().contiguous()
    assert copied[:, :4].sum().item() == 32
    with pytest.raises(UNWRITTEN, match=r"kernel 'mtia_sum'.*\n  'x_ptr' is tensor float32 \[8, 8\]"):
        copied.sum()


def test_a_graphs_own_memory_may_be_freed_after_capture():
    x, out = ones(64), unwritten(64)
    graph = torch.mtia.MTIAGraph()
    with torch.mtia.graph(graph):
        between = x + 1
        double[(1,)](between, out, BLOCK=64)
        del between
    for _ in range(2):
        graph.replay()
    assert torch.equal(out.cpu(), torch.full((64,), 4.0))


def test_the_error_survives_a_process_boundary():
    import pickle

    with pytest.raises(RACE) as caught:
        two_owners()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) and copy.other == (0, 0, 0)
