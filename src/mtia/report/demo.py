"""`mtia demo`: a stock PyTorch language model answers on the simulated chip, is checked, and is timed on every chip."""

# transformers types what tokenizers return as unions.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportUnhashable=false
from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from mtia import chips
from mtia.chips.spec import ChipSpec
from mtia.host_runtime import fallback, silicon
from mtia.report import chrome_trace, compare, generate, page, smollm2, tables
from mtia.report.compare import LlmTiming
from mtia.report.launches import Recorder
from mtia.report.summary import summarize, total
from mtia.units import format_time

SIX = ("mtia100", "mtia200", "mtia300", "mtia400", "mtia450", "mtia500")
PROMPT = "Why is the sky blue?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asked for. `chip` computes the answer; all of `chips` are timed."""

    prompt: str = PROMPT
    max_new_tokens: int = 32
    chip: str = "mtia300"
    chips: Sequence[str] = SIX
    dtype: torch.dtype = torch.float32
    compile: bool = True
    intervals: bool = True
    folder: Path = Path("out/demo")


@dataclass(slots=True, kw_only=True)
class Result:
    """All that the demo found; `to_json` is what `--json` prints."""

    options: Options
    tokens: list[int]
    reference: list[int]
    text: str
    recorder: Recorder = field(repr=False)
    timings: list[LlmTiming]
    fallbacks: dict[str, int]
    wall_s: dict[str, float]
    files: list[Path] = field(default_factory=list)

    @property
    def n_equal(self) -> int:
        """Tokens from the start that equal the CPU's."""
        return next((i for i, (a, b) in enumerate(zip(self.tokens, self.reference)) if a != b), len(self.tokens))

    @property
    def equal(self) -> bool:
        return self.tokens == self.reference

    @property
    def passed(self) -> bool:
        """No host fallback, and in float32 the CPU's very tokens (other formats round differently)."""
        return not self.fallbacks and (self.equal or self.options.dtype is not torch.float32)

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.options.prompt, "chip": self.options.chip, "dtype": dtype_name(self.options.dtype),
            "compiled": self.options.compile, "text": self.text, "tokens": self.tokens,
            "cpu_tokens": self.reference, "equal_to_cpu": self.equal, "host_fallbacks": self.fallbacks,
            "timings": [t.to_json() for t in self.timings], "wall_s": self.wall_s,
            "kernels": [k.to_json() for k in summarize(self.recorder.launches)],
            "files": [str(f) for f in self.files],
        }  # fmt: skip


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(slots=True)
class Stages:
    """Says what is being done while it is done, and keeps the wall times."""

    console: Console
    wall_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        start_s = perf_counter()
        if self.console.is_terminal:
            with self.console.status(text):
                yield
        else:
            self.console.print(f"{text} ...")
            yield
        self.wall_s[text] = perf_counter() - start_s
        self.console.print(f"[green]✓[/] {text} [dim]{self.wall_s[text]:.1f} s[/]")


def run(options: Options, console: Console) -> Result:
    """The whole demo. Raises what an unknown chip, a missing model or a failing kernel raises."""
    started_s = perf_counter()
    specs = [chips.load(name) for name in dict.fromkeys((*options.chips,))]
    stages = Stages(console)
    with stages("loading SmolLM2-135M-Instruct"):
        model, tokenizer = smollm2.load_model(options.dtype), smollm2.load_tokenizer()
        prompt = prompt_tokens(tokenizer, options.prompt)
    stop = frozenset({tokenizer.eos_token_id})
    length = generate.cache_length(len(prompt), options.max_new_tokens)
    with stages("the same model on the CPU, eager, for comparison"), _one_host_thread():
        on_cpu = generate.build(model, length=length, compile=False)
        reference = list(on_cpu.tokens(prompt, options.max_new_tokens, stop))
    fallback.reset()
    spec = chips.load(options.chip)
    with silicon.use(spec), _one_host_thread():
        generator = _on_device(model, length, options, prompt, stages)
        tokens, recorder = _answer(generator, prompt, stop, options, spec, tokenizer, console)
        timings = _compare(generator, prompt, specs, options, stages, console)
    result = Result(
        options=options, tokens=tokens, reference=reference, text=tokenizer.decode(tokens), recorder=recorder,
        timings=timings, fallbacks=fallback.counts(), wall_s=stages.wall_s,
    )  # fmt: skip
    _write(result, len(prompt))
    stages.wall_s["total"] = perf_counter() - started_s
    report(result, len(prompt), console)
    return result


@contextmanager
def _one_host_thread() -> Iterator[None]:
    """The array operations are many and small: a second thread mostly spins, and on a busy machine waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prompt_tokens(tokenizer: Any, text: str) -> list[int]:
    """The question in the model's chat format."""
    chat = [{"role": "user", "content": text}]
    return list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


def _on_device(model: Any, length: int, options: Options, prompt: list[int], stages: Stages) -> generate.Generator:
    """The generator on mtia, each step function run once: what is compiled is compiled here."""
    with stages("moving it to the simulated device"):
        model = model.to("mtia")
        model.tie_weights()
        generator = generate.build(model, length=length, compile=options.compile)
    how = "compiling (Inductor, Triton) and running" if options.compile else "running"
    with stages(f"{how} the prompt step"):
        token = generator.start(prompt)
    with stages(f"{how} the decode step"):
        generator.decode(token)
    return generator


def _answer(
    generator: generate.Generator, prompt: list[int], stop: frozenset[int], options: Options, spec: ChipSpec,
    tokenizer: Any, console: Console,
) -> tuple[list[int], Recorder]:  # fmt: skip
    """The answer, streamed, with every launch recorded."""
    recorder, tokens = Recorder(spec), []
    console.print(f"\n[bold]{options.prompt}[/]")
    with _stream(console, options.max_new_tokens) as show:
        with recorder.step("prefill"):
            token = generator.start(prompt)
            value = int(token)
        while value not in stop and len(tokens) < options.max_new_tokens:
            tokens.append(value)
            show(tokenizer.decode(tokens), len(tokens), sum(e - s for s, e in recorder.steps.values()))
            if len(tokens) == options.max_new_tokens:
                break
            with recorder.step(f"decode {len(tokens)}"):
                token = generator.decode(token)
                value = int(token)
    return tokens, recorder


@contextmanager
def _stream(console: Console, n_tokens: int) -> Iterator[Callable[[str, int, float], None]]:
    """`show(text so far, tokens so far, simulated seconds)`: live with a bar on a terminal, plain text elsewhere."""
    if not console.is_terminal:
        written = 0

        def plain(text: str, count: int, simulated_s: float) -> None:
            nonlocal written
            whole = text.rstrip("\ufffd")  # half of a character waits for its other half
            console.out(whole[written:], end="", highlight=False)
            console.file.flush()
            written = max(written, len(whole))

        yield plain
        console.print("\n")
        return
    progress = Progress(
        BarColumn(), MofNCompleteColumn(), TextColumn("tokens, simulated {task.fields[simulated]}, wall"),
        TimeElapsedColumn(), console=console,
    )  # fmt: skip
    task = progress.add_task("", total=n_tokens, simulated="0 s")
    with Live(console=console, refresh_per_second=8) as live:

        def show(text: str, count: int, simulated_s: float) -> None:
            from rich.console import Group

            progress.update(task, completed=count, simulated=format_time(simulated_s))
            live.update(Group(Text(text, style="cyan"), progress))

        yield show
    console.print()


def _compare(
    generator: generate.Generator, prompt: list[int], specs: Sequence[ChipSpec], options: Options, stages: Stages,
    console: Console,
) -> list[LlmTiming]:  # fmt: skip
    timings = []
    for spec in specs:
        with stages(f"the same program on {spec.name}, timed" + (" with its interval" if options.intervals else "")):
            values = not options.compile
            timing = compare.time_chip(generator, prompt, spec, values=values)
            if options.intervals:
                timing = compare.with_interval(generator, prompt, timing, values=values)
            timings.append(timing)
    return timings


# --- what is shown and written ----------------------------------------------------------------------------------------


def checks(result: Result) -> list[str]:
    """What was checked, in sentences."""
    n, of = result.n_equal, len(result.reference)
    dtype = dtype_name(result.options.dtype)
    if result.equal:
        check = f"all {n} tokens equal the CPU's ({dtype})"
    else:
        check = f"{n} of {of} tokens equal the CPU's before the first difference ({dtype})"
    return [check, tables.fallback_line(result.fallbacks)]


def caption(result: Result, n_prompt: int) -> str:
    """The setting of the comparison in one sentence."""
    options = result.options
    return (
        f"SmolLM2-135M-Instruct, {dtype_name(options.dtype)}, {'torch.compile' if options.compile else 'eager'}, "
        f"{n_prompt} prompt tokens (padded to {generate.padded(n_prompt)}), batch 1, static KV cache of "
        f"{generate.cache_length(n_prompt, options.max_new_tokens)}"
    )


INTERVAL_NOTE = (
    "Ranges: the same run with all of the chip's assumed figures at their fast ends, then all at their slow ends. "
    "Time per token is that of a decode step with what fits already in SRAM. A bound is the part that takes "
    "most of a step ('launch': the grid waits for the host and the launch path); the share of roof is the least time "
    "that the busiest unit of each kernel allows, over the time taken."
)


def report(result: Result, n_prompt: int, console: Console) -> None:
    """The summary on the terminal."""
    mark = "[green]✓[/]" if result.passed else "[red]✗[/]"
    for sentence in checks(result):
        console.print(f"{mark} {sentence}")
    console.print()
    specs = [t.spec for t in result.timings]
    assumed = ", ".join(f"{spec.name} {len(spec.uncertain())} of {len(spec.figures)}" for spec in specs)
    console.print(compare.table(result.timings, title=caption(result, n_prompt)))
    console.print(f"[dim]{INTERVAL_NOTE} Assumed figures: {assumed}.[/]\n")
    for file in result.files:
        console.print(f"wrote {file}")
    console.print(f"[dim]{result.wall_s['total']:.1f} s in all[/]")


def _write(result: Result, n_prompt: int) -> None:
    folder = result.options.folder
    runs = [(f"{result.recorder.spec.title}, the answer", result.recorder.launches)]
    last = [list(t.recorder.steps)[-1] for t in result.timings]
    runs += [(f"{t.spec.title}, one step", t.recorder.of_step(step)) for t, step in zip(result.timings, last)]
    result.files = [
        page.write(folder / "demo.html", title="A stock PyTorch LLM on simulated MTIA",
                   lead=caption(result, n_prompt), body=_sections(result)),
        chrome_trace.write(folder / "demo.trace.json", runs),
    ]  # fmt: skip
    (folder / "demo.json").write_text(json.dumps(result.to_json(), indent=1))
    result.files.append(folder / "demo.json")


def _sections(result: Result) -> Iterator[str]:
    launches, spec = result.recorder.launches, result.recorder.spec
    yield page.heading(result.options.prompt)
    yield page.quote(result.text)
    yield page.note(f"Computed on simulated {spec.title}. " + "; ".join(checks(result)) + ".")
    yield page.heading("The same program on each generation")
    names = [t.spec.name for t in result.timings]
    yield page.table(compare.HEADINGS, compare.rows(result.timings),
                     strong=names.index(spec.name) if spec.name in names else -1)  # fmt: skip
    yield page.note(INTERVAL_NOTE)
    yield page.heading("Time per output token, by what it waits for")
    yield page.bars([_bar(t.spec.name, t.decode.parts_s, t.tpot_range_s) for t in result.timings])
    yield page.heading("Time to first token, by what it waits for")
    yield page.bars([_bar(t.spec.name, t.prefill.parts_s, t.ttft_range_s) for t in result.timings])
    last = list(result.recorder.steps)[-1]
    yield page.heading(f"One step on {spec.name}: {last}")
    yield page.timeline(result.recorder.of_step(last))
    yield page.heading(f"Kernels of the whole answer on {spec.name}")
    yield page.kernels(summarize(launches)[:40], total(launches))
    yield page.heading("What is assumed")
    for timing in result.timings:
        yield _assumed(timing.spec)


def _bar(label: str, parts: dict[str, float], ends: tuple[float, float] | None) -> page.Bar:
    low, high = ends if ends is not None else (None, None)
    return page.Bar(label=label, parts_s=parts, low=low, high=high)


def _assumed(spec: ChipSpec) -> str:
    figures = spec.uncertain()
    cells = [
        (key, f"{f.value:.4g}" if isinstance(f.value, float) else str(f.value),
         "" if f.source.low is None else f"{f.source.low:.4g} to {f.source.high:.4g}", f.source.text)
        for key, f in figures.items()
    ]  # fmt: skip
    text = f"{spec.title}: {len(figures)} of {len(spec.figures)} figures are assumed"
    return page.fold(text, page.table(("figure", "value", "range", "why"), cells))


__all__ = ["PROMPT", "SIX", "Options", "Result", "caption", "checks", "prompt_tokens", "report", "run"]
