"""Every (format, generation) pair: the product on the device within the contract's bound of float64, or refused with
what the chip has, since when, and what software costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mtia
from mtia import knobs
from mtia.chips import load
from mtia.chips.multiply import path_or_none
from mtia.engine.functional import executor
from mtia.errors import UnsupportedDtype
from mtia.kernels.matmul import multiply
from mtia.kernels.quantise_mx import quantise_mx
from mtia.kernels.scaled_matmul import multiply_blocks, multiply_rows, multiply_unpacked
from mtia.numerics import blocks as b
from mtia.numerics.formats import FP4_E2M1, decode
from mtia.numerics.multiply import contract_of, error_bound, reference

CHIPS = ("mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500")
ROW_FORMATS = {"int8": torch.int8, "fp8e4m3": torch.float8_e4m3fn, "fp8e5m2": torch.float8_e5m2}
WIDE_FORMATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BLOCK_FORMATS = {f.name: f for f in (b.MX4, b.MX8, b.MX8S, b.MXFP8_E5M2, b.MXFP4)}
FORMATS = (*WIDE_FORMATS, *ROW_FORMATS, *BLOCK_FORMATS)
OCP_FORMS = {"e2m3": b.MXFP6_E2M3, "e3m2": b.MXFP6_E3M2, "mxint8": b.MXINT8}
M, N, K = 24, 40, 160


def numbers(rows: int, columns: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return x * torch.exp2(torch.randint(-4, 5, (rows, columns), generator=generator).float())


def device_product(fmt: str, a: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(result on the device, the numbers that the operands hold [M, K], [N, K])."""
    out = torch.empty(M, N, device="mtia")
    if fmt in WIDE_FORMATS:
        x, y = a.to(WIDE_FORMATS[fmt]), w.to(WIDE_FORMATS[fmt])
        multiply(x.to("mtia")[None], y.to("mtia").T[None], out[None])
        return out, x.double().numpy(), y.double().numpy()
    if fmt in ROW_FORMATS:
        limit = 127 if fmt == "int8" else 400
        x, y = (t.clamp(-limit, limit).round().to(ROW_FORMATS[fmt]) for t in (a * 8, w * 8))
        one = torch.ones(1, device="mtia")
        multiply_rows(x.to("mtia"), y.to("mtia"), one, one, None, out)
        return out, x.double().numpy(), y.double().numpy()
    block = BLOCK_FORMATS[fmt]
    quantised = [quantise_mx(t.to("mtia"), block) for t in (a, w)]
    multiply_blocks(quantised[0][0], quantised[1][0], quantised[0][1], quantised[1][1], None, out, block=block.cols)
    return out, *(held_by(codes, scale, block) for codes, scale in quantised)


def held_by(codes: torch.Tensor, scale: torch.Tensor, block: b.BlockFormat) -> np.ndarray:
    raw = codes.view(torch.uint8).cpu().numpy()
    elements = decode(b.unpack_pairs(raw) if block.element is FP4_E2M1 else raw, block.element)
    factors = b.scale_values(scale.cpu().numpy(), block)
    return elements * factors.repeat(block.rows, 0)[: len(elements)].repeat(block.cols, 1)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_product_is_within_the_contract(fmt: str, chip: str) -> None:
    spec = load(chip)
    a, w = numbers(M, K, 1), numbers(N, K, 2)
    with mtia.use(chip):
        if path_or_none(spec, fmt) is None:
            with pytest.raises(
                UnsupportedDtype, match=rf"{chip} has no .*since MTIA [34]00\. In software: .* multiply at"
            ):
                device_product(fmt, a, w)
            return
        out, x_MK, w_NK = device_product(fmt, a, w)
        again, *_ = device_product(fmt, a, w)
    contract = contract_of(spec, fmt)
    error = np.abs(out.cpu().double().numpy() - reference(x_MK, w_NK.T))
    assert (error <= error_bound(x_MK, w_NK.T, contract)).all()
    assert torch.equal(out.cpu(), again.cpu())


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("fmt", FORMATS)
def test_interpreter_and_native_executor_give_the_same_bits(fmt: str, chip: str) -> None:
    """Quantise, multiply: the executor runs each kernel, in the interpreter's bits, whatever a chip's tiles."""
    if path_or_none(load(chip), fmt) is None:
        pytest.skip("refused: tests/chips/test_refusals.py")
    a, w = numbers(M, K, 1), numbers(N, K, 2)
    with mtia.use(chip):
        before = executor.counts.copy()
        native, *_ = device_product(fmt, a, w)
        ran = executor.counts - before
        with knobs.scope(interpret=True):
            defined, *_ = device_product(fmt, a, w)
    assert ran["native"] >= 1 and ran["interpreted"] == 0
    assert torch.equal(native.cpu().view(torch.int32), defined.cpu().view(torch.int32))


@pytest.mark.parametrize("packed", [False, True], ids=["e4m3", "e2m1"])
def test_any_bytes_are_read_alike(packed: bool) -> None:
    """Every code and scale, NaN and the least among them, in both and in a product of float64 of their numbers."""
    random = np.random.default_rng(7)
    depth = 64
    x, w = (random.integers(0, 256, (rows, depth // (1 + packed)), dtype=np.uint8) for rows in (32, 48))
    scales = [random.integers(0, 256, (rows, depth // 16), dtype=np.uint8) for rows in (32, 48)]
    element = torch.uint8 if packed else torch.float8_e4m3fn
    results = []
    with mtia.use("mtia400"):
        moved = [torch.from_numpy(t).view(element).to("mtia") for t in (x, w)]
        held = [torch.from_numpy(s).to("mtia") for s in scales]
        for interpret in (False, True):
            out = torch.empty(32, 48, device="mtia")
            with knobs.scope(interpret=interpret):
                multiply_blocks(*moved, *held, None, out, block=16)
            results.append(out.cpu())
    assert torch.equal(results[0].nan_to_num(nan=7.0), results[1].nan_to_num(nan=7.0))
    fmt = b.MX4 if packed else b.MX8
    wide = [held_by(m, h, fmt) for m, h in zip(moved, held, strict=True)]
    exact = reference(wide[0], wide[1].T)
    assert np.isnan(results[0].numpy())[np.isnan(exact)].all()


def test_the_bound_is_not_loose_by_more_than_its_depth() -> None:
    """A sum made as bad as one order allows (each addition rounds away) reaches a good part of the bound."""
    depth = 4096
    a = np.full((1, depth), 1.0, dtype=np.float32)
    w = np.full((depth, 1), 1.0 + 2.0**-7, dtype=np.float32)
    total = np.float32(0)
    for product in (a[0] * w[:, 0]).astype(np.float32):
        total = np.float32(total + product)
    error = abs(float(total) - reference(a, w)[0, 0])
    bound = error_bound(a, w, contract_of(load("mtia400"), "bf16"))[0, 0]
    assert error <= bound <= depth * 2.0**-23 * 2 * depth


def test_refusal_says_what_the_chip_has_since_when_and_what_software_costs() -> None:
    x = torch.zeros(32, 32, dtype=torch.uint8, device="mtia")
    scale, out = torch.zeros(32, 4, dtype=torch.uint8, device="mtia"), torch.zeros(32, 32, device="mtia")
    message = (
        r"tl.dot_scaled: mtia200 has no mx4; it supports bf16, fp16, int8. mx4 is supported since MTIA 400. In software: "
        r"keep mx4 for storage and unpack to bf16 on the vector cores .* multiply at 177 TFLOP/s, MTIA 400 12 PFLOP/s in mx4"
    )
    with mtia.use("mtia200"), pytest.raises(UnsupportedDtype, match=message):
        multiply_blocks(x, x, scale, scale, None, out, block=16)


def test_mtia300_unpacks_mx_on_its_cores() -> None:
    """The same product costs the vector passes and runs at bfloat16's rate: slower than bfloat16 itself."""
    path = path_or_none(load("mtia300"), "mx4")
    assert path is not None and path.is_software and path.rate == "bf16" and path.unpack_passes == 4
    assert "unpacked on the cores to bf16" in str(contract_of(load("mtia300"), "mx4"))


@pytest.mark.parametrize(
    ("form", "block"), [("int8", 0), ("e4m3", 0), ("e4m3", 16), ("e2m1", 16), *((f, 32) for f in OCP_FORMS)]
)
@pytest.mark.parametrize("chip", ["mtia200", "mtia400"])
def test_narrow_weights_are_widened_exactly(form: str, block: int, chip: str) -> None:
    """Every code of the weights, on chips with and without the format."""
    codes = torch.arange(N * K, dtype=torch.int32).remainder(256).to(torch.uint8).view(N, K)
    if form == "e4m3":
        codes = torch.where(codes & 127 == 127, 0, codes).to(torch.uint8)  # NaN is the scale's to say
    codes = codes & 63 if form in ("e2m3", "e3m2") else codes
    packed = codes[:, : K // 2].contiguous() if form == "e2m1" else codes
    scale = torch.randint(120, 134, (N, K // block), dtype=torch.uint8) if block else numbers(N, 1, 3).abs()
    x = numbers(M, K, 4).to(torch.bfloat16)
    with mtia.use(chip):
        out = torch.empty(M, N, device="mtia")
        multiply_unpacked(*(t.to("mtia") for t in (x, packed, scale)), None, out, form=form, block=block)
    if form == "int8":
        wide = packed.view(torch.int8).double().numpy()
    elif form in OCP_FORMS:
        wide = b.decode_elements(packed.numpy(), OCP_FORMS[form])
    elif form == "e4m3":
        wide = packed.view(torch.float8_e4m3fn).double().numpy()
    else:
        wide = decode(b.unpack_pairs(packed.numpy()), FP4_E2M1).astype(np.float64)
    if block:
        wide = wide * b.scale_values(scale.numpy(), b.MX8).repeat(block, 1)
    exact = reference(x.double().numpy(), wide.T)
    factor = 1.0 if block else scale.double().numpy().T
    bound = (
        error_bound(x.double().numpy(), wide.T, contract_of(load(chip), "bf16")) * factor
        + np.abs(exact * factor) * 2e-7
    )
    assert (np.abs(out.cpu().double().numpy() - exact * factor) <= bound).all()
