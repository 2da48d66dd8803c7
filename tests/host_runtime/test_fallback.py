"""Host routes: counted, timed, refusable."""

import pytest
import torch

import mtia
from mtia import _C, knobs
from mtia.errors import HostFallbackRefused
from mtia.host_runtime import fallback, record
from mtia.host_runtime.record import Kind

OP = "mtia_test::host_sum"
LIBRARY = torch.library.Library("mtia_test", "DEF")
LIBRARY.define("host_sum(Tensor x) -> Tensor")
LIBRARY.impl("host_sum", lambda x: x.sum(), "CPU")


def host_op(n: int = 3) -> torch.Tensor:
    """An operator that has a kernel for the CPU alone."""
    return torch.ops.mtia_test.host_sum(torch.ones(n, device="mtia"))


def runs() -> int:
    return sum(n for op, n in mtia.host_fallbacks().items() if op.startswith(OP))


@pytest.fixture
def policy():
    """Puts a policy in force, in C++ too, for one test."""

    def put(value: str):
        _C.set_fallbacks_quiet(value == "count")
        return knobs.scope(host_fallback=value)

    yield put
    _C.set_fallbacks_quiet(True)


def test_the_result_is_right_and_on_the_device():
    assert torch.equal(host_op().cpu(), torch.tensor(3.0))
    assert host_op().device.type == "mtia"


def test_each_run_is_counted_and_reset_forgets():
    host_op()
    host_op()
    assert runs() == 2
    mtia.reset_host_fallbacks()
    assert mtia.host_fallbacks() == {}


def test_python_kernels_count_too():
    fallback.count("mtia::mine", 3)
    assert mtia.host_fallbacks() == {"mtia::mine": 3}


def test_host_time_is_on_the_clock():
    with record.session() as log:
        host_op(1 << 20)
    (span,) = [s for s in log.of_kind(Kind.HOST) if s.name.startswith(OP)]
    n_bytes = (4 << 20) + 4  # in and out
    assert span.work.n_bytes == n_bytes
    assert span.duration_fs > n_bytes / mtia.chip().host_link.bytes_per_s * 1e15


def test_error_refuses_and_names_the_operator(policy):
    x = torch.zeros(3, device="mtia")
    with policy("error"), pytest.raises(HostFallbackRefused, match=f"{OP}.*MTIA_HOST_FALLBACK=warn"):
        torch.ops.mtia_test.host_sum(x)
    assert runs() == 0


def test_warn_warns_once_per_operator(policy, recwarn):
    with policy("warn"):
        with pytest.warns(fallback.HostFallbackWarning, match=OP):
            host_op()
        host_op()
    assert [w for w in recwarn if OP in str(w.message)] == []
    assert runs() == 2


def test_in_place_views_and_lists_keep_identity():
    x = torch.tensor([3.0, 1.0, 2.0], device="mtia")
    y = x.erfinv_()
    assert y is x
    parts = torch.tensor_split(torch.arange(7, device="mtia"), 3)
    assert [p.tolist() for p in parts] == [[0, 1, 2], [3, 4], [5, 6]]
    values, indices = torch.mode(torch.tensor([1.0, 2.0, 2.0], device="mtia"), 0)
    assert (values.item(), indices.device.type) == (2.0, "mtia")


def test_index_lists_and_scalars_on_the_cpu():
    x = torch.arange(4.0, device="mtia")
    assert x[torch.tensor([True, False, True, False], device="mtia")].tolist() == [0.0, 2.0]
    assert torch.equal((x * torch.tensor(2.0)).cpu(), torch.arange(4.0) * 2)


def test_fft_of_conjugates():
    z = torch.randn(8, dtype=torch.complex64)
    torch.testing.assert_close(torch.fft.ifft(z.to("mtia")).cpu(), torch.fft.ifft(z))
    torch.testing.assert_close(torch.fft.hfft(z.to("mtia")).cpu(), torch.fft.hfft(z))
