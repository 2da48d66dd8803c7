"""What a sample of random programs and of built-in kernels computes, as one digest each; run as a script, it prints them.

python tests/engine/functional/sampled_bits.py        # a JSON object: name -> digest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from test_executor import N_PROGRAMS, programs

from mtia import knobs
from mtia.engine.functional import executor, interpreter

N_RANDOM = 25


def digest(tensors: Iterable[torch.Tensor]) -> str:
    """Of their bits, any NaN as one: payloads are not defined."""
    sha = hashlib.sha256()
    for t in tensors:
        x = t.detach().cpu().contiguous()
        if x.dtype.is_floating_point:
            x = torch.where(x.float().isnan(), torch.full_like(x, torch.nan), x)
        sha.update(x.view(torch.uint8).numpy().tobytes() if x.dim() else bytes(str(x.item()), "ascii"))
    return sha.hexdigest()[:16]


def random_program_bits() -> dict[str, str]:
    """The same programs in every process: hypothesis draws by the source of this function alone."""
    found: dict[str, str] = {}
    run = interpreter.run if knobs.get().interpret else executor.run

    @settings(
        max_examples=N_RANDOM,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(programs())
    def sample(case) -> None:
        program, memory, scalars = case
        run(memory.launch(program, scalars, N_PROGRAMS))
        found[f"random program {len(found)}"] = digest(memory.tensors)

    sample()
    return found


def built_in_bits() -> dict[str, str]:
    """Kernels of each family: multiplies, folds, sorts, scans, atomics in any order, gathers, random numbers."""
    g = torch.Generator().manual_seed(5)
    x, w = torch.randn(48, 96, generator=g), torch.randn(96, 40, generator=g)
    index = torch.randint(0, 48, (200,), generator=g)
    there, weight, rows = x.to("mtia"), w.to("mtia"), index.to("mtia")
    heads = there.view(1, 4, 12, 96)
    leaf = there.clone().requires_grad_()
    F.layer_norm(F.gelu(leaf), (96,)).pow(2).sum().backward()
    torch.manual_seed(7)
    found = {
        "matmul": [there @ weight, there.bfloat16() @ weight.bfloat16()],
        "folds": [there.sum(), there.mean(0), there.std(-1), there.amax(0), there.argmin(1)],
        "softmax": [there.softmax(-1), there.log_softmax(0)],
        "order": [*there.sort(-1), *there.topk(5, -1), there.cumsum(0)],
        "scatter": [torch.zeros(48, 3, device="mtia").index_add(0, rows, there.repeat(5, 1)[:200, :3])],
        "gather": [there[rows], F.embedding(rows, there)],
        "counts": [torch.bincount(rows, minlength=48)],
        "attention": [F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)],
        "convolution": [F.conv2d(there.view(1, 4, 12, 96), weight.view(-1)[:72].view(2, 4, 3, 3))],
        "gradients": [leaf.grad],
        "random": [torch.randn(100, device="mtia"), F.dropout(there, 0.5)],
    }
    return {name: digest(tensors) for name, tensors in found.items()}


if __name__ == "__main__":
    print(json.dumps({**random_program_bits(), **built_in_bits()}))
