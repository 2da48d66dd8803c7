"""Every public name of torch.mtia and torch.accelerator, one check each; a name without a check fails."""

import io
import os
import pickle
from typing import Any

import pytest
import torch

import mtia
from mtia.host_runtime.clock import clock


def elapsed_ms(work):
    start, end = torch.mtia.Event(enable_timing=True), torch.mtia.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.mtia.synchronize()
    return start.elapsed_time(end)


# --- torch.mtia -------------------------------------------------------------------------------------------------------


def check_init():
    torch.mtia.init()
    assert torch.mtia.is_initialized()


def check_is_available():
    assert torch.mtia.is_available() is True


def check_is_initialized():
    torch.empty(1, device="mtia")
    assert torch.mtia.is_initialized() is True


def check_synchronize():
    x = torch.ones(1 << 16, device="mtia")
    before = mtia.simulated_time_s()
    x.add_(1)
    torch.mtia.synchronize()
    assert mtia.simulated_time_s() > before
    torch.mtia.synchronize(0)


def check_device_count():
    assert torch.mtia.device_count() == torch.accelerator.device_count() == mtia.knobs.get().device_count


def check_current_device():
    assert torch.mtia.current_device() == 0


def check_set_device():
    torch.mtia.set_device("mtia:0")
    assert torch.mtia.current_device() == 0
    with pytest.raises(RuntimeError, match="mtia:7 does not exist"):
        torch.mtia.set_device(7)


def check_device():
    with torch.mtia.device(0):
        assert torch.empty(1, device="mtia").device == torch.device("mtia", 0)


def check_current_stream():
    assert torch.mtia.current_stream() == torch.mtia.default_stream()
    assert torch.mtia.current_stream().device == torch.device("mtia", 0)


def check_default_stream():
    assert torch.mtia.default_stream(0).stream_id == 0


def check_set_stream():
    stream = torch.mtia.Stream()
    torch.mtia.set_stream(stream)
    try:
        assert torch.mtia.current_stream() == stream
    finally:
        torch.mtia.set_stream(torch.mtia.default_stream())


def check_stream():
    """Work of two streams overlaps where it uses different engines: a copy beside a kernel."""
    stream = torch.mtia.Stream()
    x, host = torch.ones(1 << 20, device="mtia"), torch.ones(1 << 20, pin_memory=True)
    y = torch.empty_like(x)
    with mtia.session() as log:
        with torch.mtia.stream(stream):
            y.copy_(host, non_blocking=True)
        x.add_(1)
        stream.synchronize()
        torch.mtia.synchronize()
    assert torch.equal(y.cpu(), host)
    assert {s.stream for s in log.spans} == {0, stream.stream_id}
    assert log.elapsed_s < log.busy_s


def check_memory_stats():
    stats = torch.mtia.memory_stats()["dram"]
    x = torch.empty(1000, device="mtia")
    assert torch.mtia.memory_stats()["dram"]["allocated_bytes"] == stats["allocated_bytes"] + 4096
    assert stats["total_bytes"] == mtia.chip().dram.capacity_bytes
    del x


def check_memory_allocated():
    before = torch.mtia.memory_allocated()
    x = torch.empty(1 << 20, dtype=torch.uint8, device="mtia")
    assert torch.mtia.memory_allocated() == before + x.nbytes


def check_max_memory_allocated():
    x = torch.empty(1 << 24, dtype=torch.uint8, device="mtia")
    peak = torch.mtia.max_memory_allocated()
    del x
    assert torch.mtia.max_memory_allocated() == peak >= 1 << 24


def check_reset_peak_memory_stats():
    torch.empty(1 << 26, dtype=torch.uint8, device="mtia")
    torch.mtia.reset_peak_memory_stats()
    assert torch.mtia.max_memory_allocated() == torch.mtia.memory_allocated()


def check_get_device_capability():
    assert torch.mtia.get_device_capability() == torch.mtia.get_device_capability(0)
    with mtia.use("mtia100"):
        first = torch.mtia.get_device_capability()
    assert first < torch.mtia.get_device_capability()


def check_get_device_properties():
    properties: Any = torch.mtia.get_device_properties()
    assert properties["multi_processor_count"] == properties.multi_processor_count == mtia.chip().grid.n_pes


def check_record_memory_history():
    torch.mtia.record_memory_history()
    try:
        x = torch.empty(7, device="mtia")
        assert x.data_ptr() in {e["addr"] for e in torch.mtia.snapshot()["device_traces"][0]}
    finally:
        torch.mtia.record_memory_history(None)
    assert torch.mtia.snapshot()["device_traces"][0] == []


def check_snapshot():
    x = torch.empty(100, device="mtia")
    blocks = torch.mtia.snapshot()["segments"][0]["blocks"]
    assert {"address": x.data_ptr(), "size": 400, "requested_size": 400, "state": "active_allocated"} in blocks


def check_attach_out_of_memory_observer():
    told = []
    torch.mtia.attach_out_of_memory_observer(lambda *words: told.append(words))
    capacity = mtia.chip().dram.capacity_bytes
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(2 * capacity, dtype=torch.uint8, device="mtia")
    torch.mtia.attach_out_of_memory_observer(lambda *words: None)
    ((device, requested, total, free),) = told
    assert (device, requested, total) == (0, 2 * capacity, capacity) and 0 < free <= total


def check_empty_cache():
    x = torch.ones(4, device="mtia")
    torch.mtia.empty_cache()
    assert x.tolist() == [1.0] * 4


def check_rng_state():
    state = torch.mtia.get_rng_state()
    first = torch.rand(8, device="mtia")
    torch.mtia.set_rng_state(state)
    assert torch.equal(torch.rand(8, device="mtia").cpu(), first.cpu())


def check_rng_state_all():
    states = torch.mtia.get_rng_state_all()
    assert len(states) == torch.mtia.device_count()
    first = torch.randn(8, device="mtia")
    torch.mtia.set_rng_state_all(states)
    assert torch.equal(torch.randn(8, device="mtia").cpu(), first.cpu())


def check_manual_seed():
    torch.mtia.manual_seed(5)
    first = torch.rand(3, device="mtia").cpu()
    torch.mtia.manual_seed(5)
    assert torch.equal(torch.rand(3, device="mtia").cpu(), first) and torch.mtia.initial_seed() == 5


def check_manual_seed_all():
    torch.mtia.manual_seed_all(9)
    assert torch.mtia.initial_seed() == 9


def check_seed():
    seeds = {torch.mtia.seed(), torch.mtia.seed()}
    assert len(seeds) == 2 and torch.mtia.initial_seed() in seeds


def check_seed_all():
    first = torch.mtia.seed_all()
    second = torch.mtia.seed_all()
    assert first != second and torch.mtia.initial_seed() == second


def check_initial_seed():
    torch.manual_seed(11)
    assert torch.mtia.initial_seed() == 11


def check_is_bf16_supported():
    assert torch.mtia.is_bf16_supported() is True


def check_graph():
    x = torch.ones(16, device="mtia")
    graph = torch.mtia.MTIAGraph()
    with torch.mtia.graph(graph, stream=torch.mtia.Stream()):
        x.mul_(3)
    assert x.tolist() == [1.0] * 16, "captured, not run"
    graph.replay()
    graph.replay()
    assert x.tolist() == [9.0] * 16


def check_mtia_graph():
    x, handle = torch.ones(4, device="mtia"), torch.mtia.graph_pool_handle()
    graph = torch.mtia.MTIAGraph(keep_graph=True)
    graph.capture_begin(handle)
    y = x + 1
    graph.capture_end()
    graph.instantiate()
    assert graph.pool() == handle
    graph.replay()
    assert y.tolist() == [2.0] * 4
    graph.reset()
    graph.capture_begin(handle)
    y = x + 5
    graph.capture_end()
    graph.replay()
    assert y.tolist() == [6.0] * 4


def check_graph_pool_handle():
    assert torch.mtia.graph_pool_handle() != torch.mtia.graph_pool_handle()


def check_event():
    x = torch.ones(1 << 18, device="mtia")
    assert elapsed_ms(lambda: x.add_(1)) > 0
    event = torch.mtia.Event()
    event.record()
    torch.mtia.current_stream().wait_event(event)
    event.synchronize()
    assert event.query()


def check_stream_class():
    stream = torch.mtia.Stream(device="mtia:0", priority=-1)
    with torch.mtia.stream(stream), mtia.knobs.scope(values=False):
        torch.empty(1 << 28, device="mtia").add_(1)
    assert not stream.query()
    stream.synchronize()
    assert stream.query()
    event = stream.record_event()
    stream.wait_event(event)
    stream.wait_stream(torch.mtia.default_stream())


def check_stream_context():
    stream = torch.mtia.Stream()
    with torch.mtia.StreamContext(stream):
        assert torch.mtia.current_stream() == stream
    assert torch.mtia.current_stream() == torch.mtia.default_stream()


def check_default_generators():
    assert len(torch.mtia.default_generators) == torch.mtia.device_count()
    assert torch.mtia.default_generators[0].device == torch.device("mtia", 0)


def check_deferred_call_error():
    assert issubclass(torch.mtia.DeferredMtiaCallError, Exception)


MTIA = {
    "init": check_init, "is_available": check_is_available, "is_initialized": check_is_initialized,
    "synchronize": check_synchronize, "device_count": check_device_count, "current_device": check_current_device,
    "set_device": check_set_device, "device": check_device, "current_stream": check_current_stream,
    "default_stream": check_default_stream, "set_stream": check_set_stream, "stream": check_stream,
    "memory_stats": check_memory_stats, "memory_allocated": check_memory_allocated,
    "max_memory_allocated": check_max_memory_allocated, "reset_peak_memory_stats": check_reset_peak_memory_stats,
    "get_device_capability": check_get_device_capability, "get_device_properties": check_get_device_properties,
    "record_memory_history": check_record_memory_history, "snapshot": check_snapshot,
    "attach_out_of_memory_observer": check_attach_out_of_memory_observer, "empty_cache": check_empty_cache,
    "get_rng_state": check_rng_state, "set_rng_state": check_rng_state, "get_rng_state_all": check_rng_state_all,
    "set_rng_state_all": check_rng_state_all, "manual_seed": check_manual_seed,
    "manual_seed_all": check_manual_seed_all, "seed": check_seed, "seed_all": check_seed_all,
    "initial_seed": check_initial_seed, "is_bf16_supported": check_is_bf16_supported, "graph": check_graph,
    "MTIAGraph": check_mtia_graph, "graph_pool_handle": check_graph_pool_handle, "Event": check_event,
    "Stream": check_stream_class, "StreamContext": check_stream_context,
    "default_generators": check_default_generators, "DeferredMtiaCallError": check_deferred_call_error,
}  # fmt: skip
NOT_OURS = {  # what the module imported for itself
    "Any", "Callable", "Device", "Tensor", "is_fbcode", "is_prod", "memory", "mtia_graph", "threading", "torch",
    "traceback",
}  # fmt: skip


# --- torch.accelerator ------------------------------------------------------------------------------------------------


def check_current_accelerator():
    assert torch.accelerator.current_accelerator() == torch.device("mtia")
    assert torch.accelerator.current_accelerator(check_available=True) == torch.device("mtia")


def check_accelerator_available():
    assert torch.accelerator.is_available()


def check_accelerator_device():
    torch.accelerator.set_device_index(0)
    assert torch.accelerator.current_device_index() == 0
    with torch.accelerator.device_index(0):
        assert torch.accelerator.current_device_index() == 0


def check_deprecated_device():
    with pytest.warns(FutureWarning, match="instead"):
        torch.accelerator.set_device_idx(0)
    with pytest.warns(FutureWarning, match="instead"):
        assert torch.accelerator.current_device_idx() == 0


def check_accelerator_capability():
    capability = torch.accelerator.get_device_capability()
    assert torch.float32 in capability["supported_dtypes"] and torch.bfloat16 in capability["supported_dtypes"]


def check_accelerator_stream():
    stream = torch.Stream("mtia")
    torch.accelerator.set_stream(stream)
    try:
        assert torch.accelerator.current_stream() == stream
        torch.ones(4, device="mtia").add_(1)
        torch.accelerator.synchronize()
        assert stream.query()
    finally:
        torch.accelerator.set_stream(torch.mtia.default_stream())


def check_accelerator_memory():
    torch.accelerator.reset_peak_memory_stats()
    torch.accelerator.reset_accumulated_memory_stats()
    free, total = torch.accelerator.get_memory_info()
    before = torch.accelerator.memory_allocated()
    x = torch.empty(1 << 20, dtype=torch.uint8, device="mtia")
    assert torch.accelerator.memory_allocated() == torch.accelerator.memory_reserved() == before + x.nbytes
    assert torch.accelerator.get_memory_info() == (free - x.nbytes, total)
    assert torch.accelerator.memory_stats()["allocation.all.allocated"] == 1
    del x
    assert torch.accelerator.max_memory_allocated() == torch.accelerator.max_memory_reserved() == before + (1 << 20)
    torch.accelerator.empty_cache()


def check_empty_host_cache():
    torch.ones(4).pin_memory()
    torch.accelerator.empty_host_cache()


def check_accelerator_graph(tmp_path):
    x = torch.ones(8, device="mtia")
    graph = torch.accelerator.Graph()
    graph.enable_debug_mode()
    with torch.Stream("mtia"), graph:
        x += 1
    assert x.tolist() == [1.0] * 8, "captured, not run"
    graph.replay()
    graph.replay()
    assert x.tolist() == [3.0] * 8
    shared = torch.accelerator.Graph(keep_graph=True, pool=graph.pool())
    shared.capture_begin()
    y = x * 2
    shared.capture_end()
    shared.instantiate()
    shared.replay()
    assert y.tolist() == [6.0] * 8 and shared.pool() == graph.pool()
    graph.debug_dump(str(tmp_path / "graph.txt"))
    text = (tmp_path / "graph.txt").read_text()
    assert "1 nodes" in text and "mtia_add" in text
    graph.reset()


ACCELERATOR = {
    "current_accelerator": check_current_accelerator, "is_available": check_accelerator_available,
    "device_count": check_device_count, "device_index": check_accelerator_device,
    "set_device_index": check_accelerator_device, "current_device_index": check_accelerator_device,
    "set_device_idx": check_deprecated_device, "current_device_idx": check_deprecated_device,
    "get_device_capability": check_accelerator_capability, "current_stream": check_accelerator_stream,
    "set_stream": check_accelerator_stream, "synchronize": check_accelerator_stream,
    "empty_cache": check_accelerator_memory, "get_memory_info": check_accelerator_memory,
    "max_memory_allocated": check_accelerator_memory, "max_memory_reserved": check_accelerator_memory,
    "memory_allocated": check_accelerator_memory, "memory_reserved": check_accelerator_memory,
    "memory_stats": check_accelerator_memory, "reset_accumulated_memory_stats": check_accelerator_memory,
    "reset_peak_memory_stats": check_accelerator_memory, "empty_host_cache": check_empty_host_cache,
    "Graph": check_accelerator_graph,
}  # fmt: skip
ACCELERATOR_NOT_OURS = {"Any", "cache", "deprecated", "graphs", "memory", "torch"}


def run(check, tmp_path):
    check(**({"tmp_path": tmp_path} if "tmp_path" in check.__code__.co_varnames[: check.__code__.co_argcount] else {}))


@pytest.mark.parametrize("name", MTIA)
def test_torch_mtia(name, tmp_path):
    assert hasattr(torch.mtia, name)
    run(MTIA[name], tmp_path)


@pytest.mark.parametrize("name", ACCELERATOR)
def test_torch_accelerator(name, tmp_path):
    assert hasattr(torch.accelerator, name)
    run(ACCELERATOR[name], tmp_path)


@pytest.mark.parametrize(
    ("module", "checked", "others"), [(torch.mtia, MTIA, NOT_OURS), (torch.accelerator, ACCELERATOR, ACCELERATOR_NOT_OURS)],
    ids=["torch.mtia", "torch.accelerator"],
)  # fmt: skip
def test_no_public_name_is_forgotten(module, checked, others):
    public = {name for name in dir(module) if not name.startswith("_")} - others
    assert public == set(checked) and set(module.__all__) <= set(checked)


# --- what the rest of PyTorch does with a device ----------------------------------------------------------------------


def test_autocast_runs_matmuls_in_the_lower_type_and_reductions_in_float32():
    x = torch.randn(8, 8, device="mtia", requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("mtia", dtype=dtype):
            y = x @ x
            assert y.dtype == dtype and torch.softmax(y, -1).dtype == torch.float32
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


def test_grad_scaler_skips_a_step_with_infinities_and_grows():
    model = torch.nn.Linear(4, 1).to("mtia")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("mtia", init_scale=8.0, growth_interval=1)
    before = model.weight.detach().cpu().clone()
    scaler.scale(model(torch.full((2, 4), float("inf"), device="mtia")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight.detach().cpu(), before) and scaler.get_scale() == 4.0
    optimizer.zero_grad()
    scaler.scale(model(torch.ones(2, 4, device="mtia")).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(model.weight.detach().cpu(), before - 0.1 * 2)
    assert scaler.get_scale() == 8.0


def test_pinned_memory_lets_the_host_run_on():
    host = torch.ones(1 << 20)
    pinned = host.pin_memory()
    assert pinned.is_pinned() and not host.is_pinned()
    device = torch.empty(1 << 20, device="mtia")

    def host_fs(source):
        torch.mtia.synchronize()
        before = clock().host_fs
        device.copy_(source, non_blocking=True)
        return clock().host_fs - before

    assert host_fs(pinned) < host_fs(host)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_data_loader_feeds_the_device(n_workers):
    data = torch.utils.data.TensorDataset(torch.arange(12.0).view(6, 2), torch.arange(6))
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=n_workers, pin_memory=True)
    seen = []
    for x, y in loader:
        assert x.is_pinned()
        seen += x.to("mtia", non_blocking=True).sum(1).cpu().tolist()
        assert y.to("mtia").device.type == "mtia"
    assert seen == [1.0, 5.0, 9.0, 13.0, 17.0, 21.0]


@pytest.mark.parametrize("location", ["mtia", "mtia:0", "cpu", None])
def test_a_checkpoint_goes_to_the_device_and_back(location):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to("mtia")
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 3, device="mtia")).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file, map_location=location)
    wanted = torch.device(location or "mtia").type
    assert {t.device.type for t in loaded["model"].values()} == {wanted}
    copy = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to("mtia")
    copy.load_state_dict(loaded["model"])
    torch.optim.AdamW(copy.parameters()).load_state_dict(loaded["optimizer"])
    for a, b in zip(copy.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a.cpu(), b.cpu())


def test_deepcopy_and_pickle_make_independent_tensors():
    import copy

    x = torch.arange(6.0, device="mtia", requires_grad=True)
    twin, pickled = copy.deepcopy(x), pickle.loads(pickle.dumps(x))
    with torch.no_grad():
        x.zero_()
    for other in (twin, pickled):
        assert other.device.type == "mtia" and other.requires_grad and other.tolist() == [0, 1, 2, 3, 4, 5]
    model = copy.deepcopy(torch.nn.Linear(2, 2).to("mtia"))
    assert model.weight.device.type == "mtia"


def test_an_exported_program_runs_on_the_device():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(4, 3)

        def forward(self, x):
            return torch.relu(self.inner(x)).sum(-1)

    model = Model().to("mtia")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (torch.randn(4, 4, device="mtia"),), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    x = torch.randn(7, 4, device="mtia")
    torch.testing.assert_close(again(x).cpu(), model(x).detach().cpu())


def test_dynamic_shapes_compile_once():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, dynamic=True)
    def f(x):
        return torch.softmax(x * 2, -1).sum(0)

    for n in (5, 9, 17, 33):
        x = torch.randn(n, 12)
        torch.testing.assert_close(f(x.to("mtia")).cpu(), torch.softmax(x * 2, -1).sum(0), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_makes_a_tensor_gets_a_clear_error():
    torch.ones(1, device="mtia")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.ones(1, device="mtia")
            word = "no error"
        except BaseException as error:
            word = str(error)
        os.write(writer, word.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        assert "Cannot re-initialize MTIA in forked subprocess" in file.read()
