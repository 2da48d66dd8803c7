"""What was measured: one frozen value per row of a table, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass

from mtia.workloads.prediction import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measurement. `system`: the chip as the row writes it; `cells`: the row as written, for samples and order.

    `measured_s` is in seconds (rates are converted on reading: see `rows`), but for a `RelativeCollectiveCase`.
    """

    table: str  # kind of table: "gemm", "moe" ...
    file: str
    line: int
    system: str
    dtype: str
    measured_s: float
    cells: tuple[str, ...] = ()

    @property
    def operator(self) -> str:
        """What reports group by beside the file."""
        return self.table

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def made_by(self) -> str:
        """Kernel or library that was measured, where the table says."""
        return ""

    def __str__(self) -> str:
        return f"{self.operator} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmCase(Case):
    """out[m, n] = x[m, k] @ w[n, k]^T.

    `weight_copies`: tensors that launches rotate over (None: as the protocol has it); `fewest_copies`: the collector
    took as few as cover the SRAM, at most `weight_copies`; `counts_prefetch`: the profiler counts here what is fetched
    meanwhile of a matrix of the same size, for a layer beside this one, where SRAM has room for it.
    """

    m: int
    n: int
    k: int
    protocol: Protocol
    weight_copies: int | None = None
    fewest_copies: bool = False
    counts_prefetch: bool = False

    @property
    def operator(self) -> str:
        return "gemm"

    def __str__(self) -> str:
        return f"gemm {self.dtype} {self.m} x {self.n} x {self.k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase(Case):
    """`batch` sequences of `seq` tokens, causal (prefill), or one query each over a cache of `seq` (decode).

    `window` 0: none. `dtype` is the one of the math, `kv_dtype` that of the cache.
    """

    decode: bool
    batch: int
    seq: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    kv_dtype: str
    protocol: Protocol = Protocol.GRAPH_ONE

    @property
    def operator(self) -> str:
        return "decode" if self.decode else "prefill"

    def __str__(self) -> str:
        window = f", window {self.window}" if self.window else ""
        return (
            f"{self.operator} {self.dtype} (cache {self.kv_dtype}) batch {self.batch}, seq {self.seq}, "
            f"heads {self.heads}/{self.kv_heads} x {self.head_dim}{window}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeCase(Case):
    """The fused expert block on one rank of `moe_tp` x `moe_ep`. `kernel`: the source's framework and name of it."""

    tokens: int
    hidden: int
    inter: int
    topk: int
    experts: int
    moe_tp: int
    moe_ep: int
    gated: bool
    distribution: str
    kernel: str = ""
    version: str = ""  # of the framework
    protocol: Protocol = Protocol.GRAPH_ONE

    @property
    def made_by(self) -> str:
        return self.kernel

    def __str__(self) -> str:
        return (
            f"moe {self.dtype} {self.tokens} tokens, {self.hidden} x {self.inter}, top {self.topk} of {self.experts}, "
            f"tp {self.moe_tp} ep {self.moe_ep}, {self.distribution} [{self.kernel}]"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCase(Case):
    """An element-wise operator or a norm of [m, n] along n; `n` is the width of the output.

    `gated`: the input of an activation is 2n wide; `norm`: "rms" or "layer".
    """

    op: str
    m: int
    n: int
    protocol: Protocol
    gated: bool = False
    norm: str = ""

    @property
    def operator(self) -> str:
        return self.op

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {self.m} x {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCase(Case):
    """`n_bytes` as nccl-tests defines them. `library` as written; `ranks_per_node` None: all on one node."""

    op: str
    n_bytes: int
    ranks: int
    library: str
    protocol: Protocol
    ranks_per_node: int | None = None

    @property
    def operator(self) -> str:
        return self.op

    @property
    def made_by(self) -> str:
        return self.library

    def __str__(self) -> str:
        return f"{self.op} {self.dtype} {self.n_bytes:,} B over {self.ranks} ranks [{self.library}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeCollectiveCase(CollectiveCase):
    """`measured_s` is a ratio: to the time of `reference_system` at `reference_bytes`, same collective and ranks."""

    reference_system: str
    reference_bytes: int

    def __str__(self) -> str:
        return f"{self.op} {self.n_bytes:,} B over {self.ranks} ranks, relative to {self.reference_system}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FcCase(Case):
    """A fully connected layer; all tensors are streamed from `weights_in` ("sram", "dram")."""

    m: int
    n: int
    k: int
    weights_in: str

    @property
    def operator(self) -> str:
        return f"fc {self.weights_in}"

    def __str__(self) -> str:
        return f"fc {self.dtype} {self.m} x {self.n} x {self.k} from {self.weights_in}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingCase(Case):
    """Pooled rows of an embedding table: the measurement is a rate, so `measured_s` is seconds per row byte read."""

    batch: int
    pooling: int
    rows: int
    dim: int

    @property
    def operator(self) -> str:
        return "embedding"

    def __str__(self) -> str:
        return f"embedding {self.dtype} batch {self.batch}, pooling {self.pooling}, {self.rows:,} rows x {self.dim}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorOpCase(Case):
    """Another operator of MTIA 100 on m, k, n: a rate too, `measured_s` is seconds per byte."""

    op: str
    m: int
    n: int
    k: int
    tensors_in: str

    @property
    def operator(self) -> str:
        return self.op

    def __str__(self) -> str:
        return f"{self.op} m {self.m}, k {self.k}, n {self.n} from {self.tensors_in}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddCase(Case):
    """z = x + y of `elements` elements, host path included (docs/timing.md)."""

    elements: int
    protocol: Protocol = Protocol.EAGER

    @property
    def operator(self) -> str:
        return "add"

    def __str__(self) -> str:
        return f"add {self.dtype} of {self.elements:,} elements"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCase(Case):
    """An end-to-end serving row: recognised, not predicted yet. `measured_s`: time per output token."""

    model: str

    def __str__(self) -> str:
        return f"serving {self.model}"


__all__ = [
    "AddCase", "AttentionCase", "Case", "CollectiveCase", "EmbeddingCase", "FcCase", "GemmCase", "MoeCase", "OpCase",
    "RelativeCollectiveCase", "ServingCase", "TensorOpCase",
]  # fmt: skip
