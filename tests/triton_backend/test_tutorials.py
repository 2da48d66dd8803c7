"""Triton's tutorial kernels on the device, against PyTorch on the CPU; taped replays against the interpreter."""

import pytest
import torch

import mtia
from mtia import knobs

from . import tutorial_kernels as kernels

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@pytest.fixture(autouse=True)
def nothing_on_the_host():
    before = dict(mtia.host_fallbacks())
    yield
    assert mtia.host_fallbacks() == before


def close(actual, expected, dtype, scale=1.0):
    torch.testing.assert_close(
        actual.cpu().double(), expected.double(), rtol=TOLERANCE[dtype] * scale, atol=TOLERANCE[dtype] * scale
    )


def test_01_vector_add():
    x, y = torch.randn(98_432), torch.randn(98_432)
    out = torch.full((98_432,), torch.nan).to("mtia")
    kernels.vector_add[(97,)](x.to("mtia"), y.to("mtia"), out, 98_432, BLOCK=1024)
    assert torch.equal(out.cpu(), x + y)


@pytest.mark.parametrize("shape", [(1823, 781), (3, 5)])
def test_02_fused_softmax(shape):
    x = torch.randn(shape)
    out = torch.full(shape, torch.nan).to("mtia")
    block = 1 << (shape[1] - 1).bit_length()
    kernels.fused_softmax[(64,)](out, x.to("mtia"), shape[1], shape[1], *shape, BLOCK=block)
    close(out, x.double().softmax(1), torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [False, True])
def test_03_grouped_matmul(dtype, activation):
    m, n, k = 200, 136, 72
    a, b = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
    out = torch.full((m, n), torch.nan, dtype=dtype).to("mtia")
    grid = (-(-m // 64) * -(-n // 32),)
    kernels.grouped_matmul[grid](
        a.to("mtia"), b.to("mtia"), out, m, n, k, k, 1, n, 1, n, 1, BM=64, BN=32, BK=32, GROUP=2, ACTIVATION=activation
    )
    expected = a.double() @ b.double()
    expected = torch.where(expected >= 0, expected, 0.01 * expected) if activation else expected
    # fp32 operands: tl.dot's own default multiplies in TF32 (10 mantissa bits: 2**-11 a factor); sums in fp32
    product = 2**-10 if dtype is torch.float32 else 0.0
    bound = (product + k * 2**-24) * (a.double().abs() @ b.double().abs()) + TOLERANCE[dtype] * expected.abs()
    assert ((out.cpu().double() - expected).abs() <= bound).all()


def layer_norm_reference(x, w, b, dy):
    x, w, b = (t.double().requires_grad_() for t in (x, w, b))
    y = torch.nn.functional.layer_norm(x, x.shape[1:], w, b, 1e-5)
    return y.detach(), *(g for g in torch.autograd.grad(y, (x, w, b), dy.double()))


def test_05_layer_norm_forward_and_backward():
    rows, n, group = 151, 96, 8
    x, dy, w, b = torch.randn(rows, n), torch.randn(rows, n), torch.rand(n), torch.rand(n)
    d = {name: t.to("mtia") for name, t in dict(x=x, dy=dy, w=w, b=b).items()}
    y, dx = torch.empty_like(d["x"]), torch.empty_like(d["x"])
    mean, rstd = torch.empty(rows, device="mtia"), torch.empty(rows, device="mtia")
    kernels.layer_norm_forward[(rows,)](d["x"], y, d["w"], d["b"], mean, rstd, n, n, 1e-5, BLOCK=64)
    partial_w, partial_b = (torch.zeros(group, n).to("mtia") for _ in range(2))
    locks = torch.zeros(2 * group, dtype=torch.int32).to("mtia")
    kernels.layer_norm_backward_dx[(rows,)](
        dx, d["dy"], partial_w, partial_b, d["x"], d["w"], mean, rstd, locks, n, n, GROUP=group, BLOCK=128
    )
    dw, db = torch.empty(n, device="mtia"), torch.empty(n, device="mtia")
    for partial, out in ((partial_w, dw), (partial_b, db)):
        kernels.sum_partials[(3,)](partial, out, group, n, BM=4, BN=32)
    for got, want in zip((y, dx, dw, db), layer_norm_reference(x, w, b, dy), strict=True):
        close(got, want, torch.float32, scale=20)  # sums over 151 rows


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_06_fused_attention(causal, dtype):
    batch, heads, t, d = 2, 2, 64, 32
    q, k, v = (torch.randn(batch, heads, t, d, dtype=dtype) for _ in range(3))
    out = torch.full(q.shape, torch.nan, dtype=dtype).to("mtia")
    lse = torch.empty(batch, heads, t, device="mtia")
    kernels.flash_attention[(t // 32, batch * heads)](
        q.to("mtia"), k.to("mtia"), v.to("mtia"), out, lse, d**-0.5, heads, t, D=d, BM=32, BN=16, CAUSAL=causal
    )
    expected = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    close(out, expected, dtype)


def test_a_taped_launch_gives_the_interpreters_bits():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 64, 32).to("mtia") for _ in range(3))

    def attention():
        out, lse = torch.zeros(1, 2, 64, 32).to("mtia"), torch.zeros(1, 2, 64).to("mtia")
        kernels.flash_attention[(2, 2)](q, k, v, out, lse, 0.2, 2, 64, D=32, BM=32, BN=16, CAUSAL=False)
        return out.cpu(), lse.cpu()

    with knobs.scope(interpret=True):
        defined = attention()
    first, recorded, replayed = attention(), attention(), attention()
    for run in (first, recorded, replayed):
        assert all(torch.equal(a, b) for a, b in zip(defined, run, strict=True))


def test_a_replay_reads_the_memory_of_its_own_launch():
    out = torch.zeros(300).to("mtia")
    for value in (1.0, 2.0, 3.0):
        x, y = torch.full((300,), value).to("mtia"), torch.arange(300.0).to("mtia")
        kernels.vector_add[(3,)](x, y, out, 300, BLOCK=128)
        assert torch.equal(out.cpu(), torch.arange(300.0) + value)
