"""What Inductor does with the device beyond plain models: FlexAttention, autotuning by simulated time, graphs, optimisers."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map_only

import mtia
from mtia import chips
from mtia.chips.spec import ChipSpec
from mtia.host_runtime.graphed import GraphedInput, GraphsLeftOut, say_graphs_left_out
from mtia.units import fs_to_s

TOKENS, WINDOW = 128, 48


@pytest.fixture(autouse=True)
def no_host_route():
    torch._dynamo.reset()
    before = dict(mtia.host_fallbacks())
    yield
    assert mtia.host_fallbacks() == before


# --- graph breaks -----------------------------------------------------------------------------------------------------


EAGER = {
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "nonzero": lambda x: x.nonzero(),
    "indexing": lambda x: x[x > 0],
    "index_put": lambda x: x.clone().index_put_((x > 0,), torch.tensor(2.0, device=x.device)),
    "unique": lambda x: torch.unique(x, sorted=True),
    "sort": lambda x: x.sort(),
    "matmul": lambda x: x.view(8, 8) @ x.view(8, 8),
    "copies": lambda x: x.cpu().to(x.device).view(8, 8).t().contiguous(),
    "item": lambda x: x.sum().item(),
}


@pytest.mark.parametrize("name", EAGER)
def test_dynamo_compiles_the_frames_it_compiles_on_the_cpu_and_no_kernel(name: str) -> None:
    """After a break operators run eagerly with Dynamo's frame evaluator on: what serves them is not for it."""
    eagerly: Any = torch._dynamo.disable(EAGER[name], recursive=False)

    def run(x: torch.Tensor) -> Any:
        return eagerly(x + 1), x * 2

    def frames(x: torch.Tensor) -> tuple[Any, dict[str, int]]:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        out = torch.compile(run, backend="eager")(x)
        return out, dict(torch._dynamo.utils.counters["frames"])

    x = torch.linspace(-2, 2, 64)[torch.randperm(64, generator=torch.Generator().manual_seed(3))]
    expected, on_cpu = frames(x)
    got, on_device = frames(x.to("mtia"))
    torch.testing.assert_close(tree_map_only(torch.Tensor, torch.Tensor.cpu, got), expected, atol=1e-5, rtol=1e-5)
    assert on_device == on_cpu and on_cpu["total"] > 0


# --- FlexAttention ----------------------------------------------------------------------------------------------------


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def sliding(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= k) & (q - k < WINDOW)


def alibi(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return score - (q - k) * 0.01 * (h + 1)


def query_key_value(queries: int = TOKENS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((1, 2, n, 16), generator=generator) for n in (queries, TOKENS, TOKENS)]


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any, score: Any) -> torch.Tensor:
    """The definition, on the host."""
    scores = q @ k.mT / q.shape[-1] ** 0.5
    h, i, j = torch.meshgrid(*(torch.arange(n) for n in scores.shape[1:]), indexing="ij")
    if score is not None:
        scores = score(scores, 0, h, i, j)
    if mask is not None:
        scores = scores.masked_fill(~mask(0, h, i, j), float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(
    ("mask", "score"), [(causal, None), (sliding, None), (None, alibi)], ids=["causal", "sliding window", "score_mod"]
)
def test_flex_attention_forward_and_backward(mask: Any, score: Any) -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    on_host = [x.requires_grad_() for x in query_key_value()]
    q, k, v = on_host
    expected = by_hand(q, k, v, mask, score)
    gradients = torch.autograd.grad(expected.square().sum(), on_host)
    leaves = [x.to("mtia").requires_grad_() for x in query_key_value()]
    blocks = None if mask is None else create_block_mask(mask, 1, 1, TOKENS, TOKENS, device="mtia")
    compiled = torch.compile(flex_attention)
    with mtia.session() as log:
        out: Any = compiled(*leaves, score_mod=score, block_mask=blocks)  # type: ignore[call-overload]
        got = torch.autograd.grad(out.square().sum(), leaves)
    torch.testing.assert_close(out.detach().cpu(), expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close([g.cpu() for g in got], list(gradients), atol=5e-5, rtol=1e-4)
    assert {"triton_tem_fused" in s.name or "flex_attention" in s.name for s in log.spans} >= {True}


def test_flex_decoding() -> None:
    """One query against all keys: Inductor splits the keys among programs and joins their parts."""
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v = query_key_value(queries=1)
    with torch.no_grad():
        got: Any = torch.compile(flex_attention)(*(x.to("mtia") for x in (q, k, v)))  # type: ignore[arg-type]
    torch.testing.assert_close(got.cpu(), by_hand(q, k, v, None, None), atol=1e-5, rtol=1e-4)


# --- autotuning -------------------------------------------------------------------------------------------------------


def tuned(spec: ChipSpec) -> dict[str, float]:
    """Milliseconds by candidate, as Inductor measured them for one product of matrices on this chip."""
    from torch._inductor import config, select_algorithm

    torch._dynamo.reset()
    found: dict[str, float] = {}

    def keep(timings: Any, *_: Any) -> None:
        found.update({f"{c.name.rsplit('_', 1)[0]} {c.description}": ms for c, ms in timings.items()})

    options = {
        "max_autotune_gemm": True, "max_autotune_gemm_backends": "TRITON", "test_configs.max_mm_configs": 6,
        "force_disable_caches": True, "autotune_in_subproc": False,
    }  # fmt: skip
    a, b = torch.randn(128, 256), torch.randn(256, 192)
    with mtia.use(spec), config.patch(options):
        select_algorithm.clear_feedback_savers()
        select_algorithm.add_feedback_saver(keep)
        try:
            got = torch.compile(lambda x, y: x @ y)(a.to("mtia"), b.to("mtia"))
        finally:
            select_algorithm.clear_feedback_savers()
    torch.testing.assert_close(got.cpu(), a @ b, atol=1e-4, rtol=1e-5)
    return found


def test_the_choice_of_tiles_follows_the_chip() -> None:
    """A chip whose DRAM and SRAM are slow wants tiles that read less; the one as it is wants work for all its PEs."""
    spec = chips.load("mtia300")
    starved = replace(
        spec,
        name="starved",
        sram=replace(spec.sram, bytes_per_s=spec.sram.bytes_per_s / 300),
        dram=replace(spec.dram, bytes_per_s=spec.dram.bytes_per_s / 300),
    )
    fast, slow = tuned(spec), tuned(starved)
    assert len(fast) > 2 and fast.keys() == slow.keys()
    assert len(set(fast.values())) > 1  # candidates differ in simulated time
    assert all(slow[c] > fast[c] for c in fast)
    assert min(fast, key=fast.__getitem__) != min(slow, key=slow.__getitem__)
    assert tuned(spec) == fast  # and it is simulated time: the same again to the last digit


# --- graphs -----------------------------------------------------------------------------------------------------------


def small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8))


def test_a_compiled_model_as_a_graph_is_one_enqueue() -> None:
    model = small_model()
    x, y = torch.randn(16, 32), torch.randn(16, 32)
    expected = model(y).detach()
    on_device = small_model().to("mtia")
    compiled = torch.compile(on_device)
    step = mtia.graphed(compiled, x.to("mtia"))
    moved = y.to("mtia")
    got = step(moved)
    torch.testing.assert_close(got.cpu(), expected, atol=1e-5, rtol=1e-5)

    def host_s(call: Any) -> float:
        from mtia.host_runtime.clock import clock

        torch.mtia.synchronize()
        before = clock().host_fs
        with torch.no_grad():
            call(moved)
        return fs_to_s(clock().host_fs - before)

    with mtia.session() as log:
        eager_s = host_s(compiled)
    launches = len(log.spans)
    assert launches > 2
    assert host_s(step) == pytest.approx(2 / launches * eager_s, rel=0.1)  # the copy of the input, then the graph


def test_a_graph_refuses_other_shapes() -> None:
    step = mtia.graphed(lambda x: x + 1, torch.zeros(4, device="mtia"))
    with pytest.raises(GraphedInput, match=r"argument 0 is float32 \[5\] on mtia:0, captured with float32 \[4\]"):
        step(torch.zeros(5, device="mtia"))
    with pytest.raises(GraphedInput, match="captured with 1 arguments"):
        step()


def test_reduce_overhead_compiles_without_inductors_graphs_and_says_so_once() -> None:
    say_graphs_left_out.cache_clear()
    x = torch.randn(16, 32)
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        for _ in range(2):  # the second graph comes from Inductor's cache of compiled code
            torch._dynamo.reset()
            compiled = torch.compile(small_model().to("mtia"), mode="reduce-overhead")
            for _ in range(3):
                got = compiled(x.to("mtia"))
    torch.testing.assert_close(got.cpu(), small_model()(x).detach(), atol=1e-5, rtol=1e-5)
    told = [str(w.message) for w in said if w.category is GraphsLeftOut]
    assert len(told) == 1
    assert "records on CUDA alone" in told[0] and "mtia.graphed(torch.compile(model), example)" in told[0]


def test_the_default_mode_asks_for_no_graphs() -> None:
    say_graphs_left_out.cache_clear()
    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(small_model().to("mtia"))(torch.randn(16, 32).to("mtia"))  # a warning would fail
    assert say_graphs_left_out.cache_info().misses == 0


def test_rms_norm_is_fused_with_what_follows() -> None:
    x = torch.randn(32, 96)
    with torch.no_grad():
        compiled = torch.compile(lambda x: F.rms_norm(x, (96,)).sin())
        there = x.to("mtia")
        compiled(there)
        with mtia.session() as log:
            got = compiled(there)
    assert len(log.spans) == 1
    torch.testing.assert_close(got.cpu(), F.rms_norm(x, (96,)).sin(), atol=1e-5, rtol=1e-5)


# --- optimisers -------------------------------------------------------------------------------------------------------


def test_a_compiled_foreach_step_is_few_kernels() -> None:
    def steps(device: str, compiled: bool) -> tuple[list[torch.Tensor], int]:
        model = small_model().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, capturable=device == "mtia", foreach=True)
        update = torch.compile(optimizer.step) if compiled else optimizer.step
        for seed in range(2):
            torch.manual_seed(seed)
            F.mse_loss(model(torch.randn(16, 32).to(device)), torch.zeros(16, 8, device=device)).backward()
            with mtia.session() as log:
                update()
            optimizer.zero_grad()
        return [p.detach().cpu() for p in model.parameters()], len(log.spans)

    expected, _ = steps("cpu", compiled=False)
    got, launches = steps("mtia", compiled=True)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    assert launches <= 3
