"""PyTorch's device-generic test databases that ship in its wheel, beside OpInfo, run on the device.

    python -m mtia.conformance.generic --report docs/support-surface.md

    modules     common_modules.module_db (ModuleInfo): outputs, gradients of inputs and parameters, pickle
    optimizers  common_optimizers.optim_db (OptimizerInfo): parameters after five steps, per implementation
    autocast    autocast_test_lists.AutocastTestLists: the type that each operator runs in
    operators   custom_op_db, autograd_function_db, hop_db (OpInfo): outputs and, where they have them, gradients

The databases give the cases; upstream's test files, which are not in the wheel, hold the loops over them, so those are
ours. What the device gives is held to the CPU by `torch.testing.assert_close` with its default tolerances; a case that
the CPU cannot run is no case, and an input of a case that the CPU refuses is left out and counted. A family runs in a
process of its own, a case for at most `CASE_LIMIT_S`.
"""

from __future__ import annotations

import argparse
import json
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from mtia.conformance.check import REFUSED
from mtia.conformance.units import NoOpInfo

SEED = 2026
CASE_LIMIT_S = 240
MOST_ERROR_CHARS = 160
STEPS = 5


NO_CALL = "no call"
OWN_IMPLEMENTATION = "names an implementation itself"


@dataclass(slots=True)
class Inputs:
    """Inputs of a case so far: compared, and left out by reason."""

    compared: int = 0
    left_out: dict[str, int] = field(default_factory=dict)

    def leave_out(self, reason: str) -> None:
        self.left_out[reason] = self.left_out.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class Case:
    """One case of a family: what became of it ("pass", "fail", "skip"), why not, and of its inputs."""

    family: str
    name: str
    outcome: str
    error: str = ""
    compared: int = 0
    left_out: dict[str, int] = field(default_factory=dict)


Check = Callable[[Inputs], None]


class Skip(Exception):
    """The CPU has no answer for the case, or the case is not for a device like this."""


def _to_device(value: Any) -> Any:
    def moved(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            return x.detach().to("mtia").requires_grad_(x.requires_grad)
        return x

    return tree_map(moved, value)


def _copied(value: Any) -> Any:
    def copy(x: Any) -> Any:
        return x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x

    return tree_map(copy, value)


def _assert_same(got: Any, expected: Any) -> None:
    for mine, theirs in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine.detach().cpu(), theirs.detach(), equal_nan=True)


def _on_the_cpu(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise Skip(f"the CPU has no answer: {type(error).__name__}") from None


# --- modules ----------------------------------------------------------------------------------------------------------


def modules() -> Iterator[tuple[str, Check]]:
    from torch.testing._internal.common_modules import module_db

    for info in module_db:
        for training in (True, False) if info.train_and_eval_differ else (True,):
            name = f"{info.name}{'' if training else ' eval'}"
            yield name, lambda inputs, i=info, t=training: _module(inputs, i, training=t)


def _module(inputs: Inputs, info: Any, *, training: bool) -> None:
    if torch.float32 not in info.dtypes:
        raise Skip("not in float32")
    torch.manual_seed(SEED)
    all_given = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=info.supports_gradgrad, training=training
    )
    for given in all_given:
        if given.forward_input is None:
            inputs.leave_out(NO_CALL)
            continue
        torch.manual_seed(SEED)
        made = given.constructor_input
        module = info.module_cls(*made.args, **made.kwargs).train(training)
        if any(
            torch.nn.parameter.is_lazy(p) for p in module.parameters()
        ):  # random numbers are drawn at the first call
            args, kwargs = _copied((given.forward_input.args, given.forward_input.kwargs))
            module(*args, **kwargs)
        moved = pickle.loads(pickle.dumps(module)).to("mtia")
        _module_call(inputs, module, moved, given.forward_input)


def _module_call(inputs: Inputs, module: Any, moved: Any, given: Any) -> None:
    args, kwargs = _copied((given.args, given.kwargs))
    there_args, there_kwargs = _to_device((given.args, given.kwargs))
    try:
        torch.manual_seed(SEED)
        expected = module(*args, **kwargs)
    except Exception:
        return inputs.leave_out(REFUSED)
    torch.manual_seed(SEED)
    got = moved(*there_args, **there_kwargs)
    _assert_same(got, expected)
    expected_grads, got_grads = (
        _gradients(out, m, given)
        for out, m, given in ((expected, module, (args, kwargs)), (got, moved, (there_args, there_kwargs)))
    )
    _assert_same(got_grads, expected_grads)
    inputs.compared += 1


def _gradients(out: Any, module: Any, inputs: Any) -> list[torch.Tensor]:
    outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.requires_grad]
    if not outputs:
        return []
    wanted = [*module.parameters(), *(t for t in tree_leaves(inputs) if isinstance(t, torch.Tensor))]
    wanted = [t for t in wanted if t.requires_grad and t.is_leaf]
    grads = torch.autograd.grad([t.sum() for t in outputs], wanted, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for g, t in zip(grads, wanted, strict=True)]


# --- optimizers -------------------------------------------------------------------------------------------------------


def optimizers() -> Iterator[tuple[str, Check]]:
    from torch.testing._internal.common_optimizers import optim_db

    for info in optim_db:
        for impl in ("for loop", *(i for i in ("foreach", "fused") if i in info.supported_impls)):
            cls: type = info.optim_cls  # type: ignore[assignment]
            yield f"{cls.__name__} {impl}", lambda inputs, i=info, m=impl: _optimizer(inputs, i, m)


def _optimizer(inputs: Inputs, info: Any, impl: str) -> None:
    if info.only_supports_sparse_grads:
        raise Skip("sparse gradients only: mtia holds strided tensors")
    options = {"foreach": impl == "foreach"} if "foreach" in info.supported_impls else {}
    options |= {"fused": True, "foreach": False} if impl == "fused" else {}
    for given in info.optim_inputs_func(device="cpu"):
        if "fused" in given.kwargs or "foreach" in given.kwargs or "capturable" in given.kwargs:
            inputs.leave_out(OWN_IMPLEMENTATION)
            continue
        try:
            expected = _trained("cpu", info, given.kwargs | options)
        except Exception:
            inputs.leave_out(REFUSED)
            continue
        _assert_same(_trained("mtia", info, given.kwargs | options), expected)
        inputs.compared += 1


def _trained(device: str, info: Any, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    torch.manual_seed(SEED)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2, bias=False))
    x = torch.randn(8, 6)
    model, x = model.to(device), x.to(device)
    optimizer = info.optim_cls(model.parameters(), **kwargs)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    for _ in range(STEPS):
        if info.step_requires_closure:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
    return [p.detach() for p in model.parameters()]


# --- autocast ---------------------------------------------------------------------------------------------------------


def autocast() -> Iterator[tuple[str, Check]]:
    """The lists for a device that casts to float16: what runs in it, what runs in float32, what takes the widest."""
    from torch.testing._internal.autocast_test_lists import AutocastTestLists

    torch.manual_seed(SEED)
    lists = AutocastTestLists(torch.device("mtia"))
    nn, linalg = (getattr(torch._C, name) for name in ("_nn", "_linalg"))
    for name, module, wanted in (
        ("torch_fp16", torch, torch.float16), ("torch_fp32", torch, torch.float32), ("nn_fp16", nn,
        torch.float16), ("nn_fp32", nn, torch.float32), ("linalg_fp16", linalg, torch.float16),
        ("methods_fp16", None, torch.float16), ("methods_fp32", None, torch.float32),
        ("torch_need_autocast_promote", torch, torch.float32),
    ):  # fmt: skip
        for entry in getattr(lists, name):
            yield f"{name} {entry[0]}", lambda inputs, e=entry, m=module, w=wanted: _autocast(inputs, e, m, w)


def _autocast(inputs: Inputs, entry: tuple[Any, ...], module: Any, wanted: torch.dtype) -> None:
    op, args = entry[0], entry[1]
    if op.startswith(("cudnn_", "_thnn_")):
        raise Skip("an operator of CUDA's alone")
    if isinstance(args, str):  # einsum; upstream's loop takes a third field for "skip", so it skips this one
        raise Skip("upstream's entry has operands that do not fit its equation, and upstream skips it")
    kwargs: dict[str, Any] = next((extra for extra in entry[2:] if isinstance(extra, dict)), {})
    function = getattr(module, op) if module is not None and hasattr(module, op) else None
    if function is None:
        function, args = getattr(args[0], op), args[1:]
    with torch.autocast("mtia", dtype=torch.float16):
        got = function(*args, **kwargs)
    results = [t for t in tree_leaves(got) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    if not results:
        raise Skip("no floating-point result")
    for result in results:
        if result.dtype != wanted:
            raise AssertionError(f"ran in {result.dtype}, autocast's list says {wanted}")
    inputs.compared += 1


# --- operators --------------------------------------------------------------------------------------------------------


def operators() -> Iterator[tuple[str, Check]]:
    from torch.testing._internal.autograd_function_db import autograd_function_db
    from torch.testing._internal.custom_op_db import custom_op_db
    from torch.testing._internal.hop_db import hop_db

    for label, database in (("custom", custom_op_db), ("autograd.Function", autograd_function_db), ("hop", hop_db)):
        for info in database:
            name = f"{label} {info.name}{'.' if info.variant_test_name else ''}{info.variant_test_name}"
            yield name, lambda inputs, i=info: _operator(inputs, i)


_WRITES_TO_HOST_COPY = ("NumpyExpMarkDirtyAutogradFunction",)


def _operator(inputs: Inputs, info: Any) -> None:
    if info.name in _WRITES_TO_HOST_COPY:
        raise Skip("upstream's function writes to tensor.cpu(), which is the input itself on the CPU alone")
    dtype = torch.float32 if torch.float32 in info.dtypes else next(iter(info.dtypes), torch.float32)
    gradients = info.supports_autograd and dtype.is_floating_point
    for sample in _on_the_cpu(lambda: list(info.sample_inputs("cpu", dtype, requires_grad=gradients))):
        given = (sample.input, sample.args, sample.kwargs)
        here, there = _copied(given), _to_device(given)
        try:
            expected = info(here[0], *here[1], **here[2])
        except Exception:
            inputs.leave_out(REFUSED)
            continue
        got = info(there[0], *there[1], **there[2])
        _assert_same(got, expected)
        if gradients:
            _assert_same(
                _gradients(got, torch.nn.Module(), there), _gradients(expected, torch.nn.Module(), here)
            )  # fmt: skip
        inputs.compared += 1


# --- running ----------------------------------------------------------------------------------------------------------

FAMILIES: dict[str, Callable[[], Iterator[tuple[str, Check]]]] = {
    "modules": modules, "optimizers": optimizers, "autocast": autocast, "operators": operators,
}  # fmt: skip


def run_family(family: str) -> Iterator[Case]:
    """All cases of a family, in this process."""
    try:
        cases = list(FAMILIES[family]())
    except ModuleNotFoundError as error:
        raise NoOpInfo(error.name or str(error)) from None
    for name, check in cases:
        yield _run_case(family, name, check)


def _run_case(family: str, name: str, check: Check) -> Case:
    inputs = Inputs()
    outcome, error = _outcome(check, inputs)
    if outcome == "pass" and not inputs.compared:
        outcome, error = "skip", f"nothing to compare in {sum(inputs.left_out.values())} inputs: {_reasons(inputs)}"
    return Case(family, name, outcome, error, inputs.compared, inputs.left_out)


def _reasons(inputs: Inputs | Case) -> str:
    return ", ".join(f"{n} {why}" for why, n in inputs.left_out.items()) or "there is none"


def _outcome(check: Check, inputs: Inputs) -> tuple[str, str]:
    def out_of_time(*_: Any) -> None:
        raise TimeoutError(f"not done in {CASE_LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(CASE_LIMIT_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(inputs)
    except Skip as why:
        return "skip", str(why)
    except Exception as error:  # whatever a case raises is its result
        text = " ".join(str(error).split())
        return "fail", f"{type(error).__name__}: {text}"[:MOST_ERROR_CHARS]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return "pass", ""


def run_all() -> list[Case]:
    """Every family in a process of its own; one that dies loses the cases after its death, and says so."""
    found: list[Case] = []
    for family in FAMILIES:
        done = subprocess.run(
            [sys.executable, "-m", "mtia.conformance.generic", "--family", family], stdout=subprocess.PIPE, text=True
        )
        found += read_cases(done.stdout)
        if done.returncode:
            found.append(Case(family, "(the rest)", "fail", f"the process died with {done.returncode}"))
    return found


def read_cases(text: str) -> list[Case]:
    """The cases that `--family` printed, one JSON line each."""
    return [Case(**json.loads(line)) for line in text.splitlines() if line.startswith('{"family"')]


def markdown(cases: list[Case]) -> str:
    """The page: counts by family, then what failed and what was left out, by name."""
    lines = [
        "# PyTorch's device-generic tests on `mtia`, beside OpInfo",
        "",
        "Written by `python -m mtia.conformance.generic --report docs/support-surface.md`; do not edit. The databases",
        "of cases ship in PyTorch's wheel (`torch.testing._internal`); the loops over them are in",
        "`src/mtia/conformance/generic.py`, which says what is held. Operators are in [support.md](support.md).",
        "",
        f"PyTorch {torch.__version__}. *Skipped* cases are those the CPU has no answer for, or that are not for",
        "strided float32 tensors; they count in neither column of the rate. Of the inputs of cases (one or more each)",
        "*compared*; left out where the *CPU refuses* them or, *other*, where there is no call or the options name",
        "an implementation that has a case of its own.",
        "",
        "| family | pass | fail | skipped | pass rate | compared | CPU refuses | other |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for family in FAMILIES:
        counts = {w: sum(c.family == family and c.outcome == w for c in cases) for w in ("pass", "fail", "skip")}
        rate = 100 * counts["pass"] / max(1, counts["pass"] + counts["fail"])
        row = (family, counts["pass"], counts["fail"], counts["skip"], f"{rate:.1f} %", *_inputs(cases, family))
        lines.append(f"| {' | '.join(str(cell) for cell in row)} |")
    for outcome, title in (("fail", "Failures"), ("skip", "Skipped")):
        lines += ["", f"## {title}", ""]
        chosen = [c for c in cases if c.outcome == outcome]
        lines += [f"- {c.family}: `{c.name}`: {c.error.replace('|', '/')}" for c in chosen] or ["None."]
    return "\n".join([*lines, "", SURFACE])


def _inputs(cases: list[Case], family: str) -> tuple[int, int, int]:
    """Inputs of a family: compared, refused by the CPU, left out otherwise."""
    mine = [c for c in cases if c.family == family]
    refused = sum(c.left_out.get(REFUSED, 0) for c in mine)
    left_out = sum(sum(c.left_out.values()) for c in mine)
    return sum(c.compared for c in mine), refused, left_out - refused


SURFACE = """## Where upstream stops

- **AOTInductor** (`torch._inductor.aoti_compile_and_package`): refused by upstream for mtia. The C++ wrapper asks the
  device's `DeviceOpOverrides` for `kernel_driver()` (`torch/_inductor/codegen/common.py`), which
  `codegen/mtia/device_op_overrides.py` does not define: `NotImplementedError`. The wrapper would also need C shims for
  streams and launches that the wheel has for CUDA, XPU and CPU alone. `torch.export` and `torch.compile` work.
- **dlpack and `numpy()`** of a device tensor: DLPack has no device type for mtia; go through `.cpu()`.
- **Fork**: a forked child that makes a tensor on the device gets PyTorch's "Cannot re-initialize MTIA in forked
  subprocess"; use the spawn start method. Loaders whose workers stay on the CPU fork as usual.
- **`instantiate_device_type_tests`** lists its device classes; mtia is none of them. `TORCH_TEST_DEVICES` names a file
  with one: `src/mtia/conformance/device_class.py` (upstream's test files are not in the wheel).
- **`torch.testing._internal.distributed`** holds bodies of tests for NCCL and gloo process groups, which need a
  launcher and several processes; not run here.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mtia.conformance.generic")
    parser.add_argument("--report", type=Path, help="write the page here")
    parser.add_argument("--family", choices=list(FAMILIES), help="this one alone, a JSON line a case")
    parser.add_argument("--read", type=Path, nargs="+", help="the page of what `--family` printed into these files")
    options = parser.parse_args()
    if options.family:
        for case in run_family(options.family):
            print(json.dumps(asdict(case)), flush=True)
        return
    cases = [c for file in options.read for c in read_cases(file.read_text())] if options.read else run_all()
    text = markdown(cases)
    if options.report:
        options.report.write_text(text)
    print(text if not options.report else f"wrote {options.report}")


if __name__ == "__main__":
    main()
