"""Streams, events, generators and graphs through torch's own API."""

import pytest
import torch

from mtia import _C
from mtia.host_runtime import graphs
from mtia.host_runtime.benchmark import simulated_ms
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind

MS = 10**12  # femtoseconds


def busy(ms: int, stream: torch.Stream | None = None) -> None:
    """Occupy the grid for `ms` simulated milliseconds."""
    stream_id = (stream or torch.mtia.current_stream()).stream_id
    clock().submit(0, stream_id, "busy", Kind.KERNEL, ms * MS)


def timed_events() -> tuple[torch.Event, torch.Event]:
    return torch.mtia.Event(enable_timing=True), torch.mtia.Event(enable_timing=True)


def test_elapsed_time_is_simulated_time():
    start, end = timed_events()
    busy(1)
    start.record()
    busy(5)
    end.record()
    end.synchronize()
    assert start.elapsed_time(end) == pytest.approx(5, rel=1e-3)


def test_query_is_false_until_synchronised():
    event = torch.mtia.Event()
    busy(3)
    event.record()
    stream = torch.mtia.current_stream()
    assert not event.query() and not stream.query()
    torch.mtia.synchronize()
    assert event.query() and stream.query()


def test_stream_context_and_waiting():
    side = torch.mtia.Stream()
    with torch.mtia.stream(side):
        assert torch.mtia.current_stream() == side
        busy(7)
    assert torch.mtia.current_stream() == torch.mtia.default_stream()
    torch.mtia.current_stream().wait_stream(side)
    before = clock().host_fs
    torch.accelerator.synchronize()
    assert clock().host_fs - before >= 6 * MS


def test_wait_event_orders_streams():
    side, event = torch.mtia.Stream(), torch.mtia.Event()
    busy(4)
    event.record()
    side.wait_event(event)
    span = clock().transfer(0, side.stream_id, 8, upload=True, host_waits=False)
    assert span.start_fs >= clock().host_fs + 3 * MS


def test_unrecorded_events_have_no_elapsed_time():
    start, end = timed_events()
    with pytest.raises(ValueError, match="recorded"):
        start.elapsed_time(end)


def test_a_device_that_does_not_exist_is_refused():
    with pytest.raises(RuntimeError, match="MTIA_DEVICE_COUNT"):
        torch.mtia.set_device(_C.device_count())


def test_benchmark_is_first_start_to_last_end():
    assert simulated_ms(lambda: (busy(2), busy(3))) == pytest.approx(5, rel=1e-3)
    from torch._inductor.runtime.benchmarking import benchmarker

    assert benchmarker.benchmark(lambda: busy(2), device="mtia") == pytest.approx(2, rel=1e-3)


# --- random numbers ---------------------------------------------------------------------------------------------------


def test_generator_state_is_seed_and_offset():
    generator = torch.Generator("mtia").manual_seed(7)
    assert _C.philox_seed_offset(generator, 5) == (7, 0)
    assert _C.philox_seed_offset(generator, 1) == (7, 8)  # in steps of four
    state = generator.get_state()
    assert _C.philox_seed_offset(generator, 4) == (7, 12)
    generator.set_state(state)
    assert _C.philox_seed_offset(generator, 4) == (7, 12)
    assert generator.device == torch.device("mtia:0") and generator.initial_seed() == 7


def test_default_generator_follows_manual_seed():
    torch.manual_seed(3)
    first = torch.randn(5, device="mtia")
    state = torch.mtia.get_rng_state()
    second = torch.randn(5, device="mtia")
    torch.mtia.set_rng_state(state)
    assert torch.equal(torch.randn(5, device="mtia"), second)
    torch.manual_seed(3)
    assert torch.equal(torch.randn(5, device="mtia"), first) and not torch.equal(first, second)


def test_device_random_numbers_leave_the_cpu_generator_alone():
    state = torch.get_rng_state()
    torch.randn(3, device="mtia")
    torch.nn.functional.dropout(torch.ones(4, device="mtia"))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_generators_with_one_seed_agree():
    a, b = (torch.Generator("mtia").manual_seed(11) for _ in range(2))
    draw = [torch.randn(6, device="mtia", generator=g) for g in (a, b)]
    assert torch.equal(*draw)


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_a_graph_replays_what_was_recorded_with_one_enqueue():
    graph, runs = torch.mtia.MTIAGraph(), []
    with torch.mtia.graph(graph):
        stream = torch.mtia.current_stream()
        recorder = graphs.capturing(0, stream.stream_id)
        assert recorder is not None and stream.is_capturing()
        for i in range(3):
            recorder.add(f"k{i}", lambda i=i: (runs.append(i), busy(1)))
        kept = torch.empty(100, device="mtia")
    assert runs == [] and graphs.capturing(0, stream.stream_id) is None
    graph.instantiate()
    before = clock().host_fs
    graph.replay()
    graph.replay()
    assert runs == [0, 1, 2, 0, 1, 2]
    host_s = clock().spec.launch.host_s
    assert clock().host_fs - before == pytest.approx(2 * host_s * 1e15, rel=1e-6)
    assert kept.shape == (100,)


def test_memory_of_a_graph_is_not_handed_to_others():
    graph = torch.mtia.MTIAGraph()
    with torch.mtia.graph(graph):
        first = torch.empty(1000, device="mtia")
        address = first.data_ptr()
        del first
        again = torch.empty(1000, device="mtia")
        assert again.data_ptr() == address  # its own pool reuses it
        del again
    outside = torch.empty(1000, device="mtia")
    assert outside.data_ptr() != address
    graph.reset()
    assert torch.empty(1000, device="mtia").data_ptr() <= address or outside.data_ptr() < address


def test_what_needs_the_host_cannot_be_captured():
    graph, x = torch.mtia.MTIAGraph(), torch.ones(1, device="mtia")
    with pytest.raises(graphs.GraphError, match=r"item\(\) cannot be captured"), torch.mtia.graph(graph):
        x.item()
    assert x.item() == 1.0
    with pytest.raises(graphs.GraphError, match="a copy from the CPU"), torch.mtia.graph(graph):
        torch.ones(3).to("mtia")


def test_pools_can_be_shared_by_handle():
    pool = torch.mtia.graph_pool_handle()
    graph = torch.mtia.MTIAGraph()
    with torch.mtia.graph(graph, pool=pool):
        pass
    assert graph.pool() == pool
