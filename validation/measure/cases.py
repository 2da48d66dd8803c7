"""What is measured: each case's inputs, launch, float32 reference and bytes, and the sweep.

Dims by kernel (unused ones are 0): vector_add, gelu: n elements. copy_rows, softmax_rows, layer_norm_rows, row_sum:
m rows of n. matmul: m, n, k. attention_*: batch, heads, m = n = sequence length, head_dim. embedding_bag_*: m bags of
k indices into table_rows rows of n elements.
"""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import triton

import kernels

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8_e4m3": torch.float8_e4m3fn,
}
# Relative Frobenius error against float32. A wrong index or layout gives about 1. float8 is wide because Hopper's
# tensor cores keep fewer bits than float32 between its products and Triton's default there leaves them so.
TOLERANCE = {"float32": 5e-6, "tf32": 1.5e-3, "bfloat16": 6e-3, "float16": 2e-3, "float8_e4m3": 4e-2}
ZIPF_EXPONENT = 1.05
LAYER_NORM_EPS = 1e-5
CHECKED_HEADS = 4  # the reference of attention materialises the scores, so only the first heads are compared

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kernel at one size with one tiling. Dims and blocks in elements; 0 where the kernel has none."""

    kernel: str
    dtype: str
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 0
    heads: int = 0
    head_dim: int = 0
    table_rows: int = 0
    row_stride: int = 0
    block_m: int = 0
    block_n: int = 0
    block_k: int = 0
    group_m: int = 0
    num_warps: int = 4
    num_stages: int = 1

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def out_dtype(self) -> torch.dtype:
        """The output's: the input's, but bfloat16 for a float8 product."""
        return torch.bfloat16 if self.dtype == "float8_e4m3" else self.torch_dtype

    @property
    def options(self) -> dict[str, int]:
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True, slots=True)
class Operator:
    """How a case of one kernel is set up, launched and checked.

    `reference` returns (expected, got) to compare; tensors["out"] is what the kernel writes.
    """

    make: Callable[[Case, str], Tensors]
    launch: Callable[[Case, Tensors], object]
    reference: Callable[[Case, Tensors], tuple[torch.Tensor, torch.Tensor]]
    touched_bytes: Callable[[Case, Tensors], int]


def _randn(case: Case, device: str, *shape: int) -> torch.Tensor:
    """Normal values in the case's dtype (float8 through bfloat16: torch draws no float8)."""
    if case.dtype == "float8_e4m3":
        return torch.randn(shape, device=device, dtype=torch.bfloat16).to(case.torch_dtype)
    return torch.randn(shape, device=device, dtype=case.torch_dtype)


def _poisoned(device: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """An output full of NaN: an element that the kernel leaves unwritten fails the check."""
    return torch.full(shape, float("nan"), device=device, dtype=dtype)


def _all_bytes(case: Case, t: Tensors) -> int:
    return sum(x.numel() * x.element_size() for x in t.values())


def _make_flat(case: Case, device: str) -> Tensors:
    names = ("x", "y") if case.kernel == "vector_add" else ("x",)
    return {name: _randn(case, device, case.n) for name in names} | {"out": _poisoned(device, case.out_dtype, case.n)}


def _launch_vector_add(case: Case, t: Tensors) -> object:
    grid = (triton.cdiv(case.n, case.block_n),)
    return kernels.vector_add[grid](t["x"], t["y"], t["out"], case.n, BLOCK_N=case.block_n, **case.options)


def _launch_gelu(case: Case, t: Tensors) -> object:
    grid = (triton.cdiv(case.n, case.block_n),)
    return kernels.gelu[grid](t["x"], t["out"], case.n, BLOCK_N=case.block_n, **case.options)


def _make_rows(case: Case, device: str) -> Tensors:
    t = {"x": _randn(case, device, case.m, case.n)}
    if case.kernel == "layer_norm_rows":
        t |= {"weight": _randn(case, device, case.n), "bias": _randn(case, device, case.n)}
    if case.kernel == "row_sum":
        return t | {"out": _poisoned(device, torch.float32, case.m)}
    return t | {"out": _poisoned(device, case.out_dtype, case.m, case.n)}


def _launch_softmax(case: Case, t: Tensors) -> object:
    return kernels.softmax_rows[(case.m,)](t["x"], t["out"], case.n, BLOCK_N=case.block_n, **case.options)


def _launch_layer_norm(case: Case, t: Tensors) -> object:
    return kernels.layer_norm_rows[(case.m,)](
        t["x"], t["weight"], t["bias"], t["out"], case.n, LAYER_NORM_EPS, BLOCK_N=case.block_n, **case.options
    )


def _layer_norm_reference(case: Case, t: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    x, weight, bias = (t[name].float() for name in ("x", "weight", "bias"))
    return torch.nn.functional.layer_norm(x, (case.n,), weight, bias, LAYER_NORM_EPS), t["out"]


def _launch_row_sum(case: Case, t: Tensors) -> object:
    return kernels.row_sum[(case.m,)](t["x"], t["out"], case.n, BLOCK_N=case.block_n, **case.options)


def _make_copy(case: Case, device: str) -> Tensors:
    return {
        "x": _randn(case, device, case.m, case.row_stride),
        "out": _poisoned(device, case.out_dtype, case.m, case.n),
    }


def _launch_copy(case: Case, t: Tensors) -> object:
    grid = (case.m, triton.cdiv(case.n, case.block_n))
    return kernels.copy_rows[grid](t["x"], t["out"], case.n, case.row_stride, BLOCK_N=case.block_n, **case.options)


def _copy_bytes(case: Case, t: Tensors) -> int:
    return 2 * case.m * case.n * t["x"].element_size()


def _zipf_ranks(shape: tuple[int, int], rows: int, device: str) -> torch.Tensor:
    """Ranks 0..rows-1 by inverting the continuous power law of density rank^-ZIPF_EXPONENT on [1, rows + 1)."""
    tail = 1.0 - ZIPF_EXPONENT
    u = torch.rand(shape, device=device, dtype=torch.float64)
    return ((1.0 + u * ((rows + 1.0) ** tail - 1.0)) ** (1.0 / tail)).long().clamp_(1, rows) - 1


def _make_embedding(case: Case, device: str) -> Tensors:
    shape = (case.m, case.k)
    if case.kernel == "embedding_bag_zipf":  # a random permutation spreads the popular rows over the table
        index = torch.randperm(case.table_rows, device=device)[_zipf_ranks(shape, case.table_rows, device)]
    else:
        index = torch.randint(case.table_rows, shape, device=device)
    return {
        "table": _randn(case, device, case.table_rows, case.n),
        "index": index.int(),
        "out": _poisoned(device, case.out_dtype, case.m, case.n),
    }


def _launch_embedding(case: Case, t: Tensors) -> object:
    return kernels.embedding_bag[(case.m,)](t["table"], t["index"], t["out"], case.k, DIM=case.n, **case.options)


def _embedding_reference(case: Case, t: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    total = torch.zeros(case.m, case.n, device=t["out"].device)
    for column in t["index"].long().unbind(1):
        total += t["table"][column].float()
    return total, t["out"]


def _embedding_bytes(case: Case, t: Tensors) -> int:
    distinct_rows = t["index"].unique().numel()
    return distinct_rows * case.n * t["table"].element_size() + _all_bytes(case, {"i": t["index"], "o": t["out"]})


def _make_matmul(case: Case, device: str) -> Tensors:
    return {
        "a": _randn(case, device, case.m, case.k),
        "w": _randn(case, device, case.n, case.k),
        "out": _poisoned(device, case.out_dtype, case.m, case.n),
    }


def _launch_matmul(case: Case, t: Tensors) -> object:
    grid = (triton.cdiv(case.m, case.block_m) * triton.cdiv(case.n, case.block_n),)
    return kernels.matmul[grid](
        t["a"], t["w"], t["out"], case.m, case.n, case.k, BLOCK_M=case.block_m, BLOCK_N=case.block_n,
        BLOCK_K=case.block_k, GROUP_M=case.group_m, IS_EVEN_K=case.k % case.block_k == 0,
        PRECISION="ieee" if case.dtype == "float32" else "tf32", **case.options,
    )  # fmt: skip


def _make_attention(case: Case, device: str) -> Tensors:
    shape = (case.batch * case.heads, case.m, case.head_dim)
    t = {name: _randn(case, device, *shape) for name in ("q", "k", "v")}
    return t | {"out": _poisoned(device, case.out_dtype, *shape)}


def _launch_attention(case: Case, t: Tensors) -> object:
    if case.m % case.block_m or case.block_m % case.block_n:
        raise ValueError(f"attention: block_n {case.block_n} | block_m {case.block_m} | seq {case.m} must divide")
    scale_log2 = math.log2(math.e) / math.sqrt(case.head_dim)
    return kernels.attention[(case.m // case.block_m, case.batch * case.heads)](
        t["q"], t["k"], t["v"], t["out"], case.m, scale_log2, HEAD_DIM=case.head_dim, BLOCK_M=case.block_m,
        BLOCK_N=case.block_n, IS_CAUSAL=case.kernel == "attention_causal", **case.options,
    )  # fmt: skip


def _attention_reference(case: Case, t: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    q, k, v = (t[name][:CHECKED_HEADS].float() for name in ("q", "k", "v"))
    scores = q @ k.transpose(1, 2) / math.sqrt(case.head_dim)
    if case.kernel == "attention_causal":
        future = torch.ones(case.m, case.m, dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(future, -float("inf"))
    return scores.softmax(-1) @ v, t["out"][:CHECKED_HEADS]


OPERATORS = {
    "vector_add": Operator(
        _make_flat, _launch_vector_add, lambda c, t: (t["x"].float() + t["y"].float(), t["out"]), _all_bytes
    ),
    "gelu": Operator(
        _make_flat, _launch_gelu, lambda c, t: (torch.nn.functional.gelu(t["x"].float()), t["out"]), _all_bytes
    ),
    "copy_rows": Operator(_make_copy, _launch_copy, lambda c, t: (t["x"][:, : c.n].float(), t["out"]), _copy_bytes),
    "softmax_rows": Operator(
        _make_rows, _launch_softmax, lambda c, t: (t["x"].float().softmax(-1), t["out"]), _all_bytes
    ),
    "layer_norm_rows": Operator(_make_rows, _launch_layer_norm, _layer_norm_reference, _all_bytes),
    "row_sum": Operator(_make_rows, _launch_row_sum, lambda c, t: (t["x"].double().sum(-1), t["out"]), _all_bytes),
    "embedding_bag_uniform": Operator(_make_embedding, _launch_embedding, _embedding_reference, _embedding_bytes),
    "embedding_bag_zipf": Operator(_make_embedding, _launch_embedding, _embedding_reference, _embedding_bytes),
    "matmul": Operator(
        _make_matmul, _launch_matmul, lambda c, t: (t["a"].float() @ t["w"].float().T, t["out"]), _all_bytes
    ),
    "attention_full": Operator(_make_attention, _launch_attention, _attention_reference, _all_bytes),
    "attention_causal": Operator(_make_attention, _launch_attention, _attention_reference, _all_bytes),
}


def relative_error(case: Case, tensors: Tensors) -> float:
    """||got - expected|| / ||expected||; NaN where an element was left unwritten.

    The reference runs where the tensors are on the host and on an NVIDIA GPU, and on the host for any other device,
    so that a simulated device is not checked against itself.
    """
    if tensors["out"].device.type not in ("cpu", "cuda"):
        tensors = {name: x.cpu() for name, x in tensors.items()}
    expected, got = OPERATORS[case.kernel].reference(case, tensors)
    return ((got.double() - expected.double()).norm() / expected.double().norm()).item()


def _flat_cases() -> list[Case]:
    cases = [
        Case(kernel="vector_add", dtype=dtype, n=2**p, block_n=1024)
        for dtype in ("bfloat16", "float32")
        for p in (10, 14, 17, 20, 22, 24, 26, 28)
    ]
    cases += [
        Case(kernel="vector_add", dtype="bfloat16", n=2**p, block_n=block, num_warps=warps)
        for p in (20, 26)
        for block, warps in ((256, 4), (4096, 4), (4096, 8))
    ]
    cases += [Case(kernel="vector_add", dtype="bfloat16", n=n, block_n=1024) for n in (1_000_003, 50_000_001)]
    return cases + [
        Case(kernel="gelu", dtype=dtype, n=2**p, block_n=1024)
        for dtype, powers in (("bfloat16", (14, 18, 21, 24, 27)), ("float32", (20, 26)))
        for p in powers
    ]


def _row_cases() -> list[Case]:
    shapes = [(1, 4096), (128, 128), (1024, 1024), (4096, 4096), (16384, 1024), (65536, 256), (4096, 16384)]
    cases = []
    for kernel, dtype, (m, n) in itertools.product(
        ("softmax_rows", "layer_norm_rows"), ("bfloat16", "float32"), [*shapes, (3000, 3000), (32768, 4096)]
    ):
        if dtype == "bfloat16" or (m, n) in ((1024, 1024), (4096, 4096), (32768, 4096)):
            block = triton.next_power_of_2(n)
            warps = 4 if block <= 2048 else 8 if block <= 8192 else 16
            cases.append(Case(kernel=kernel, dtype=dtype, m=m, n=n, block_n=block, num_warps=warps))
    for m, n in [*shapes, (132, 65536), (262144, 128), (16384, 8192)]:
        stages = (1, 3) if n >= 8192 else (1,)
        cases += [
            Case(kernel="row_sum", dtype="bfloat16", m=m, n=n, block_n=min(n, 1024), num_stages=s) for s in stages
        ]
    return cases


def _copy_cases() -> list[Case]:
    strides = {
        (128, 512): (512,),
        (4096, 1024): (1024, 1088, 2048, 8192),
        (16384, 256): (256, 512, 4096),
        (65536, 64): (64, 128, 1024),
        (262144, 16): (16, 64, 512),
        (4096, 8192): (8192, 16384),
        (32768, 4096): (4096, 5120),
    }
    return [
        Case(kernel="copy_rows", dtype="bfloat16", m=m, n=n, row_stride=s, block_n=min(n, 1024))
        for (m, n), row_strides in strides.items()
        for s in row_strides
    ]


def _embedding_cases() -> list[Case]:
    sizes = [  # bags, dim, pooling, table rows
        (128, 128, 1, 1_000_000),
        (128, 128, 32, 1_000_000),
        (2048, 64, 32, 1_000_000),
        (2048, 128, 8, 1_000_000),
        (2048, 128, 64, 1_000_000),
        (16384, 128, 1, 1_000_000),
        (16384, 128, 32, 1_000_000),
        (16384, 64, 32, 100_000),
        (16384, 256, 16, 1_000_000),
        (65536, 128, 32, 4_000_000),
    ]
    return [
        Case(kernel=f"embedding_bag_{pattern}", dtype=dtype, m=m, n=n, k=k, table_rows=rows, num_warps=1, num_stages=s)
        for (m, n, k, rows), pattern in itertools.product(sizes, ("uniform", "zipf"))
        for dtype, s in ((("float16", 1), ("float16", 4), ("float32", 1)) if k == 32 else (("float16", 1),))
    ]


# block_m, block_n, block_k, group_m, num_warps, num_stages; block_k in 16-bit elements (see _in_bytes)
_NARROW = [(16, 64, 128, 1, 4, 4), (16, 128, 128, 1, 4, 4)]
_SMALL = [(64, 64, 64, 8, 4, 3), (64, 128, 64, 8, 4, 4)]
_LARGE = [(128, 128, 64, 8, 4, 3), (128, 128, 64, 8, 8, 3), (128, 256, 64, 8, 8, 3)]
_STAGES = [(128, 128, 64, 8, 8, stages) for stages in (1, 2, 4)]
_TALL_AND_FLAT = [(256, 128, 64, 8, 8, 3), (128, 128, 64, 1, 8, 3), (128, 128, 32, 8, 8, 4)]


def _matmul_tilings(m: int, n: int, k: int) -> list[tuple[int, int, int, int, int, int]]:
    """The tilings tried at a shape: narrow ones for few rows, and at two cubes every knob one at a time."""
    if m <= 16:
        return _NARROW
    if m <= 128:
        return [*_NARROW[1:], *_SMALL, _LARGE[1]]
    if (m, n, k) in ((2048, 2048, 2048), (8192, 8192, 8192)):
        return _SMALL + _LARGE + _STAGES + _TALL_AND_FLAT
    return [_SMALL[1], *_LARGE]


def _in_bytes(dtype: str, tiling: tuple[int, ...]) -> dict[str, int]:
    """A tiling's fields for `dtype`: block_k scaled so that a tile keeps its bytes (float8 twice, tf32 half)."""
    fields = dict(zip(("block_m", "block_n", "block_k", "group_m", "num_warps", "num_stages"), tiling))
    return fields | {"block_k": fields["block_k"] * 2 // DTYPES[dtype].itemsize}


def _matmul_cases() -> list[Case]:
    cubes = [(s, s, s) for s in (256, 1024, 2048, 4096, 8192)]
    layers = [(256, 28672, 4096), (1024, 4096, 14336), (4096, 14336, 4096), (3000, 2000, 1000), (3000, 2000, 1040)]
    few_rows = [(128, 128, 8192), (1, 4096, 4096), (16, 4096, 14336), (64, 4096, 4096), (128, 28672, 4096)]
    shapes = {
        "bfloat16": cubes + layers + few_rows,
        "float16": [cubes[1], cubes[3], layers[0]],
        "float8_e4m3": [*cubes[1:], layers[0], layers[2], few_rows[2]],
        "tf32": [*cubes[1:4], layers[0], few_rows[3]],
    }
    return [
        Case(kernel="matmul", dtype=dtype, m=m, n=n, k=k, **_in_bytes(dtype, tiling))
        for dtype, dtype_shapes in shapes.items()
        for m, n, k in dtype_shapes
        for tiling in (_matmul_tilings(m, n, k) if dtype == "bfloat16" else _matmul_tilings(m, n, k + 1)[-2:])
    ]


def _attention_cases() -> list[Case]:
    sizes = [  # batch, heads, seq, head_dim
        (1, 8, 128, 64),
        (1, 16, 512, 64),
        (1, 32, 1024, 128),
        (1, 32, 2048, 128),
        (1, 32, 4096, 128),
        (1, 32, 8192, 128),
        (4, 16, 2048, 64),
        (16, 32, 512, 64),
        (32, 16, 128, 64),
        (2, 16, 4096, 64),
    ]
    cases = []
    for (batch, heads, seq, dim), name in itertools.product(sizes, ("attention_full", "attention_causal")):
        base = Case(
            kernel=name, dtype="bfloat16", batch=batch, heads=heads, m=seq, n=seq, head_dim=dim,
            block_m=128, block_n=64, num_warps=4 if dim == 64 else 8, num_stages=3,
        )  # fmt: skip
        cases.append(base)
        if seq in (512, 2048):
            cases.append(replace(base, block_m=64, num_warps=4))
            cases.append(replace(base, num_stages=1))
            cases.append(replace(base, dtype="float16"))
    return cases


def sweep() -> list[Case]:
    """Every case, in a fixed shuffled order: a sweep cut short is still a sample of all kernels and sizes."""
    cases = [
        *_flat_cases(), *_row_cases(), *_copy_cases(), *_embedding_cases(), *_matmul_cases(), *_attention_cases(),
    ]  # fmt: skip
    random.Random(0).shuffle(cases)
    return cases


def smoke() -> list[Case]:
    """One small case per kernel, dtype and layout; seconds on a GPU, and small enough for Triton's interpreter."""
    tile = {"block_m": 32, "block_n": 32, "block_k": 32, "group_m": 2, "num_stages": 2}
    attention = {"batch": 1, "heads": 2, "block_m": 64, "block_n": 32, "num_stages": 2}
    return [
        Case(kernel="vector_add", dtype="bfloat16", n=3000, block_n=1024),
        Case(kernel="vector_add", dtype="float16", n=3000, block_n=1024),
        Case(kernel="vector_add", dtype="float32", n=4096, block_n=1024),
        Case(kernel="gelu", dtype="bfloat16", n=3000, block_n=1024),
        Case(kernel="copy_rows", dtype="bfloat16", m=16, n=200, row_stride=256, block_n=128),
        Case(kernel="softmax_rows", dtype="bfloat16", m=8, n=100, block_n=128),
        Case(kernel="layer_norm_rows", dtype="float32", m=8, n=100, block_n=128),
        Case(kernel="row_sum", dtype="bfloat16", m=8, n=300, block_n=128, num_stages=3),
        Case(kernel="embedding_bag_uniform", dtype="float16", m=8, n=64, k=5, table_rows=1000, num_warps=1),
        Case(kernel="embedding_bag_zipf", dtype="float32", m=8, n=64, k=5, table_rows=1000, num_warps=1),
        *(
            Case(kernel="matmul", dtype=dtype, m=100, n=80, k=k, **tile)
            for dtype, k in (("bfloat16", 96), ("float16", 80), ("float8_e4m3", 96), ("tf32", 96), ("float32", 80))
        ),
        *(
            Case(kernel=name, dtype=dtype, m=128, n=128, head_dim=dim, **attention)
            for name in ("attention_full", "attention_causal")
            for dtype, dim in (("bfloat16", 64), ("bfloat16", 128), ("float16", 64))
        ),
    ]
