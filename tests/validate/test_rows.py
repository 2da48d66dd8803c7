"""Tables are told by their columns; what a row says wrong is named with file, line, value and what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mtia.chips import load
from mtia.validate.cases import AttentionCase, CollectiveCase, GemmCase, OpCase, RelativeCollectiveCase
from mtia.validate.predict import entry_of
from mtia.validate.reading import MeasuredDataError, MeasuredDataErrors
from mtia.validate.rows import KINDS, read_folder, read_table
from mtia.workloads.prediction import Protocol

GEMM = "system,dtype,m,n,k,latency_us"
ATTENTION = "system,attn_dtype,kv_dtype,batch,seq,heads,kv_heads,head_dim,window,latency_us"
COLLECTIVE = "system,library,version,op,dtype,gpus,bytes,latency_us"


def only_case(path: Path) -> Any:
    (case,) = read_table(path).cases
    return case


def test_a_file_is_known_by_its_columns_not_its_name(folder):
    at = folder(measured_yesterday=f"{GEMM}\nh100_sxm,bfloat16,16,4096,4096,12.5")
    (table,), errors = read_folder(at)
    assert table.kind.name == "gemm" and not errors
    case = table.cases[0]
    assert isinstance(case, GemmCase) and (case.m, case.n, case.k) == (16, 4096, 4096)
    assert case.measured_s == pytest.approx(12.5e-6) and case.where == "measured_yesterday.csv:2"
    assert case.protocol is Protocol.GRAPH_CHAIN and case.weight_copies == 6


def test_the_order_of_columns_does_not_matter(folder):
    at = folder(x="latency_us,k,n,m,dtype,system\n12.5,4096,4096,16,bfloat16,h100_sxm")
    assert isinstance(only_case(at / "x.csv"), GemmCase)


def test_no_two_kinds_have_the_same_columns():
    for kind in KINDS:
        assert [k.name for k in KINDS if k.fits(kind.required)] == [kind.name]


@pytest.mark.parametrize(
    ("cells", "copies", "fewest"),
    [("bfloat16,1,2,3,9,9,9", 6, False), ("nvfp4,1,2,3,9,9,9", 1, False), ("nvfp4,1,2,3,,9,9", 6, False), ("fp8,1,2,3,,9,", 5, True)],
)  # fmt: skip
def test_weights_rotate_as_the_collectors_that_took_part_did(folder, cells, copies, fewest):
    dtype, m, n, k, vllm, trtllm, sglang = cells.split(",")
    row = f"h100_sxm,{dtype},{m},{n},{k},9,{vllm},{trtllm},{sglang},1"
    at = folder(g=f"{GEMM},vllm_us,trtllm_us,sglang_us,n_sources\n{row}")
    case = only_case(at / "g.csv")
    assert (case.weight_copies, case.fewest_copies) == (copies, fewest)


def test_prefill_and_decode_are_told_by_the_name(folder):
    row = "h100_sxm,bfloat16,fp8,4,128,32,8,128,0,9"
    at = folder(attention_decode=f"{ATTENTION}\n{row}", our_prefill=f"{ATTENTION}\n{row}")
    decode, prefill = only_case(at / "attention_decode.csv"), only_case(at / "our_prefill.csv")
    assert isinstance(decode, AttentionCase) and decode.decode and decode.kv_dtype == "fp8"
    assert isinstance(prefill, AttentionCase) and not prefill.decode


def test_attention_without_a_phase_says_what_to_do(folder):
    at = folder(attention=f"{ATTENTION}\nh100_sxm,bfloat16,fp8,4,128,32,8,128,0,9")
    (error,) = read_table(at / "attention.csv").errors
    assert "do not tell prefill from decode" in str(error) and "column 'phase'" in str(error)


def test_a_phase_column_tells_too(folder):
    at = folder(attention=f"{ATTENTION},phase\nh100_sxm,bfloat16,fp8,4,128,32,8,128,0,9,decode")
    assert only_case(at / "attention.csv").decode


def test_collectives(folder):
    rows = "h100_sxm,nccl,2.29,alltoall,half,8,1024,9\nh100_sxm,vllm_custom:v_eager,1,all_reduce,bfloat16,2,512,30\nvidur_a40_pairwise_nvlink,nccl(torch) 4/node,,all_reduce,bfloat16,8,512,30"
    one, two, three = read_table(folder(c=f"{COLLECTIVE}\n{rows}") / "c.csv").cases
    assert isinstance(one, CollectiveCase) and one.op == "all_to_all" and one.dtype == "float16"
    assert isinstance(two, CollectiveCase) and (one.protocol, two.protocol) == (Protocol.GRAPH_CHAIN, Protocol.EAGER)
    assert isinstance(three, CollectiveCase) and three.ranks_per_node == 4


def test_rates_become_seconds(folder):
    at = folder(
        fc="chip,dtype,m,k,n,weights_in,flop_per_s\nmtia100,int8,128,1024,512,sram,1e13",
        add="chip,op,dtype,elements,bytes_per_s\nmtia300,add,bfloat16,1000,1e12",
    )
    assert only_case(at / "fc.csv").measured_s == pytest.approx(2 * 128 * 1024 * 512 / 1e13)
    assert only_case(at / "add.csv").measured_s == pytest.approx(6e-9)


def test_relative_collectives_keep_their_ratio(folder):
    at = folder(c="chip,op,ranks,bytes,time_rel_h100_2p31\nmtia300,all_reduce,16,1024,0.25")
    case = only_case(at / "c.csv")
    assert isinstance(case, RelativeCollectiveCase) and case.measured_s == 0.25
    assert (case.reference_system, case.reference_bytes) == ("h100_meta", 2**31)


@pytest.mark.parametrize(
    ("model", "op", "gated", "norm"),
    [("meta-llama/Llama-2-7b-hf", "mlp_act", True, ""), ("microsoft/phi-2", "mlp_act", False, ""),
     ("meta-llama/Llama-2-7b-hf", "input_layernorm", False, "rms"), ("microsoft/phi-2", "input_layernorm", False, "layer")],
)  # fmt: skip
def test_profiled_layers_follow_their_model(folder, model, op, gated, norm):
    at = folder(v=f"system,model,op,tp,m,n,k,latency_us\na100,{model},{op},1,64,4096,0,9.0")
    case = only_case(at / "v.csv")
    assert isinstance(case, OpCase) and (case.gated, case.norm) == (gated, norm)


def test_eager_rows_without_a_format_are_float32(folder):
    at = folder(e="system,op,dtype,m,n,k,latency_us\nMI210,softmax,see README,64,64,0,9.0")
    assert only_case(at / "e.csv").dtype == "float32"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("h100_sxm,bfloat61,16,4096,4096,12.5", "g.csv:2: dtype 'bfloat61': is not known. Known: bfloat16, float16"),
        ("h100_sxm,bfloat61,16,4096,4096,12.5", "Did you mean 'bfloat16'?"),
        ("h100_sxm,bfloat16,x,4096,4096,12.5", "g.csv:2: m 'x': is not a whole number"),
        ("h100_sxm,bfloat16,0,4096,4096,12.5", "g.csv:2: m '0': is too small. The least is 1."),
        ("h100_sxm,bfloat16,16,4096,4096,-1", "g.csv:2: latency_us '-1': is not above zero and finite"),
        ("h100_sxm,bfloat16,16,4096,4096,nan", "is not above zero and finite"),
        ("h100_sxm,bfloat16,16,4096,4096,", "g.csv:2: latency_us '': is empty"),
    ],
)
def test_bad_cells_are_named(folder, row, text):
    (error,) = read_table(folder(g=f"{GEMM}\n{row}") / "g.csv").errors
    assert text in str(error)


def test_unknown_operators_are_named(folder):
    at = folder(e="system,op,dtype,m,n,k,latency_us\nA100,softmin,float16,64,64,0,9.0")
    (error,) = read_table(at / "e.csv").errors
    assert "op 'softmin': is not known. Known: matmul, softmax, layernorm, gelu. Did you mean 'softmax'?" in str(error)


def test_an_unknown_column_names_the_nearest_table(folder):
    with pytest.raises(MeasuredDataError) as info:
        read_table(folder(g=f"{GEMM},latency_ms\nh100_sxm,bfloat16,1,2,3,4,5") / "g.csv")
    text = str(info.value)
    assert "unknown latency_ms" in text and "nearest, 'gemm', has system, dtype, m, n, k, latency_us" in text
    assert "Did you mean 'latency_us'?" in text


def test_a_missing_column_is_named(folder):
    with pytest.raises(MeasuredDataError, match="missing latency_us"):
        read_table(folder(g="system,dtype,m,n,k\nh100_sxm,bfloat16,1,2,3") / "g.csv")


def test_a_short_line_is_named(folder):
    with pytest.raises(MeasuredDataError, match=r"g.csv:3: has 5 cells, the header names 6 columns"):
        read_table(folder(g=f"{GEMM}\nh100_sxm,bfloat16,1,2,3,4\nh100_sxm,bfloat16,1,2,3") / "g.csv")


def test_a_folder_without_tables_says_so(tmp_path):
    with pytest.raises(MeasuredDataError, match="holds no CSV file"):
        read_folder(tmp_path)
    with pytest.raises(MeasuredDataError, match="is no folder"):
        read_folder(tmp_path / "nowhere")


def test_like_mistakes_are_told_once():
    errors = [
        MeasuredDataError("g.csv", line=line, column="dtype", value="x", problem="is not known") for line in (2, 5, 9)
    ]
    text = str(MeasuredDataErrors("data", errors))
    assert "3 rows or files" in text and "g.csv:2: dtype 'x': is not known. (2 more rows like it)" in text
    assert "--skip-unknown" in text and "g.csv:5" not in text


def test_layers_of_a_model_find_cold_weights(folder):
    at = folder(
        v="system,model,op,tp,m,n,k,latency_us\na100,microsoft/phi-2,gemm:qkv,1,64,4096,2560,9.0",
        s="system,source,layer,op,m,n,k,latency_us\ntpu_v6e_1,sim,q_proj,gemm,2,4096,4096,22.6",
    )
    layer, model = only_case(at / "v.csv"), only_case(at / "s.csv")
    assert (layer.weight_copies, model.weight_copies) == (4, 32)
    assert layer.protocol is model.protocol is Protocol.KERNEL


def test_a_profile_of_a_whole_program_counts_prefetches_where_they_fit(folder):
    """The matrix of 117 MB beside activations in 128 MiB: up to 256 rows."""
    head = "system,source,layer,op,m,n,k,latency_us"
    rows = "\n".join(f"tpu_v6e_1,llmservingsim-v0,down_proj,gemm,{m},4096,14336,154" for m in (256, 257))
    other = "tpu_v6e_1,llmservingsim-v0,gate_proj,gemm,16,14336,4096,79\nrtx4090,llmservingsim,down_proj,gemm,16,4096,14336,154"
    cases = read_table(folder(layers=f"{head}\n{rows}\n{other}") / "layers.csv").cases
    tpu = load("tpu_v6e_1")
    fetched = [entry_of(case).arguments(case, tpu)["prefetched_bytes"] for case in cases]
    assert fetched == [2 * 4096 * 14336, 0, 0, 0]
