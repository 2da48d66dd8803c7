"""Simulator speed, as ratios taken in one run on one machine: `make bench`. Results: benchmarks/results.json.

Three kernels with values and timing are compared with torch on the CPU and with Triton's own interpreter
(TRITON_INTERPRET=1, a process of its own); a cold timing and a cached launch are measured; a SmolLM2 decode step and a
GPT-2 training step are compared with the CPU's eager steps.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kernels  # noqa: E402
from mtia import chips, knobs  # noqa: E402
from mtia.host_runtime import record, silicon  # noqa: E402

CASES: dict[str, Callable[[str], Callable[[], None]]] = {
    "add": kernels.add_case, "softmax": kernels.softmax_case, "matmul": kernels.matmul_case,
}  # fmt: skip
LIMITS = {
    "timing_cold_s": 1.0, "cached_launch_s": 100e-6, "native_ratio": 3.0, "interpreter_ratio": 800.0,
    "decode_ratio": 3.0, "training_ratio": 4.0,
}  # fmt: skip


def interpreter_ratios() -> dict[str, Any]:
    """Each kernel: seconds with values and timing on mtia, in the interpreter, and on the CPU with torch."""
    print("Triton's interpreter (softmax on 256 rows, scaled to 4096) ...", flush=True)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run([sys.executable, str(HERE / "kernels.py")], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the interpreter process failed:\n{done.stderr}")
    interpreted = json.loads(done.stdout.splitlines()[-1])
    out, natives = {}, kernels.native_cases()
    for name, case in CASES.items():
        natives[name]()
        simulated_s, native_s = kernels.best_s(case("mtia"), 20), kernels.best_s(natives[name], 20)
        out[name] = {"simulated_s": simulated_s, "native_s": native_s, "native_ratio": simulated_s / native_s,
                     "interpreter_s": interpreted[name], "ratio": interpreted[name] / simulated_s}  # fmt: skip
        print(f"  {name}: {simulated_s * 1e3:.2f} ms, torch on the CPU {native_s * 1e3:.2f} ms "
              f"({out[name]['native_ratio']:.1f} times), interpreter {interpreted[name]:.2f} s: "
              f"{out[name]['ratio']:.0f} times as fast", flush=True)  # fmt: skip
    return out


def timing_cold() -> dict[str, float]:
    """Wall seconds to time a bf16 matmul of 2048 cubed that has not been seen: tracing and events, program compiled."""
    with silicon.use("mtia300"), knobs.scope(values=False):
        small = torch.empty(2048, 2048, dtype=torch.bfloat16, device="mtia")
        _ = small @ small  # picks the tiling, compiles
        with silicon.use(chips.load("mtia300").vary({"clock_hz": 1.3e9}, name="unseen")), record.session() as log:
            start_s = perf_counter()
            _ = small @ small
            wall_s = perf_counter() - start_s
    result = {"wall_s": wall_s, "simulated_s": log.spans[-1].duration_fs * 1e-15}
    print(f"a new 2048^3 bf16 matmul timed in {wall_s:.3f} s", flush=True)
    return result


def cached_launch() -> float:
    """Wall seconds of one launch whose timing is known, values off, through Triton's own launcher."""
    with knobs.scope(values=False):
        case = kernels.add_kernel
        x = torch.empty(1 << 20, device="mtia")
        grid = (1024,)

        def many() -> None:
            for _ in range(200):
                case[grid](x, x, x, 1 << 20, BLOCK=1024)

        many()
        each_s = kernels.best_s(many) / 200
    print(f"a cached launch: {each_s * 1e6:.0f} us", flush=True)
    return each_s


def decode_step() -> dict[str, float]:
    """SmolLM2 in float32, one decode step with values and timing: compiled on mtia against eager on the CPU."""
    from mtia.report import generate, smollm2

    model = smollm2.load_model()
    prompt = list(range(100, 136))

    def step_s(generator: generate.Generator) -> float:
        token = generator.start(prompt)
        generator.decode(token)
        return kernels.best_s(lambda: int(generator.decode(token)))

    cpu_s = step_s(generate.build(model, length=128, compile=False))
    model = model.to("mtia")
    model.tie_weights()
    mtia_s = step_s(generate.build(model, length=128, compile=True))
    print(f"SmolLM2 decode step: {mtia_s:.3f} s, CPU eager {cpu_s:.3f} s: {mtia_s / cpu_s:.1f} times", flush=True)
    return {"mtia_s": mtia_s, "cpu_eager_s": cpu_s, "ratio": mtia_s / cpu_s}


def training_step() -> dict[str, float]:
    """Two layers of GPT-2 (768 wide, the whole vocabulary), 2 x 64 tokens: forward, backward, AdamW; compiled on mtia
    against eager on the CPU."""
    import transformers

    config = transformers.GPT2Config(n_layer=2, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, use_cache=False)
    tokens = torch.arange(128).view(2, 64) % config.vocab_size

    def step_s(device: str, *, compile: bool) -> float:
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        batch = tokens.to(device)
        run = torch.compile(model) if compile else model

        def step() -> float:
            optimizer.zero_grad()
            loss = run(input_ids=batch, labels=batch).loss
            loss.backward()
            optimizer.step()
            return float(loss)

        losses.append([step(), step()])
        return kernels.best_s(step)

    losses: list[list[float]] = []
    cpu_s, mtia_s = step_s("cpu", compile=False), step_s("mtia", compile=True)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    print(f"GPT-2 training step: {mtia_s:.3f} s, CPU eager {cpu_s:.3f} s: {mtia_s / cpu_s:.1f} times", flush=True)
    return {"mtia_s": mtia_s, "cpu_eager_s": cpu_s, "ratio": mtia_s / cpu_s}


def main() -> int:
    """Run all, write the results, exit 1 where a limit is missed. One host thread on every side of a ratio."""
    torch.set_num_threads(1)
    results = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "torch": torch.__version__,
                    "threads": torch.get_num_threads()},
        "against_interpreter": interpreter_ratios(),
        "timing_cold": timing_cold(),
        "cached_launch_s": cached_launch(),
        "decode_step": decode_step(),
        "training_step": training_step(),
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    cases = results["against_interpreter"].values()
    missed = [text for text, bad in {
        "a kernel takes over 3 times native torch": max(c["native_ratio"] for c in cases) > LIMITS["native_ratio"],
        "the median kernel is less than 800 times as fast as the interpreter":
            median(c["ratio"] for c in cases) < LIMITS["interpreter_ratio"],
        "a cold timing takes 1 s or more": results["timing_cold"]["wall_s"] >= LIMITS["timing_cold_s"],
        "a cached launch takes 100 us or more": results["cached_launch_s"] >= LIMITS["cached_launch_s"],
        "a decode step takes over 3 CPU steps": results["decode_step"]["ratio"] > LIMITS["decode_ratio"],
        "a training step takes over 4 CPU steps": results["training_step"]["ratio"] > LIMITS["training_ratio"],
    }.items() if bad]  # fmt: skip
    for text in missed:
        print(f"missed: {text}")
    print(f"wrote {HERE / 'results.json'}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
