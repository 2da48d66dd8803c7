"""MTIA 100 (facts 11.1 to 11.4)."""

from __future__ import annotations

from mtia.chips.loader import load
from mtia.validate.fidelity.page import Outcome, Statement
from mtia.validate.fidelity.rows import READ_OFF, fc, many, one, tbe, tensor_op
from mtia.workloads.fc import predict_fc

SPILLS = (
    "The text says that this layer spills. Operands and 32-bit sums are 101 and 134.2 MB of 134.2 MB, so here they "
    "fit; how many layers' weights the chain kept in SRAM, and what early software placed there, is not published"
)
EARLY = (
    "Early software, not fitted: the published times are 14 to 59 GB/s of compulsory traffic, less the deeper the "
    "layer, so operands were fetched more than once. The same chip's lookups reach 65 GB/s"
)


def statements() -> list[Statement]:
    return [
        Statement(
            name="fc-sram",
            section="11.1",
            published="fully connected layers, INT8 and FP16, from SRAM: 34 bars",
            reading="2 %",
            ran="`mtia validate validation/mtia --file mtia_fc`: stationary weights, a chain of layers",
            run=many(fc("sram", spilled=False)),
            why="worst where M is 128 and weights take longest: 800 GB/s (published) against 945 that the bars fit",
        ),
        Statement(
            name="fc-4096-int8",
            section="11.1",
            published="4096 cubed from SRAM, INT8: 57.7 T/s",
            reading="2 %",
            ran="`mtia validate validation/mtia --file mtia_fc`",
            why=SPILLS,
            run=one(fc("sram", spilled=True, dtype="int8"), "T/s", 1e12, per_s=2 * 4096**3),
        ),
        Statement(
            name="fc-4096-fp16",
            section="11.1",
            published="4096 cubed from SRAM, FP16: 39.7 T/s",
            reading="2 %",
            ran="`mtia validate validation/mtia --file mtia_fc`",
            why=SPILLS,
            run=one(fc("sram", spilled=True, dtype="float16"), "T/s", 1e12, per_s=2 * 4096**3),
        ),
        Statement(
            name="fc-dram",
            section="11.1",
            published="fully connected layers, INT8 and FP16, from DRAM: 36 bars",
            reading="2 %",
            ran="`mtia validate validation/mtia --file mtia_fc`: nothing resident, the faster of two strategies",
            why=EARLY,
            run=many(fc("dram")),
        ),
        Statement(
            name="fc-rate",
            section="11.1",
            published="INT8 engine in these layers: 103.5 T/s (fit of the bars)",
            ran="what 2,048 more rows of 1024 x 1024 take",
            run=_engine_rate,
        ),
        *(
            Statement(
                name=f"tbe-{dim}-{'small' if rows == 100 else 'large'}",
                section="11.2",
                reading=READ_OFF,
                published=f"table-batched embedding, rows of {dim} B, tables of {rows:,} rows: 6 bars",
                ran="`mtia validate validation/mtia --file mtia_tbe`: 32 tables, the rate counts rows and float16 sums",
                run=many(tbe(rows, dim)),
            )
            for dim in (64, 256)
            for rows in (100, 1_000_000)
        ),
        Statement(
            name="tbe-rtl",
            section="11.2",
            published="hand-written kernels for RTL validation: 500 GB/s with locality",
            why="the kernels, their bags and their indices are not published",
        ),
        *(_operator(*row) for row in TENSOR_OPS),
        Statement(
            name="models-100",
            section="11.4",
            published="TFLOP/s per W of LC1 to HC; 1.6x NNPI, 0.9x GPU",
            why="only size and FLOP per sample are published, not the graphs, batch sizes or placement",
        ),
        Statement(
            name="time-share",
            section="11.4",
            published="share of FC, EB, Concat ... of a model of 750 layers",
            why="shapes of the layers are not published",
        ),
    ]


TENSOR_OPS = (
    ("batchmatmul", "sram", 746, ""),
    (
        "concat",
        "sram",
        577,
        "the batch is not published: here tensors fill half of SRAM, so that launches count little",
    ),
    (
        "dequantize",
        "sram",
        366,
        "Unknown. The batch is not published, nor the result's type (float32 here); the engines "
        "would allow 750 GB/s, and so few as 3 MB a launch would explain the bar",
    ),
    ("batchmatmul", "dram", 62, ""),
    ("concat", "dram", 57, "one rate for all DRAM writes of MTIA 100 (calibrated)"),
    ("dequantize", "dram", 34, "one rate for all DRAM writes of MTIA 100 (calibrated)"),
)


def _operator(op: str, place: str, published: int, why: str) -> Statement:
    return Statement(
        name=f"{op}-{place}",
        section="11.3",
        reading=READ_OFF,
        published=f"{op} from {place.upper()}: {published} GB/s",
        ran="`mtia validate validation/mtia --file mtia_ops`", why=why,
        run=one(tensor_op(op, place), "GB/s", 1e9, per_s=1.0),
    )  # fmt: skip


def _engine_rate() -> Outcome:
    spec = load("mtia100")
    more = [predict_fc(spec, m=m, k=1024, n=1024, dtype="int8").seconds for m in (2048, 4096)]
    rate = 2 * 2048 * 1024**2 / (more[1] - more[0])
    return Outcome(prediction=f"{rate / 1e12:.1f} T/s", off_frac=rate / 103.5e12 - 1)
