"""scaled_dot_product_attention through the overrideable operator: outputs and gradients against the CPU's, and which
calls take the composition of matmuls and softmax instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import mtia

FUSED = "_scaled_dot_product_fused_attention_overrideable"


def inputs(
    S_q: int = 37, S_k: int = 37, D: int = 16, H: int = 4, H_kv: int = 4, dtype: torch.dtype = torch.float32,
    transposed: bool = False,
) -> list[torch.Tensor]:  # fmt: skip
    """Query, key, value and the gradient of the answer, [2, H, S, D]; transposed: as a projection leaves them."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for heads, length in ((H, S_q), (H_kv, S_k), (H_kv, S_k), (H, S_q)):
        shape = (2, length, heads, D) if transposed else (2, heads, length, D)
        x = torch.randn(shape, generator=generator).to(dtype)
        made.append(x.transpose(1, 2) if transposed else x)
    return made


def with_gradients(tensors: list[torch.Tensor], device: str, **options: Any) -> tuple[list[torch.Tensor], list[str]]:
    """The answer and three gradients, on the host; and what was launched."""
    *leaves, grad = [t.to(device) for t in tensors]
    leaves = [t.requires_grad_() for t in leaves]
    with mtia.session() as log:
        out = F.scaled_dot_product_attention(*leaves, **options)
        found = [out, *torch.autograd.grad(out, leaves, grad)]
    return [t.detach().cpu().float() for t in found], [span.name for span in log.spans]


def boolean_mask(S_q: int, S_k: int) -> torch.Tensor:
    mask = torch.rand((2, 1, S_q, S_k), generator=torch.Generator().manual_seed(5)) > 0.3
    mask[..., 0] = True
    return mask


CASES = {
    "plain": (dict(), dict()),
    "causal": (dict(), dict(is_causal=True)),
    "causal, more keys": (dict(S_q=20, S_k=70), dict(is_causal=True)),
    "causal, more queries": (dict(S_q=70, S_k=20), dict(is_causal=True)),
    "several blocks": (dict(S_q=130, S_k=97, D=32), dict()),
    "grouped heads": (dict(H=6, H_kv=2), dict(is_causal=True, enable_gqa=True)),
    "odd head dim": (dict(D=20), dict(scale=0.3)),
    "transposed": (dict(transposed=True), dict(is_causal=True)),
    "boolean mask": (dict(), dict(attn_mask=boolean_mask(37, 37))),
    "additive mask of one head": (dict(S_q=70, S_k=90), dict(attn_mask=torch.linspace(-2, 2, 70 * 90).view(70, 90))),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_cpu(case: str) -> None:
    shape, options = CASES[case]
    tensors = inputs(**shape)
    expected, _ = with_gradients(tensors, "cpu", **options)
    moved = {k: v.to("mtia") if torch.is_tensor(v) else v for k, v in options.items()}
    before = mtia.host_fallbacks()
    got, names = with_gradients(tensors, "mtia", **moved)
    assert mtia.host_fallbacks() == before
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    forward = "mtia_attention_biased" if "attn_mask" in options else "mtia_attention_forward"
    assert {forward, "mtia_attention_backward_queries", "mtia_attention_backward_keys"} <= set(names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_as_close_as_the_cpus(dtype: torch.dtype) -> None:
    tensors = inputs(dtype=dtype)
    exact, _ = with_gradients([t.float() for t in tensors], "cpu", is_causal=True)
    own, _ = with_gradients(tensors, "cpu", is_causal=True)
    got, _ = with_gradients(tensors, "mtia", is_causal=True)
    for g, o, e in zip(got, own, exact):
        unit = torch.finfo(dtype).eps * float(e.abs().max())
        assert float((g - e).abs().max()) <= 2 * float((o - e).abs().max()) + unit


def test_a_query_that_sees_no_key_gives_zero_and_no_gradient() -> None:
    tensors = inputs()
    mask = boolean_mask(37, 37)
    mask[:, :, 4] = False
    got, _ = with_gradients(tensors, "mtia", attn_mask=mask.to("mtia"))
    assert all(bool(torch.isfinite(t).all()) for t in got)
    assert not got[0][:, :, 4].any() and not got[1][:, :, 4].any()


@pytest.mark.parametrize("why", ["dropout", "learnt mask", "float64", "other head dim"])
def test_what_does_not_fit_takes_the_composition(why: str) -> None:
    q, k, v, _ = (t.to("mtia") for t in inputs())
    options: dict[str, Any] = {}
    if why == "dropout":
        options = dict(dropout_p=0.5)
    elif why == "learnt mask":
        options = dict(attn_mask=torch.zeros(37, 37, device="mtia", requires_grad=True))
    elif why == "float64":
        q, k, v = q.double(), k.double(), v.double()
    else:
        v = v[..., :8]
    with mtia.session() as log:
        F.scaled_dot_product_attention(q, k, v, **options)
    assert not any("attention" in span.name for span in log.spans)


def test_the_user_may_ask_for_the_composition() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v, _ = (t.to("mtia") for t in inputs())
    with mtia.session() as log, sdpa_kernel(SDPBackend.MATH):
        F.scaled_dot_product_attention(q, k, v)
    assert not any("attention" in span.name for span in log.spans)


def test_the_operator_itself_refuses_what_it_does_not_do() -> None:
    q, k, v, _ = (t.to("mtia") for t in inputs())
    with pytest.raises(ValueError, match=r"no dropout \(dropout_p = 0.5\)"):
        getattr(torch.ops.aten, FUSED)(q, k, v, None, 0.5)


def test_compiled_calls_launch_the_same_kernels() -> None:
    tensors = inputs(H=4, H_kv=2)
    options: dict[str, Any] = dict(is_causal=True, enable_gqa=True)
    expected, _ = with_gradients(tensors, "cpu", **options)
    *leaves, grad = [t.to("mtia") for t in tensors]
    leaves = [t.requires_grad_() for t in leaves]
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: F.scaled_dot_product_attention(q * 1.0, k, v, **options))
    before = mtia.host_fallbacks()
    with mtia.session() as log:
        out = compiled(*leaves)
        got = [out, *torch.autograd.grad(out, leaves, grad)]
    assert mtia.host_fallbacks() == before
    torch.testing.assert_close([t.detach().cpu() for t in got], expected, atol=1e-5, rtol=1e-4)
    assert {"mtia_attention_forward", "mtia_attention_backward_keys"} <= {span.name for span in log.spans}
