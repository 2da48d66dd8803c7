"""Device memory: capacity, statistics, out of memory, addresses."""

import pytest
import torch

import mtia
from mtia import _C, chips
from mtia.host_runtime.silicon import ChipTooSmall

GiB = 2**30


def test_statistics_follow_allocations():
    before = torch.mtia.memory_allocated()
    x = torch.empty(1000, device="mtia")
    assert torch.mtia.memory_allocated() - before == 4096  # granules of 512 bytes
    torch.mtia.reset_peak_memory_stats()
    y = torch.empty(10**6, device="mtia")
    del y
    assert torch.mtia.max_memory_allocated() >= 4 * 10**6
    del x
    assert torch.mtia.memory_allocated() == before
    stats = torch.mtia.memory_stats()["dram"]
    assert stats["free_bytes"] + stats["allocated_bytes"] == stats["total_bytes"] == mtia.chip().dram.capacity_bytes


def test_accelerator_memory_api():
    x = torch.empty(10**6, device="mtia")
    assert torch.accelerator.memory_allocated() >= x.nbytes
    assert torch.accelerator.max_memory_allocated() >= torch.accelerator.memory_allocated()
    free, total = torch.accelerator.get_memory_info()
    assert total == mtia.chip().dram.capacity_bytes and 0 < free < total
    torch.accelerator.reset_peak_memory_stats()
    torch.accelerator.empty_cache()
    torch.accelerator.empty_host_cache()


def test_out_of_memory_names_request_capacity_and_device():
    capacity = mtia.chip().dram.capacity_bytes
    expected = (
        rf"Tried to allocate {capacity / GiB + 1:.2f} GiB. mtia:0 \({mtia.chip().title}\) has a total capacity of"
    )
    with pytest.raises(torch.OutOfMemoryError, match=expected):
        torch.empty(capacity + GiB, dtype=torch.uint8, device="mtia")
    torch.ones(1, device="mtia")  # and the device goes on


def test_out_of_memory_observer_is_told():
    seen = []
    torch.mtia.attach_out_of_memory_observer(lambda *args: seen.append(args))
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(10**15, dtype=torch.uint8, device="mtia")
    device, asked, total, free = seen[0]
    assert (device, asked, total) == (0, 10**15, mtia.chip().dram.capacity_bytes) and free <= total


def test_a_reservation_is_not_committed():
    """Most of the chip's memory, far more than this host has, costs nothing until it is touched."""
    x = torch.empty(100 * GiB, dtype=torch.uint8, device="mtia")
    x[-1:].fill_(7)
    assert x[-1].item() == 7


def test_allocation_of_gives_start_and_requested_size():
    x = torch.empty(100, device="mtia")
    assert _C.allocation_of(x.data_ptr()) == (x.data_ptr(), 400)
    assert _C.allocation_of(x.data_ptr() + 399) == (x.data_ptr(), 400)
    assert _C.allocation_of(x.data_ptr() + 400) is None
    assert _C.allocation_of(x[50:].data_ptr()) == (x.data_ptr(), 400)
    address = x.data_ptr()
    del x
    assert _C.allocation_of(address) is None
    assert _C.allocation_of(0) is None and _C.allocation_of(torch.ones(1).data_ptr()) is None
    base, n_bytes = _C.arena(0)
    assert base <= address < base + n_bytes and n_bytes == mtia.chip().dram.capacity_bytes


def test_addresses_are_aligned_and_reused_lowest_first():
    a, b, c = (torch.empty(1000, device="mtia") for _ in range(3))
    assert all(t.data_ptr() % 512 == 0 for t in (a, b, c))
    freed = b.data_ptr()
    with mtia.knobs.scope(sanitize=False):  # the sanitizer holds freed blocks back
        del b
        assert torch.empty(1000, device="mtia").data_ptr() == freed


def test_freed_neighbours_merge():
    mtia.use(chips.load("mtia100"))
    n = 20 * GiB
    blocks = [torch.empty(n, dtype=torch.uint8, device="mtia") for _ in range(3)]
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(n, dtype=torch.uint8, device="mtia")
    del blocks
    assert torch.empty(3 * n, dtype=torch.uint8, device="mtia").numel() == 3 * n


def test_fragmented_memory_is_said():
    with mtia.use("mtia100"):
        blocks = [torch.empty(15 * GiB, dtype=torch.uint8, device="mtia") for _ in range(4)]
        del blocks[2], blocks[0]
        with pytest.raises(torch.OutOfMemoryError, match="fragmented"):
            torch.empty(25 * GiB, dtype=torch.uint8, device="mtia")


def test_snapshot_and_history():
    torch.mtia.record_memory_history()
    x = torch.empty(3, device="mtia")
    snapshot = torch.mtia.snapshot()
    torch.mtia.record_memory_history(None)
    assert any(e["action"] == "alloc" and e["addr"] == x.data_ptr() for e in snapshot["device_traces"][0])
    assert any(b["address"] == x.data_ptr() for b in snapshot["segments"][0]["blocks"])


def test_changing_the_chip_keeps_live_tensors():
    x = torch.arange(5.0, device="mtia")
    address = x.data_ptr()
    with mtia.use("mtia100") as spec:
        assert mtia.chip() is spec and torch.mtia.get_device_properties()["name"] == spec.title
        assert x.data_ptr() == address and x.tolist() == [0, 1, 2, 3, 4]
        assert torch.mtia.memory_stats()["dram"]["total_bytes"] == spec.dram.capacity_bytes
    assert mtia.chip().name != "mtia100"


def test_a_chip_too_small_is_refused_and_the_old_one_stays():
    before = mtia.chip()
    x = torch.empty(100 * GiB, dtype=torch.uint8, device="mtia")
    with pytest.raises(ChipTooSmall, match="mtia100 has 64 GiB of device memory, but 100 GiB are live on mtia:0"):
        mtia.use("mtia100")
    assert mtia.chip() is before and x.numel() == 100 * GiB


def test_an_unknown_chip_is_refused():
    with pytest.raises(ValueError, match="unknown chip 'mtia9'"):
        mtia.use("mtia9")
