"""Times the Triton kernels of this folder on an NVIDIA GPU and writes CSV. Needs torch and triton, not mtia.

    python validation/measure/run.py --out DIR [--smoke] [--budget-s 440] [--chip h100_sxm]
    TRITON_INTERPRET=1 python validation/measure/run.py --check-on cpu      # values only, no GPU

Writes triton.csv (a row per case and protocol), ceilings.csv, environment.json and failures.txt. It reads the card's
state and never sets it. See ../README.md for what each protocol and column means.
"""

import argparse
import csv
import dataclasses
import datetime
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
import triton.testing
from cases import OPERATORS, TOLERANCE, Case, Tensors, relative_error, smoke, sweep

COLD_L2_MULTIPLE = 3  # the buffers of a cold row touch at least this many times the L2
MAX_BUFFER_SETS = 768
MAX_BUFFER_BYTES = 24e9
GRAPH_TARGET_US = 2000.0
GRAPH_REPLAYS = 25
GRAPH_TOTAL_MS = 80.0
# These add or multiply in bfloat16, for which Triton's interpreter takes NumPy's uint16: check them in float16 there.
INTERPRETER_BREAKS_BFLOAT16 = {"vector_add", "matmul", "attention_full", "attention_causal"}
CASE_FIELDS = [f.name for f in dataclasses.fields(Case)]
COLUMNS = ["chip", *CASE_FIELDS, "protocol", "latency_us", "spread", "sm_clock_mhz", "n_regs", "n_spills",
           "shared_bytes", "rel_error"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sample:
    """Median time of one launch, (p90 - p10) / median, and the SM clock read while it ran (0: not readable)."""

    latency_us: float
    spread: float
    sm_clock_mhz: int


def sm_clock_mhz() -> int:
    try:
        return int(torch.cuda.clock_rate())
    except Exception:  # NVML's Python binding is optional; the column then says 0
        return 0


def summarise(times_us: list[float], clock_mhz: int) -> Sample:
    deciles = statistics.quantiles(times_us, n=10, method="inclusive")
    median = statistics.median(times_us)
    return Sample(median, (deciles[-1] - deciles[0]) / median, clock_mhz)


def capture(launches: list[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    """A CUDA graph of the launches in a row on one stream."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    return graph


def time_graph(launches: list[Callable[[], object]], launch_us: float) -> Sample:
    """Replays a graph of the launches; each replay's time is divided by the number of launches in it."""
    graph = capture(launches)
    replay_ms = launch_us * len(launches) / 1e3
    n_replays = max(7, min(GRAPH_REPLAYS, int(GRAPH_TOTAL_MS / replay_ms)))
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(n_replays + 1)]
    marks[0].record()
    for mark in marks[1:]:
        graph.replay()
        mark.record()
    clock_mhz = sm_clock_mhz()  # while the queue drains
    torch.cuda.synchronize()
    times_us = [1e3 * a.elapsed_time(b) / len(launches) for a, b in itertools.pairwise(marks)]
    return summarise(times_us, clock_mhz)


def time_eager(launch: Callable[[], object]) -> Sample:
    """triton.testing.do_bench: single launches between two events, the L2 overwritten before each."""
    times_ms = triton.testing.do_bench(launch, warmup=10, rep=50, return_mode="all")
    return summarise([1e3 * t for t in times_ms], sm_clock_mhz())


def n_launches(launch_us: float) -> int:
    return max(4, min(256, math.ceil(GRAPH_TARGET_US / launch_us)))


def n_cold_sets(touched_bytes: int, allocated_bytes: int, l2_bytes: int) -> int | None:
    """Buffer sets that together overflow the L2 (at least 2); None where that takes too many or too much memory."""
    n_sets = max(2, math.ceil(COLD_L2_MULTIPLE * l2_bytes / touched_bytes))
    is_feasible = n_sets <= MAX_BUFFER_SETS and n_sets * allocated_bytes <= MAX_BUFFER_BYTES
    return n_sets if is_feasible else None


def checked_launch(case: Case, device: str) -> tuple[Tensors, object, float]:
    """Inputs, compiled kernel and error of one launch; ArithmeticError where the error exceeds the tolerance."""
    operator = OPERATORS[case.kernel]
    tensors = operator.make(case, device)
    compiled = operator.launch(case, tensors)
    error = relative_error(case, tensors)
    if not error <= TOLERANCE[case.dtype]:  # written so that NaN fails
        raise ArithmeticError(f"relative error {error:.3g} above {TOLERANCE[case.dtype]:g} for {case}")
    return tensors, compiled, error


def measure(case: Case, l2_bytes: int) -> Iterator[dict[str, object]]:
    """The rows of one case, one per protocol."""
    operator = OPERATORS[case.kernel]
    tensors, compiled, error = checked_launch(case, "cuda")
    notes = {
        "n_regs": getattr(compiled, "n_regs", ""),
        "n_spills": getattr(compiled, "n_spills", ""),
        "shared_bytes": getattr(getattr(compiled, "metadata", None), "shared", ""),
        "rel_error": f"{error:.2e}",
    }

    def row(protocol: str, sample: Sample) -> dict[str, object]:
        timing = {"latency_us": f"{sample.latency_us:.3f}", "spread": f"{sample.spread:.4f}"}
        timing["sm_clock_mhz"] = str(sample.sm_clock_mhz)
        return {**dataclasses.asdict(case), "protocol": protocol, **timing, **notes}

    eager = time_eager(lambda: operator.launch(case, tensors))
    yield row("eager", eager)
    n = n_launches(eager.latency_us)
    yield row("graph_warm", time_graph([lambda: operator.launch(case, tensors)] * n, eager.latency_us))
    allocated_bytes = sum(x.numel() * x.element_size() for x in tensors.values())
    n_sets = n_cold_sets(operator.touched_bytes(case, tensors), allocated_bytes, l2_bytes)
    if n_sets is None:
        return
    sets = [tensors, *(operator.make(case, "cuda") for _ in range(n_sets - 1))]
    n_rounds = math.ceil(n / n_sets)
    launches = [lambda s=s: operator.launch(case, s) for s in sets] * n_rounds
    yield row("graph_cold", time_graph(launches, eager.latency_us))


def copy_bytes_per_s(n_elements: int) -> float:
    """Bytes read plus bytes written per second by a device-to-device copy of float32."""
    src = torch.randn(n_elements, device="cuda")
    dst = torch.empty_like(src)
    copy_ms = triton.testing.do_bench(lambda: dst.copy_(src), warmup=50, rep=300, return_mode="median")
    return 2 * src.nbytes / (copy_ms / 1e3)


def matmul_flop_per_s(size: int, dtype: torch.dtype) -> float:
    """The library's rate for a [size, size] @ [size, size]^T product of normal values."""
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    matmul_ms = triton.testing.do_bench(lambda: a @ b.T, warmup=50, rep=300, return_mode="median")
    return 2 * size**3 / (matmul_ms / 1e3)


def ceilings() -> list[dict[str, object]]:
    """What the libraries reach on this card, to hold the kernels' times against."""
    return [
        {"what": "device copy 4 GiB", "value": copy_bytes_per_s(2**30), "unit": "bytes_per_s"},
        {"what": "bfloat16 matmul 8192", "value": matmul_flop_per_s(8192, torch.bfloat16), "unit": "flop_per_s"},
        {"what": "float16 matmul 8192", "value": matmul_flop_per_s(8192, torch.float16), "unit": "flop_per_s"},
    ]


def environment() -> dict[str, object]:
    """The card, its state as found, and the software; no host name, no path."""
    query = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,clocks_throttle_reasons.active"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    state = subprocess.run(command, capture_output=True, text=True, check=False)
    properties = torch.cuda.get_device_properties(0)
    return {
        "date": datetime.date.today().isoformat(),
        "gpu": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        query: state.stdout.strip(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
    }


def check_values(device: str) -> int:
    """Runs the small cases for their values only; the number that failed."""
    failures = 0
    for case in smoke():
        if device == "cpu" and case.dtype == "bfloat16" and case.kernel in INTERPRETER_BREAKS_BFLOAT16:
            print(f"skip {case.kernel:22} {case.dtype:12} Triton's interpreter computes on bfloat16 bit patterns")
            continue
        try:
            _, _, error = checked_launch(case, device)
        except Exception as e:
            failures += 1
            print(f"FAIL {case.kernel} {case.dtype}: {e}")
        else:
            print(f"ok   {case.kernel:22} {case.dtype:12} relative error {error:.2e}")
    return failures


def print_row(row: dict[str, object]) -> None:
    size = "x".join(str(row[name]) for name in ("batch", "heads", "m", "n", "k", "head_dim") if row[name])
    print(f"{row['kernel']:22} {row['dtype']:12} {size:22} {row['protocol']:10} {row['latency_us']:>11} us"
          f"  spread {row['spread']}")  # fmt: skip


def run_sweep(cases: list[Case], out: Path, chip: str, budget_s: float) -> int:
    """Measures the cases until the budget is spent; the number of failed ones. Rows are on disk as they are taken."""
    stop_at = time.monotonic() + budget_s
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    n_rows = n_cases = n_failed = 0
    with (out / "triton.csv").open("w", newline="") as table, (out / "failures.txt").open("w") as failures:
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for case in cases:
            if time.monotonic() > stop_at:
                break
            try:
                for row in measure(case, l2_bytes):
                    writer.writerow({"chip": chip, **row})
                    print_row(row)
                    n_rows += 1
            except Exception as e:  # one bad tiling (too much shared memory, say) must not end the sweep
                n_failed += 1
                print(f"FAIL {case.kernel} {case.dtype}: {type(e).__name__}", flush=True)
                failures.write(f"{case}\n    {type(e).__name__}: {e}\n")
            n_cases += 1
            table.flush()
    print(f"{n_rows} rows of {n_cases} cases ({len(cases)} planned), {n_failed} failed")
    return n_failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "out")), help="folder for the CSV")
    parser.add_argument("--chip", default="h100_sxm", help="name of the chip file that the rows belong to")
    parser.add_argument("--budget-s", type=float, default=440.0, help="start no further case after this many seconds")
    parser.add_argument("--smoke", action="store_true", help="the small cases only")
    parser.add_argument("--check-on", metavar="DEVICE", help="check values on DEVICE (cpu, cuda, mtia); time nothing")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.check_on:
        return min(1, check_values(arguments.check_on))
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")
    n_failed = run_sweep(smoke() if arguments.smoke else sweep(), arguments.out, arguments.chip, arguments.budget_s)
    with (arguments.out / "ceilings.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, ["chip", "what", "value", "unit"], lineterminator="\n")
        writer.writeheader()
        for ceiling in ceilings():
            writer.writerow({"chip": arguments.chip, **ceiling})
            print(f"{ceiling['what']}: {ceiling['value']:.4g} {ceiling['unit']}")
    return min(1, n_failed)


if __name__ == "__main__":
    sys.exit(main())
