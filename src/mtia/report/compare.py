"""One model, one prompt, many chips: time to first token, time per output token, energy, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from rich import box
from rich.table import Table

from mtia import knobs
from mtia.chips.spec import ChipSpec
from mtia.host_runtime import silicon
from mtia.report import interval
from mtia.report.generate import Generator
from mtia.report.launches import Recorder
from mtia.report.summary import KernelSummary, total

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmTiming:
    """One prompt on one chip. `tpot_s` is the mean over the answer's decode steps; ranges are from assumed figures."""

    spec: ChipSpec
    ttft_s: float
    tpot_s: float
    prefill: KernelSummary
    decode: KernelSummary  # of one decode step
    recorder: Recorder = field(repr=False)
    ttft_range_s: Range | None = None
    tpot_range_s: Range | None = None
    energy_range_j: Range | None = None  # per output token

    @property
    def tokens_per_s(self) -> float:
        return 1 / self.tpot_s

    @property
    def j_per_token(self) -> float:
        return self.decode.energy_j

    def to_json(self) -> dict[str, Any]:
        ranges = {"ttft_s": self.ttft_range_s, "tpot_s": self.tpot_range_s, "j_per_token": self.energy_range_j}
        return {
            "chip": self.spec.name, "title": self.spec.title, "status": self.spec.info.status, "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s, "tokens_per_s": self.tokens_per_s, "j_per_token": self.j_per_token,
            "bound": self.decode.bound, "bound_frac": self.decode.bound_frac, "roof_frac": self.decode.roof_frac,
            "ranges": ranges, "assumed_figures": len(self.spec.uncertain()), "decode_parts_s": self.decode.parts_s,
            "prefill_parts_s": self.prefill.parts_s,
        }  # fmt: skip


def time_chip(
    generator: Generator, prompt: list[int], spec: ChipSpec, *, values: bool = False, steps: int = 2
) -> LlmTiming:
    """Time the program on `spec`: the prompt, then `steps` decode steps, of which the last one counts.

    With a static cache every decode step is the same launches on the same shapes; the first ones fill the SRAM.
    `values` False computes nothing; it asks that no kernel's addresses come from another kernel's result, as holds for
    the compiled program (its indices are uploaded or counted in the cache), so eager runs need `values`.
    """
    with silicon.use(spec), knobs.scope(values=values):
        recorder = Recorder(spec)
        with recorder.step("prefill"):
            generator.start(prompt)
            torch.mtia.synchronize()
        token = torch.tensor([prompt[-1:]]).to(generator.device)  # any token: embeddings cost the same
        for i in range(1, steps + 1):
            with recorder.step(f"decode {i}"):
                generator.decode(token)
                torch.mtia.synchronize()
    last = f"decode {steps}"
    return LlmTiming(
        spec=spec, ttft_s=recorder.time_s("prefill"), tpot_s=recorder.time_s(last), recorder=recorder,
        prefill=total(recorder.of_step("prefill"), "prefill"), decode=total(recorder.of_step(last), "decode"),
    )  # fmt: skip


def with_interval(generator: Generator, prompt: list[int], timing: LlmTiming, *, values: bool = False) -> LlmTiming:
    """The timing with its ranges: the same run with every assumed figure at its fast, then at its slow end."""
    ends = interval.fast_and_slow(timing.spec)
    if ends is None:
        return timing
    fast, slow = (time_chip(generator, prompt, end, values=values) for end in ends)
    return replace(
        timing, ttft_range_s=(fast.ttft_s, slow.ttft_s), tpot_range_s=(fast.tpot_s, slow.tpot_s),
        energy_range_j=(fast.j_per_token, slow.j_per_token),
    )  # fmt: skip


HEADINGS = ("chip", "first token", "per token", "tokens/s", "J/token", "bound by", "of roof")
SEPARATOR = " | "  # between a figure and its range


def rows(timings: Iterable[LlmTiming]) -> list[tuple[str, ...]]:
    """One row of text per chip, under HEADINGS; a range follows its figure behind SEPARATOR."""
    return [_row(t) for t in timings]


def _row(t: LlmTiming) -> tuple[str, ...]:
    rate_range = None if t.tpot_range_s is None else (1 / t.tpot_range_s[1], 1 / t.tpot_range_s[0])
    return (
        t.spec.name, _cell(t.ttft_s, t.ttft_range_s, _ms), _cell(t.tpot_s, t.tpot_range_s, _ms),
        _cell(t.tokens_per_s, rate_range, "{:.0f}".format), _cell(t.j_per_token, t.energy_range_j, "{:.2g}".format),
        f"{t.decode.bound} {100 * t.decode.bound_frac:.0f}%", f"{100 * t.decode.roof_frac:.1f}%",
    )  # fmt: skip


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:.3g} ms"


def _cell(value: float, ends: Range | None, text: Callable[[float], str]) -> str:
    shown = text(value)
    if ends is None:
        return shown
    low, high = (text(end).removesuffix(" ms") for end in ends)
    return f"{shown}{SEPARATOR}{low}–{high}"


def table(timings: Sequence[LlmTiming], title: str) -> Table:
    """The comparison on the terminal: ranges on a line of their own."""
    out = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for i, heading in enumerate(HEADINGS):
        out.add_column(heading, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows(timings):
        out.add_row(*(_two_lines(cell) for cell in row))
    return out


def _two_lines(cell: str) -> str:
    value, separator, ends = cell.partition(SEPARATOR)
    return f"{value}\n[dim]{ends}[/]" if separator else value
