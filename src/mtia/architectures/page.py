"""The table of architectures, as rows of text and as the page docs/models.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from mtia.architectures.result import Outcome, Result, Unit
from mtia.units import format_time

PASSED = {Outcome.PASS: "yes", Outcome.FALLBACK: "host", Outcome.FAIL: "no", Outcome.TIMEOUT: "slow",
          Outcome.CRASH: "crash"}  # fmt: skip


def chips_of(results: Sequence[Result]) -> list[str]:
    """The chips that were timed, in the order they were."""
    return list(dict.fromkeys(chip for result in results for chip in result.times))


def headings(chips: Sequence[str]) -> list[str]:
    times = [f"{chip} {what}" for chip in chips for what in ("forward", "step")]
    return ["architecture", "family", "dtype", "passes", "error", "host routes", "graphs", "kernels forward",
            "kernels step", "of them attention", *times, "compile", "wall"]  # fmt: skip


def row(result: Result, chips: Sequence[str]) -> list[str]:
    """One architecture under `headings(chips)`."""
    times = [_times(result, chip) for chip in chips]
    ran = bool(result.times)
    return [
        result.name, result.family, result.dtype, PASSED[result.outcome],
        f"{100 * result.error_share:.0f} %" if ran else "-", str(sum(result.fallbacks.values())),
        *(str(n) if ran else "-" for n in (result.graphs, result.kernels_forward, result.kernels_step)),
        str(next(iter(result.times.values())).attention_kernels) if ran else "-",
        *(cell for pair in times for cell in pair),
        f"{result.compile_s:.0f} s" if ran else "-", f"{result.wall_s:.0f} s",
    ]  # fmt: skip


def _times(result: Result, chip: str) -> tuple[str, str]:
    times = result.times.get(chip)
    return ("-", "-") if times is None else (format_time(times.forward_s), format_time(times.step_s))


def headline(results: Sequence[Result]) -> str:
    """One sentence: how many pass, in each dtype."""
    dtypes = list(dict.fromkeys(r.dtype for r in results))
    counts = [_passed([r for r in results if r.dtype == dtype]) for dtype in dtypes]
    if len(dtypes) > 1:
        counts = [f"{count} in {dtype}" for count, dtype in zip(counts, dtypes, strict=True)]
    return (
        f"{' and '.join(counts or ['0 of 0'])} pass: forward and one training step under torch.compile within "
        f"tolerance of the CPU, no operator on the host."
    )


def _passed(results: Sequence[Result]) -> str:
    return f"{sum(r.outcome is Outcome.PASS for r in results)} of {len(results)}"


def markdown(found: Mapping[Unit, Result], registered: Sequence[str]) -> str:
    """The page. Failures come with their first error; of `registered` architectures, those not run are named."""
    results = list(found.values())
    chips = chips_of(results)
    compiles = [r.compile_s for r in results if r.times]
    lines = [
        "# Architectures",
        "",
        "Written by `mtia models --report docs/models.md`; do not edit.",
        "",
        f"{headline(results)} Models of `transformers` from small configurations with random weights",
        "(`src/mtia/architectures/configs.py`): two layers, 32 to 64 wide, dropout 0.",
        "",
        "- **passes**: outputs, loss and all gradients lie within tolerance of eager float64 on the CPU: twice the",
        "  error of the CPU's own eager result in that dtype, plus of the largest value 16 units in the last place in",
        "  float32 (sums in another order), one unit roundoff in bfloat16 (2^-8) and float16 (2^-11):",
        "  `src/mtia/architectures/check.py`. The optimiser (PyTorch's fused AdamW, one kernel a parameter) is held",
        "  to the CPU's on the same gradients. *error* is the largest deviation as a share of what is allowed.",
        "- **graphs**: what Dynamo compiled: one each for forward and training where nothing breaks.",
        "- **kernels**: launches of one forward pass (no gradients) and of one step (forward, backward, AdamW); of",
        "  these, fused attention (0: no attention, a learnt mask, a composition in the model's own code, or a row run",
        "  before the device served the fused operator).",
        "- **times** are simulated, from an idle device to an idle device, launches included, second run. At this size",
        "  nearly all of it is launches; it says nothing about the models at their real size.",
        "- **compile** (Dynamo to Triton, all graphs, no cache) and **wall** (everything, the CPU's references too)",
        "  are the simulator's, in wall time, on the machine that wrote this page and whatever else it was doing"
        + (f"; median compile {median(compiles):.0f} s." if compiles else "."),
        "",
        "| " + " | ".join(headings(chips)) + " |",
        "|" + " --- |" * len(headings(chips)),
        *("| " + " | ".join(row(r, chips)) + " |" for r in results),
    ]
    failed = [r for r in results if r.outcome is not Outcome.PASS]
    if failed:
        lines += ["", "## What does not pass", ""]
        lines += [f"- `{r.unit}`: {r.error or ', '.join(r.fallbacks)}" for r in failed]
    for dtype in dict.fromkeys(r.dtype for r in results):
        not_run = [name for name in registered if Unit(name, dtype) not in found]
        if not_run:
            names = ", ".join(f"`{name}`" for name in not_run)
            lines += ["", f"Registered and not run for this page in {dtype}: {names}."]
    return "\n".join(lines) + "\n"


__all__ = ["chips_of", "headings", "headline", "markdown", "row"]
