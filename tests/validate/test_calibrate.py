"""The fit finds figures that made the data, inside their ranges, and writes them as calibrated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mtia import chips
from mtia.chips.spec import ChipSpec, SourceKind
from mtia.chips.writing import set_figures, toml
from mtia.validate import calibrate as fitting
from mtia.validate.calibrate import CannotCalibrate
from mtia.validate.cases import Case, GemmCase
from mtia.workloads.prediction import Protocol

H100 = chips.load("h100_sxm")
SHAPES = ((1, 512, 512), (16, 4096, 4096), (64, 8192, 8192), (512, 4096, 4096), (4096, 4096, 4096), (8192, 8192, 8192))


def roofline_s(case: Case, spec: ChipSpec) -> float:
    """A stand-in for a prediction: three of the figures, one regime each."""
    assert isinstance(case, GemmCase)
    flop, n_bytes = 2 * case.m * case.n * case.k, 2 * (case.m * case.k + case.n * case.k + case.m * case.n)
    power_s = flop / 2 * spec.power.mac_j["bf16"] / (spec.power.tdp_w - spec.power.idle_w)
    memory_s = 4 * n_bytes / spec.sram.bytes_per_s
    return spec.launch.replace_s + max(flop / spec.peak_flop_per_s("bf16"), power_s, memory_s)


def measured_on(spec: ChipSpec) -> list[Case]:
    cases = []
    for line, (m, n, k) in enumerate(SHAPES):
        plain = GemmCase(table="gemm", file="gemm.csv", line=line, system=spec.name, dtype="bfloat16", measured_s=1.0,
                         m=m, n=n, k=k, protocol=Protocol.GRAPH_CHAIN)  # fmt: skip
        cases.append(replace(plain, measured_s=roofline_s(plain, spec)))
    return cases


def truth() -> ChipSpec:
    """The figures of KEYS at six tenths of their ranges."""
    knobs = fitting.knobs_of(H100, KEYS)
    return fitting.varied(H100, knobs, {k.key: k.low + 0.6 * (k.high - k.low) for k in knobs})


KEYS = ("launch.replace_s", "sram.bytes_per_s", "power.mac_j")


def test_it_finds_the_figures_that_made_the_data():
    fit = fitting.calibrate(H100, measured_on(truth()), KEYS, rounds=7, predict=roofline_s)
    assert fit.objective < 0.02 < fit.before
    for key, rel in (("launch.replace_s", 0.1), ("sram.bytes_per_s", 0.02), ("power.mac_j.bf16", 0.05)):
        assert fit.fitted.get(key) == pytest.approx(truth().get(key), rel=rel), key
    assert fit.fitted.power.mac_j["fp8"] / fit.fitted.power.mac_j["bf16"] == pytest.approx(
        H100.power.mac_j["fp8"] / H100.power.mac_j["bf16"]
    )


def test_it_never_leaves_a_figures_range():
    far = H100.vary({"launch.replace_s": 5e-5, "sram.bytes_per_s": 1e11}, name=H100.name)
    fit = fitting.calibrate(H100, measured_on(far), KEYS, rounds=4, predict=roofline_s)
    for key in ("launch.replace_s", "sram.bytes_per_s", "power.mac_j.bf16"):
        source = H100.figures[key].source
        assert source.low is not None and source.high is not None
        assert source.low * 0.999 <= fit.fitted.get(key) <= source.high * 1.001, key


def test_rates_that_bind_the_same_rows_give_way_together():
    """Three rows see the product of two figures, one sees one of them: no figure alone can move."""

    def product_s(case: Case, spec: ChipSpec) -> float:
        cache, energy = spec.sram.bytes_per_s / 1e13, spec.power.mac_j["bf16"] / 1e-12
        return energy if case.line == 0 else energy / cache

    knobs = fitting.knobs_of(H100, KEYS[1:])
    truth = fitting.varied(H100, knobs, {"sram.bytes_per_s": -0.2, "power.mac_j": -0.2})
    rows = [replace(case, measured_s=product_s(case, truth)) for case in measured_on(H100)[:4]]
    fit = fitting.calibrate(H100, rows, KEYS[1:], rounds=5, predict=product_s)
    assert fit.objective < 0.01 < fit.before
    assert fit.fitted.power.mac_j["bf16"] == pytest.approx(truth.power.mac_j["bf16"], rel=0.03)


def test_perfect_figures_stay():
    fit = fitting.calibrate(H100, measured_on(H100), KEYS, predict=roofline_s)
    assert fit.objective == pytest.approx(0, abs=1e-12) and fit.fitted is H100


def test_the_same_data_give_the_same_figures():
    first, second = (fitting.calibrate(H100, measured_on(truth()), KEYS, predict=roofline_s) for _ in range(2))
    assert first.factors_ln == second.factors_ln and first.n_evaluations == second.n_evaluations


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("a", "b", "c", "d", "e", "f", "g"), r"7 figures to calibrate.*, at most 6; leave some out"),
        (("launch.replaces_s",), r"no figure 'launch\.replaces_s'; name one as `mtia chips show h100_sxm` does"),
        (("dram.bytes_per_s",), r"dram\.bytes_per_s has no range above zero .* only assumed and calibrated"),
    ],
)
def test_what_cannot_be_calibrated(keys: tuple[str, ...], message: str):
    with pytest.raises(CannotCalibrate, match=message):
        fitting.calibrate(H100, measured_on(H100), keys, predict=roofline_s)
    with pytest.raises(CannotCalibrate, match="no measurements"):
        fitting.calibrate(H100, [], KEYS, predict=roofline_s)


def test_errors_before_and_after():
    errors = fitting.errors_on(H100, measured_on(truth()), roofline_s)
    assert set(errors) == {"gemm.csv", "all"} and errors["all"].n == len(SHAPES) and errors["all"].mean_frac > 0


def under(protocol: Protocol) -> list[Case]:
    rows = measured_on(H100)
    return [replace(r, protocol=protocol) for r in rows]


def test_the_launch_path_is_fitted_as_it_was_measured():
    assert fitting.default_figures(H100, under(Protocol.GRAPH_CHAIN)) == fitting.GRAPH_FIGURES
    mi210 = chips.load("mi210")
    assert fitting.default_figures(mi210, under(Protocol.EAGER)) == fitting.EAGER_FIGURES
    assert "launch.start_s" in fitting.default_figures(mi210, under(Protocol.KERNEL))


def test_figures_that_something_else_calibrated_count_among_the_six():
    elsewhere = fitting.calibrated_elsewhere(H100, fitting.GRAPH_FIGURES)
    assert elsewhere and len(elsewhere) + len(fitting.GRAPH_FIGURES) <= 6
    seven = (*fitting.GRAPH_FIGURES, "launch.host_s", "dram.latency_s", "launch.finish_s")[: 7 - len(elsewhere)]
    with pytest.raises(CannotCalibrate, match=rf"beside {min(elsewhere)}.*, at most 6"):
        fitting.knobs_of(H100, seven)


# --- the chip file ----------------------------------------------------------------------------------------------------


def test_a_calibrated_file_loads_as_it_was_fitted(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nbase = "h100_sxm"\n\n[clock_hz]\nvalue = 1.9e9\n'
                    'source = { kind = "chosen", why = "test" }\n')  # fmt: skip
    spec = chips.load(path)
    fit = fitting.calibrate(spec, measured_on(truth()), KEYS, rounds=4, predict=roofline_s)
    fitting.write_chip(fit, "gemm.csv: 6 rows", path)
    again = chips.load(path)
    assert again.clock_hz == 1.9e9
    for key in ("launch.replace_s", "sram.bytes_per_s", "power.mac_j.bf16", "power.mac_j.fp8"):
        figure = again.figures[key]
        assert figure.value == pytest.approx(fit.fitted.get(key), rel=1e-4), key
        assert figure.source.kind is SourceKind.CALIBRATED and figure.source.text == "gemm.csv: 6 rows"
        assert figure.source.low is not None and figure.source.high is not None
        assert not figure.source.inherited_from and figure.source.high > figure.source.low
    fitting.write_chip(fitting.calibrate(again, measured_on(truth()), KEYS, predict=roofline_s), "more", path)
    assert path.read_text().count("[power.mac_j]") == path.read_text().count("[launch.replace_s]") == 1


def test_setting_a_figure_leaves_the_rest_of_the_file():
    text = (
        '# a chip\nname = "x"\n\n[a.b]\nvalue = 1\nsource = 2\n\n[a.c.bf16]\nvalue = 3\nsource = 4\n\n[d]\nvalue = 5\n'
    )
    out = set_figures(text, {"a.b": (2.5, {"why": 'so "be" it'}), "a.c": ({"bf16": 1e-12}, {"kind": "assumed"})})
    assert '[a.b]\nvalue = 2.5\nsource = { why = "so \\"be\\" it" }\n\n' in out and "[a.c.bf16]" not in out
    assert out.startswith('# a chip\nname = "x"\n') and "[d]\nvalue = 5\n" in out
    assert out.endswith('[a.c]\nvalue = { bf16 = 1e-12 }\nsource = { kind = "assumed" }\n')


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (3, "3"), (3.0, "3.0"), (1.23456789e-6, "1.2346e-6"), (4e12, "4e12"), ("a", '"a"')],
)
def test_values_as_files_write_them(value: object, text: str):
    assert toml(value) == text
