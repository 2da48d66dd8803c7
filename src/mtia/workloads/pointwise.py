"""Vector operators (element-wise, normalisation, softmax) as a chip would run them, timed without a device.

`predict_op` takes an operator over m rows of n elements; the kernels are the project's own (kernels/elementwise.py,
normalise.py, transformer.py) with the blocks those choose. The latency is that of a repeated run: what the run before
left in SRAM is there, unless the protocol says that it was flushed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from mtia.chips.spec import ChipSpec
from mtia.errors import BadProblem, did_you_mean
from mtia.kernels import copy, derived, normalise, pointwise, transformer  # noqa: F401 (derived enters its operations)
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Operation, plan
from mtia.kernels.iteration import ceil_div, next_power_of_2
from mtia.workloads.launches import Buffer, Call, Memory, time_call, touch_call
from mtia.workloads.prediction import Prediction, Protocol, predicted

DTYPES = {
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """m rows of n output elements in `dtype`, tensors taken from `memory`."""

    memory: Memory
    m: int
    n: int
    dtype: torch.dtype

    def tensor(self, n_elements: int | None = None) -> Buffer:
        return self.memory.buffer(self.m * self.n if n_elements is None else n_elements, self.dtype)


THREADS = 1024  # lanes of the largest block of a GPU's programs
BLOCK = 2048  # elements of a step through a long row, four to eight a lane


def shares_lanes(spec: ChipSpec) -> bool:
    """A PE that interleaves several programs: frameworks' kernels for such chips hold rows of up to `THREADS` elements
    in registers, walk longer ones two or three times (PyTorch's softmax and norms, Inductor's reductions, vLLM's RMS
    norm), and compute exponentials on the lanes from powers of two; other chips have tables."""
    return spec.pe.resident_programs > 1


def flat(problem: Problem, operation: Operation, n_inputs: int, given: Sequence[Buffer] = ()) -> Call:
    """out = operation(inputs), all contiguous; `given`: the first inputs, where they are not new."""
    shape = (problem.m * problem.n,)
    like = torch.empty(shape, dtype=problem.dtype, device="meta")
    names = (*operation.outputs, *operation.inputs[:n_inputs])
    found = plan(operation, shape, [like] * len(names), names, (), compute_dtype(problem.dtype))
    tensors = [problem.tensor(), *given, *(problem.tensor() for _ in range(n_inputs - len(given)))]
    return Call(kernel=found.kernel, grid=found.grid, arguments=(*tensors, *found.integers))


def add_add(problem: Problem) -> list[Call]:
    """Two terms added to a residual, one after the other."""
    first = flat(problem, pointwise.ADD, 2)
    total = first.arguments[0]
    assert isinstance(total, Buffer)
    return [first, flat(problem, pointwise.ADD, 2, [total])]


def gated(problem: Problem) -> Call:
    """out[m, n] = silu(x[m, :n]) * x[m, n:]: both halves of one tensor."""
    m, n = problem.m, problem.n
    both = torch.empty((m, 2 * n), dtype=problem.dtype, device="meta")
    tensors = [torch.empty((m, n), dtype=problem.dtype, device="meta"), both[:, :n], both[:, n:]]
    operation = transformer.SILU_MUL_BY_POWERS if shares_lanes(problem.memory.spec) else transformer.SILU_MUL
    names = (*operation.outputs, *operation.inputs)
    found = plan(operation, (m, n), tensors, names, (), compute_dtype(problem.dtype))
    x, out = problem.tensor(2 * m * n), problem.tensor()
    return Call(kernel=found.kernel, grid=found.grid, arguments=(out, x, x.at(n), *found.integers))


def activation(problem: Problem) -> Call:
    """gelu, tanh form."""
    by_powers = shares_lanes(problem.memory.spec)
    return flat(problem, transformer.GELU_BY_POWERS if by_powers else pointwise.GELU_TANH, 1)


def softmax(problem: Problem) -> Call:
    """Along n."""
    m, n = problem.m, problem.n
    x, out = problem.tensor(), problem.tensor()
    if n > THREADS and shares_lanes(problem.memory.spec):
        kernel, grid, constants = transformer.mtia_softmax_streamed, (m,), dict(WIDTH=BLOCK)
    else:
        kernel, grid, constants = normalise.softmax_launch(m, n, problem.dtype, log=False)
    return Call(kernel=kernel, grid=grid, arguments=(x, out, m, n), constants=constants)


def layer_norm(problem: Problem, *, centre: bool, affine: bool) -> Call:
    """Layer norm along n; without `centre` RMS norm; `affine`: with weight (and bias where centred).

    Where lanes are shared RMS norm is vLLM's first kernel, a lane an element at a time.
    """
    m, n = problem.m, problem.n
    x, out, weight, bias = problem.tensor(), problem.tensor(), problem.tensor(n), problem.tensor(n)
    if n > THREADS and shares_lanes(problem.memory.spec):
        return Call(
            kernel=transformer.mtia_norm_streamed,
            grid=(m,),
            arguments=(x, weight, out, 1e-5, m, n),
            constants=dict(WIDTH=BLOCK if centre else THREADS, CENTRE=centre, HAS_W=affine),
        )
    mean, rstd = (problem.memory.buffer(m, torch.float32) for _ in range(2))
    kernel, grid, constants = normalise.norm_launch(
        m, n, problem.dtype, centre=centre, weight=affine, bias=affine and centre
    )
    return Call(kernel=kernel, grid=grid, arguments=(x, weight, bias, out, mean, rstd, 1e-5, m, n), constants=constants)


def add_rms_norm(problem: Problem) -> Call:
    """residual += x; out = rms_norm(residual) * weight."""
    x, residual, out, weight = problem.tensor(), problem.tensor(), problem.tensor(), problem.tensor(problem.n)
    return Call(
        kernel=transformer.mtia_add_rms_norm,
        grid=(problem.m,),
        arguments=(x, residual, weight, out, 1e-5, problem.m, problem.n),
        constants=dict(WIDTH=next_power_of_2(problem.n)),
    )


def rope(problem: Problem, head: int = 128) -> Call:
    """Rotary embedding in place; heads of `head` elements (or one narrower head)."""
    half = max(1, min(head, next_power_of_2(problem.n)) // 2)
    heads = ceil_div(problem.n, 2 * half)
    rows = max(1, min(next_power_of_2(heads), BLOCK // half))
    x = problem.tensor(problem.m * heads * 2 * half)
    table = problem.tensor(problem.m * 2 * half)
    return Call(
        kernel=transformer.mtia_rope,
        grid=(ceil_div(heads, rows), problem.m),
        arguments=(x, table, heads),
        constants=dict(ROWS=rows, HALF=half),
    )


def quantize(problem: Problem, group: int = 128) -> Call:
    """To 8-bit floats with one scale for `group` columns of a row."""
    group = min(group, problem.n)
    groups = max(1, min(2048 // group, next_power_of_2(problem.n // group)))
    rows = max(1, 2048 // (group * groups))
    x = problem.tensor()
    out = problem.memory.buffer(problem.m * problem.n, torch.float8_e4m3fn)
    scale = problem.memory.buffer(problem.m * (problem.n // group), torch.float32)
    return Call(
        kernel=transformer.mtia_quantize_groups,
        grid=(ceil_div(problem.n // group, groups), ceil_div(problem.m, rows)),
        arguments=(x, out, scale, problem.m, problem.n),
        constants=dict(ROWS=rows, GROUPS=groups, GROUP=group, TOP=448.0),
    )


OPERATORS: dict[str, Callable[[Problem], Call | list[Call]]] = {
    "add": lambda p: flat(p, pointwise.ADD, 2),
    "add_add": add_add,
    "copy": lambda p: flat(p, copy.COPY, 1),
    "gelu": activation,
    "softmax": softmax,
    "layernorm": lambda p: layer_norm(p, centre=True, affine=False),
    "rmsnorm": lambda p: layer_norm(p, centre=False, affine=True),
    "input_layernorm": lambda p: layer_norm(p, centre=False, affine=True),
    "add_rmsnorm": add_rms_norm,
    "silu_mul": gated,
    "mlp_act": gated,
    "rope": rope,
    "quantize": quantize,
}


def dtype_named(name: str) -> torch.dtype:
    """The torch type of a dtype column. Raises BadProblem for one no vector kernel is predicted in."""
    if name not in DTYPES:
        known = f"known are {', '.join(DTYPES)}"
        raise BadProblem("vector operator", argument="dtype", value=name, allowed=known + did_you_mean(name, DTYPES))
    return DTYPES[name]


def predict_op(
    spec: ChipSpec, *, op: str, m: int, n: int, dtype: str = "bfloat16", protocol: Protocol, flushed: bool = False
) -> Prediction:
    """Latency of one vector operator over m rows of n output elements.

    The same operands are used run after run, so what fits SRAM is read from there; with `flushed` the benchmark wrote
    other data over SRAM between runs. Raises BadProblem for an unknown operator, dtype or an empty problem.
    """
    if op not in OPERATORS:
        known = f"known are {', '.join(OPERATORS)}"
        raise BadProblem("vector operator", argument="op", value=op, allowed=known + did_you_mean(op, OPERATORS))
    for name, value in (("m", m), ("n", n)):
        if value < 1:
            raise BadProblem(f"vector operator {op}", argument=name, value=value, allowed="at least 1 is needed")
    memory = Memory(spec)
    problem = Problem(memory, m, n, dtype_named(dtype))
    made = OPERATORS[op](problem)
    calls = made if isinstance(made, list) else [made]
    if flushed:
        overwrite(memory)
    else:
        for call in calls:
            touch_call(call, memory)
    timings = [time_call(call, memory) for call in calls]
    return predicted(spec, protocol, timings, how=f"grid {calls[0].grid}")


def overwrite(memory: Memory) -> None:
    """As if a benchmark had written as many bytes of other data as SRAM holds, to clear it."""
    memory.warm(memory.buffer(memory.spec.sram.capacity_bytes, torch.int8), written=True)


@lru_cache(maxsize=4096)
def predict_add(spec: ChipSpec, *, elements: int, dtype: str, protocol: Protocol) -> Prediction:
    """out = x + y over `elements`, SRAM overwritten between runs (docs/timing.md, "Vector operators").

    Where the host runs ahead of the device its time hides behind the overwriting, else it counts.
    """
    if protocol is Protocol.EAGER and spec.launch.runs_ahead:
        protocol = Protocol.GRAPH_CHAIN
    return predict_op(spec, op="add", m=1, n=elements, dtype=dtype, protocol=protocol, flushed=True)


__all__ = ["OPERATORS", "predict_add", "predict_op"]
