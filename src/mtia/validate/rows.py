"""A folder of measurements as typed cases. A file is told by its columns; its name only says prefill or decode.

The README beside the public data says what each latency is; what follows from it for a prediction (protocol, rotating
weights, number formats) is here, once. Rates are turned into seconds with the bytes or flops that their source counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtia.errors import did_you_mean
from mtia.fabric.nodes import nodes
from mtia.validate.cases import (
    AddCase,
    AttentionCase,
    Case,
    CollectiveCase,
    EmbeddingCase,
    FcCase,
    GemmCase,
    MoeCase,
    OpCase,
    RelativeCollectiveCase,
    ServingCase,
    TensorOpCase,
)
from mtia.validate.reading import MeasuredDataError, Row, Sheet, read_sheet
from mtia.workloads.prediction import Protocol

GEMM_DTYPES = ("bfloat16", "float16", "float32", "int8", "fp8", "fp8_block", "nvfp4")
CACHE_DTYPES = ("bfloat16", "float16", "fp8")
MOE_DTYPES = (
    "bfloat16", "float16", "fp8", "fp8_block", "nvfp4", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "w4a4_mxfp4", "int4_wo",
)  # fmt: skip
EAGER_OPS = ("matmul", "softmax", "layernorm", "gelu")
VIDUR_OPS = ("add", "mlp_act", "input_layernorm", "post_attention_layernorm")
LAYER_OPS = ("gemm", "rmsnorm", "silu_mul", "rope")
MTIA_OPS = ("batchmatmul", "concat", "dequantize")
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "alltoall", "all_to_all", "send_recv", "broadcast")
COLLECTIVE_DTYPES = {
    "half": "float16", "float16": "float16", "bfloat16": "bfloat16", "int8": "int8", "float": "float32",
    "float32": "float32", "fp8": "fp8",
}  # fmt: skip
PLAIN_NORM_FAMILIES = ("phi-1", "phi-2", "gpt", "opt-", "falcon", "bloom", "pythia", "starcoder")
COMPILED_OPS = (("A100", "layernorm"), ("A100", "gelu"))  # LLMCompass times these through torch.compile on CUDA
SEE_README = "see README"  # MI210 softmax and layernorm of the eager table: its own scripts say float32
ROTATED_WEIGHTS, FEWEST_WEIGHTS = 6, 5
LAYER_MULTIPLIES = 4  # of one decoder layer that is profiled again and again: the others' weights pass in between
XLA_PROFILE = "llmservingsim-v0"  # whole programs, whose compiler fetches a layer's weights while another runs
FETCHES_ANOTHER = "down_proj"  # the layer that it does so in: where that takes twice its time, up_proj has no rows
MODEL_LAYERS = 32  # of Llama-3.1-8B, which runs whole: every other layer's weights pass in between
NORMALISED_TO = ("h100_meta", 1 << 31)


@dataclass(frozen=True, slots=True)
class TableKind:
    """Columns that make a file this kind of table, columns that it may have besides, and how a row is read."""

    name: str
    required: tuple[str, ...]
    read: Callable[[Row, str, tuple[str, ...]], Case]
    optional: tuple[str, ...] = ()

    def fits(self, columns: Iterable[str]) -> bool:
        words = set(columns)
        return set(self.required) <= words <= {*self.required, *self.optional}


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """The cases of one file, and the rows of it that cannot be used."""

    file: str
    kind: TableKind
    columns: tuple[str, ...]
    cases: tuple[Case, ...]
    errors: tuple[MeasuredDataError, ...] = ()


# --- one reader per kind ----------------------------------------------------------------------------------------------


def _common(row: Row, table: str, cells: tuple[str, ...], dtype: str, measured_s: float) -> dict[str, Any]:
    system = "chip" if "chip" in row.cells else "system"
    return {
        "table": table, "file": row.file, "line": row.line, "system": row.text(system), "dtype": dtype,
        "measured_s": measured_s, "cells": cells,
    }  # fmt: skip


def _latency_s(row: Row) -> float:
    return row.positive("latency_us") * 1e-6


def _mnk(row: Row) -> dict[str, Any]:
    return _counts(row, ("m", "n", "k"))


def _counts(row: Row, columns: Iterable[str]) -> dict[str, Any]:
    return {name: row.count(name) for name in columns}


def _gemm(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    """Linears of a replayed graph, weights rotating over copies; which collectors took part says over how many."""
    dtype = row.one_of("dtype", GEMM_DTYPES)
    only_trtllm = bool(row.optional("trtllm_us")) and not (row.optional("vllm_us") or row.optional("sglang_us"))
    one_copy = dtype == "nvfp4" and bool(row.optional("vllm_us"))
    return GemmCase(
        **_common(row, table, cells, dtype, _latency_s(row)),
        **_mnk(row),
        protocol=Protocol.GRAPH_CHAIN,
        weight_copies=1 if one_copy else FEWEST_WEIGHTS if only_trtllm else ROTATED_WEIGHTS,
        fewest_copies=only_trtllm,
    )


def _attention(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    heads, kv_heads = row.count("heads"), row.count("kv_heads")
    if heads % kv_heads:
        raise row.error("kv_heads", f"does not divide heads ({heads})")
    return AttentionCase(
        **_common(row, table, cells, row.one_of("attn_dtype", CACHE_DTYPES), _latency_s(row)),
        decode=_is_decode(row),
        batch=row.count("batch"), seq=row.count("seq"), heads=heads, kv_heads=kv_heads,
        head_dim=row.count("head_dim"), window=row.count("window", least=0),
        kv_dtype=row.one_of("kv_dtype", CACHE_DTYPES),
    )  # fmt: skip


def _is_decode(row: Row) -> bool:
    """Prefill and decode tables have the same columns: a column `phase` tells, else the file's name."""
    if "phase" in row.cells:
        return row.one_of("phase", ("prefill", "decode")) == "decode"
    named = [phase for phase in ("prefill", "decode") if phase in row.file.lower()]
    if len(named) != 1:
        raise MeasuredDataError(
            row.file,
            problem="has the columns of attention, which do not tell prefill from decode",
            allowed="Put one of the two words into the file's name, or add a column 'phase' (prefill, decode).",
        )
    return named[0] == "decode"


def _moe(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    distribution = row.text("distribution")
    if distribution != "balanced" and not distribution.startswith("power_law_"):
        raise row.error("distribution", "is not known", "Known: balanced, power_law_<exponent>.")
    sizes = ("tokens", "hidden", "inter", "topk", "experts", "moe_tp", "moe_ep")
    return MoeCase(
        **_common(row, table, cells, row.one_of("dtype", MOE_DTYPES), _latency_s(row)),
        **_counts(row, sizes),
        gated=row.one_of("gated", ("0", "1")) == "1",
        distribution=distribution,
        kernel=f"{row.text('framework')} {row.text('kernel')}",
        version=row.cells.get("version", ""),
    )


def _collective(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    library = row.text("library")
    dtype = COLLECTIVE_DTYPES[row.one_of("dtype", COLLECTIVE_DTYPES)]
    return CollectiveCase(
        **_common(row, table, cells, dtype, _latency_s(row)),
        op=_collective_name(row),
        n_bytes=row.count("bytes"),
        ranks=row.count("gpus", least=2),
        library=library,
        protocol=_collective_protocol(library),
        ranks_per_node=_ranks_per_node(library),
    )


def _collective_name(row: Row) -> str:
    return {"alltoall": "all_to_all"}.get(found := row.one_of("op", COLLECTIVES), found)


def _collective_protocol(library: str) -> Protocol:
    """nccl-tests: many in a row; an all-reduce of a framework: in a graph or not; through torch: with its launch."""
    if library == "nccl" or library.endswith(("_graph", ":TRTLLM")):
        return Protocol.GRAPH_CHAIN
    return Protocol.EAGER


def _ranks_per_node(library: str) -> int | None:
    """ "nccl(torch) 4/node" -> 4."""
    head, slash, _ = library.rpartition("/node")
    last = head.rpartition(" ")[2]
    return int(last) if slash and last.isdigit() else None


def _eager(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    """Operators that the host enqueues and waits for: softmax and layernorm along n of [m, n], gelu on m elements."""
    op = row.one_of("op", EAGER_OPS)
    dtype = "float32" if row.text("dtype") == SEE_README else row.one_of("dtype", (*GEMM_DTYPES, SEE_README))
    common = _common(row, table, cells, dtype, _latency_s(row))
    if op == "matmul":
        return GemmCase(**common, **_mnk(row), protocol=Protocol.EAGER)
    m, n = row.count("m"), row.count("n")
    protocol = Protocol.COMPILED if (common["system"], op) in COMPILED_OPS else Protocol.EAGER
    return OpCase(**common, op=op, m=m, n=n, protocol=protocol, norm="layer" if op == "layernorm" else "")


def _vidur(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    """Layers by a profiler's kernel time, float16. `gemm:*` may be any; the rest is element-wise or a norm."""
    op, model = row.text("op"), row.text("model")
    common = _common(row, table, cells, "float16", _latency_s(row))
    if op.startswith("gemm:"):
        return GemmCase(**common, **_mnk(row), protocol=Protocol.KERNEL, weight_copies=LAYER_MULTIPLIES)
    row.one_of("op", (*VIDUR_OPS, "gemm:*"))
    plain = any(family in model.lower() for family in PLAIN_NORM_FAMILIES)
    is_norm = op.endswith("layernorm")
    if op == "add" and plain:  # attention and feed-forward side by side: both are added to the residual
        op = "add_add"
    return OpCase(
        **common, op=op, m=row.count("m"), n=row.count("n"), protocol=Protocol.KERNEL,
        gated=op == "mlp_act" and not plain, norm=("layer" if plain else "rms") if is_norm else "",
    )  # fmt: skip


def _layer(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    """Layers of Llama-3.1-8B in bfloat16 by a profiler's device time."""
    op = row.one_of("op", LAYER_OPS)
    common = _common(row, table, cells, "bfloat16", _latency_s(row))
    if op == "gemm":
        prefetch = row.text("source") == XLA_PROFILE and row.text("layer") == FETCHES_ANOTHER
        return GemmCase(
            **common, **_mnk(row), protocol=Protocol.KERNEL, weight_copies=MODEL_LAYERS, counts_prefetch=prefetch
        )
    gated, norm = op == "silu_mul", "rms" if op == "rmsnorm" else ""
    return OpCase(**common, op=op, m=row.count("m"), n=row.count("n"), protocol=Protocol.KERNEL, gated=gated, norm=norm)


def _fc(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    sizes = _mnk(row)
    flop = 2 * sizes["m"] * sizes["n"] * sizes["k"]
    dtype = {"fp16": "float16"}.get(found := row.one_of("dtype", ("int8", "fp16", "bfloat16")), found)
    return FcCase(
        **_common(row, table, cells, dtype, flop / row.positive("flop_per_s")),
        **sizes,
        weights_in=row.one_of("weights_in", ("sram", "dram")),
    )


def _tbe(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    return EmbeddingCase(
        **_common(row, table, cells, row.one_of("row_dtype", ("int8", "fp16")), 1 / row.positive("bytes_per_s")),
        **_counts(row, ("batch", "pooling", "rows", "dim")),
    )


def _mtia_op(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    return TensorOpCase(
        **_common(row, table, cells, "int8", 1 / row.positive("bytes_per_s")),
        op=row.one_of("op", MTIA_OPS), **_mnk(row), tensors_in=row.one_of("tensors_in", ("sram", "dram")),
    )  # fmt: skip


def _add(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    """Two operands read and one result written per element."""
    dtype = row.one_of("dtype", ("bfloat16", "float16", "float32"))
    row.one_of("op", ("add",))
    elements = row.count("elements")
    n_bytes = 3 * elements * (4 if dtype == "float32" else 2)
    return AddCase(**_common(row, table, cells, dtype, n_bytes / row.positive("bytes_per_s")), elements=elements)


def _mtia_collective(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    system, n_bytes = NORMALISED_TO
    common = _common(row, table, cells, "bfloat16", row.positive("time_rel_h100_2p31"))
    rack = f"{common['system']}_rack"  # the chip linked as where it was measured
    return RelativeCollectiveCase(
        **{**common, "system": rack if rack in nodes() else common["system"]},
        op=_collective_name(row), n_bytes=row.count("bytes"), ranks=row.count("ranks", least=2), library="native",
        protocol=Protocol.GRAPH_CHAIN, reference_system=system, reference_bytes=n_bytes,
    )  # fmt: skip


def _serving(row: Row, table: str, cells: tuple[str, ...]) -> Case:
    common = _common(row, table, cells, row.optional("precision"), row.positive("tpot_ms") * 1e-3)
    return ServingCase(**common, model=row.text("model"))


# --- the kinds --------------------------------------------------------------------------------------------------------

FRAMEWORKS = ("vllm_us", "trtllm_us", "sglang_us", "n_sources")
MNK = ("m", "n", "k", "latency_us")
SERVING = (
    "id", "backend", "model", "system", "isl", "osl", "batch_size", "ttft_ms", "tpot_ms",
)  # fmt: skip
SERVING_MORE = (
    "backend_version", "precision", "gemm_quant_mode", "moe_quant_mode", "tp_size", "pp_size", "attention_dp_size",
    "moe_tp_size", "moe_ep_size", "source", "image", "measured", "tpot_spread", "kind",
)  # fmt: skip
KINDS: tuple[TableKind, ...] = (
    TableKind("gemm", ("system", "dtype", *MNK), _gemm, FRAMEWORKS),
    TableKind("attention", ("system", "attn_dtype", "kv_dtype", "batch", "seq", "heads", "kv_heads", "head_dim",
                            "window", "latency_us"), _attention, (*FRAMEWORKS, "phase")),
    TableKind("moe", ("system", "framework", "kernel", "dtype", "gated", "tokens", "hidden", "inter", "topk", "experts",
                      "moe_tp", "moe_ep", "distribution", "latency_us"), _moe, ("version",)),
    TableKind("collectives", ("system", "library", "op", "dtype", "gpus", "bytes", "latency_us"), _collective,
              ("version",)),
    TableKind("ops_eager", ("system", "op", "dtype", *MNK), _eager),
    TableKind("layer_ops_profiled", ("system", "model", "op", "tp", *MNK), _vidur),
    TableKind("layer_ops_serving", ("system", "source", "layer", "op", *MNK), _layer),
    TableKind("mtia_fc", ("chip", "dtype", "m", "k", "n", "weights_in", "flop_per_s"), _fc),
    TableKind("mtia_tbe", ("chip", "row_dtype", "batch", "pooling", "rows", "dim", "bytes_per_s"), _tbe),
    TableKind("mtia_ops", ("chip", "op", "m", "k", "n", "tensors_in", "bytes_per_s"), _mtia_op),
    TableKind("mtia_add", ("chip", "op", "dtype", "elements", "bytes_per_s"), _add),
    TableKind("mtia_collectives", ("chip", "op", "ranks", "bytes", "time_rel_h100_2p31"), _mtia_collective),
    TableKind("e2e_serving", SERVING, _serving, SERVING_MORE),
)  # fmt: skip


def kind_of(sheet: Sheet) -> TableKind:
    """The kind whose columns these are. Raises MeasuredDataError that names the odd column and the nearest kind."""
    found = [kind for kind in KINDS if kind.fits(sheet.columns)]
    if found:
        return found[0]
    have = set(sheet.columns)
    nearest = max(KINDS, key=lambda k: (len(have & set(k.required)) / len(k.required), -len(have - set(k.optional))))
    missing = [c for c in nearest.required if c not in have]
    extra = [c for c in sheet.columns if c not in (*nearest.required, *nearest.optional)]
    problem = "its columns are those of no known table" + (f"; missing {', '.join(missing)}" if missing else "")
    problem += f"; unknown {', '.join(extra)}" if extra else ""
    hint = did_you_mean(extra[0], (*nearest.required, *nearest.optional)) if extra else ""
    optional = f" and may have {', '.join(nearest.optional)}" if nearest.optional else ""
    allowed = f"The nearest, {nearest.name!r}, has {', '.join(nearest.required)}{optional}.{hint}"
    raise MeasuredDataError(sheet.file, problem=problem, allowed=allowed)


def read_table(path: Path) -> MeasuredTable:
    """All rows of a file that can be read, and an error for each that cannot. Raises MeasuredDataError on the file."""
    sheet = read_sheet(path)
    kind = kind_of(sheet)
    cases: list[Case] = []
    errors: list[MeasuredDataError] = []
    for line, cells in sheet:
        try:
            cases.append(
                kind.read(Row(sheet.file, line, dict(zip(sheet.columns, cells, strict=True))), kind.name, cells)
            )
        except MeasuredDataError as error:
            errors.append(error)
    return MeasuredTable(sheet.file, kind, sheet.columns, tuple(cases), tuple(errors))


def read_folder(folder: Path) -> tuple[list[MeasuredTable], list[MeasuredDataError]]:
    """Every CSV file of a folder, by name, and the files that are no known table. Raises MeasuredDataError on none."""
    paths = sorted(folder.glob("*.csv")) if folder.is_dir() else []
    if not paths:
        what = "holds no CSV file" if folder.is_dir() else "is no folder"
        raise MeasuredDataError(str(folder), problem=what, allowed="Give a folder with tables of measurements.")
    tables: list[MeasuredTable] = []
    errors: list[MeasuredDataError] = []
    for path in paths:
        try:
            tables.append(read_table(path))
        except MeasuredDataError as error:
            errors.append(error)
    return tables, errors


__all__ = ["KINDS", "MeasuredTable", "TableKind", "kind_of", "read_folder", "read_table"]
