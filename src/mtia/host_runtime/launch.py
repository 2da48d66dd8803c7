"""Launching a TileProgram on a device: fit it to the chip, time it, compute its values, put it on the clock.

Timing comes first: a kernel that the chip refuses leaves memory as it was. A launch with the same program, grid,
scalars and pointer layout on the same chip, finding the same share of its arguments in SRAM, is timed once.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mtia import _C, knobs
from mtia.chips.spec import ChipSpec
from mtia.engine import limits
from mtia.engine.functional import executor, interpreter
from mtia.engine.functional.interpreter import Launch
from mtia.engine.functional.memory import Bounds
from mtia.engine.functional.tracer import trace_launch
from mtia.engine.memory import Ranges, Residency
from mtia.engine.roof import footprints
from mtia.engine.timeline import KernelTiming
from mtia.engine.timing import run_timed
from mtia.engine.trace import Access, Trace
from mtia.errors import MisalignedAccess, MtiaError, OutOfBoundsAccess
from mtia.host_runtime import allocations, graphs, sanitizer, silicon
from mtia.host_runtime.clock import clock
from mtia.host_runtime.record import Kind, Work
from mtia.host_runtime.telling import tell
from mtia.program import commands as c
from mtia.program.dataflow import dataflow_of
from mtia.program.fit import ChipLimitWarning, Excess, fit
from mtia.program.program import TileProgram, once_a_program
from mtia.program.verify import verify
from mtia.units import format_time, fs_to_s

MOST_INDEX_BYTES = 1 << 16  # of index data in the key of a timing
MOST_DATA_TIMINGS = 256  # timings kept of a program whose addresses come from memory
MOST_KNOWN_LAUNCHES = 4096  # launches with the same arguments whose ranges are kept, a program
RESIDENCY_STEPS = 16  # residency of an argument in SRAM is told apart in steps of 1/16


@dataclass(frozen=True, slots=True)
class Touched:
    """What a launch touches through one pointer argument: address range relative to it, distinct bytes in it."""

    parameter: int
    first: int
    end: int
    written: bool
    n_bytes: int


@dataclass(slots=True)
class Timed:
    """A cached timing and what it touches."""

    timing: KernelTiming
    touched: tuple[Touched, ...]
    work: Work


@dataclass(frozen=True, slots=True)
class Known:
    """A launch seen before with the very same arguments: what its timing is kept under, what it touches."""

    layout: tuple
    touched: tuple[Touched, ...]
    ranges: Ranges


@dataclass(slots=True)
class Site:
    """What is known of one program on one chip."""

    program: TileProgram
    excess: tuple[Excess, ...]  # where it goes beyond the chip
    pointers: tuple[int, ...]
    names: tuple[str, ...]  # of its parameters
    data_dependent: bool
    index_loads: frozenset[int]  # load commands whose values decide addresses, masks or control
    timings: dict[tuple, Timed] = field(default_factory=dict)
    touched: dict[tuple, tuple[Touched, ...]] = field(default_factory=dict)
    known: dict[tuple, Known] = field(default_factory=dict)
    index_reads: dict[tuple, tuple[Touched, ...] | None] = field(default_factory=dict)  # None: cannot be cached


_sites: dict[tuple[int, int, bool], tuple[TileProgram, ChipSpec, Site]] = {}
_residency: dict[int, tuple[ChipSpec, Residency]] = {}


@once_a_program
def is_user_kernel(program: TileProgram) -> bool:
    """Not one of ours and not one that Inductor wrote: chip limits are the author's business."""
    file = program.location.file
    return not (any(mark in file for mark in _OUR_FILES) or file.startswith(_inductor_folder()))


_OUR_FILES = ("/mtia/kernels/", "mtia_kernels")


def _inductor_folder() -> str:
    """Where Inductor writes its kernels; a path no kernel has where Inductor is not loaded."""
    inductor = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    return inductor.cache_dir() if inductor is not None else "\0"


def site_of(program: TileProgram, spec: ChipSpec) -> Site:
    """The program fitted to the chip, once. Raises what `fit` raises."""
    strict, users = knobs.get().strict, is_user_kernel(program)
    known = _sites.get((id(program), id(spec), strict))
    if known is None:
        fitted, excess = fit(program, spec, strict=strict and users, strict_dtypes=strict)
        if knobs.get().verify:
            verify(fitted)
        pointers = tuple(i for i, p in enumerate(program.parameters) if p.value.type.is_pointer)
        names = tuple(p.value.name for p in fitted.parameters)
        site = Site(fitted, excess, pointers, names, dataflow_of(fitted).data_dependent, _index_loads(fitted))
        known = (program, spec, site)
        _sites[(id(program), id(spec), strict)] = known
    return known[2]


def _index_loads(program: TileProgram) -> frozenset[int]:
    index_values = dataflow_of(program).index_values
    return frozenset(
        cmd.index
        for cmd in program.commands
        if isinstance(cmd, c.Load | c.AtomicRmw | c.AtomicCas) and any(r.id in index_values for r in cmd.results)
    )


def residency_of(device: int, spec: ChipSpec) -> Residency:
    """What the device's SRAM holds; empty again after the chip was changed."""
    known = _residency.get(device)
    if known is None or known[0] is not spec:
        known = (spec, Residency(spec.sram.capacity_bytes))
        _residency[device] = known
    return known[1]


def launch(program: TileProgram, grid: tuple[int, int, int], arguments: Sequence[Any], stream: int) -> None:
    """Launch on the current device. Arguments: tensors (or addresses) and numbers, in the program's order."""
    if grid[0] * grid[1] * grid[2] == 0:
        return
    device, plain = _plain(arguments)
    graph = graphs.capturing(device, stream)
    if graph is not None:
        kept = sanitizer.captured(arguments, graph.pool) if allocations.is_watching() else list(arguments)
        graph.add(program.name, lambda: launch_now(program, grid, kept, _plain(kept)[1], stream, device))
        return
    launch_now(program, grid, arguments, plain, stream, device)


def launch_now(
    program: TileProgram,
    grid: tuple[int, int, int],
    arguments: Sequence[Any],
    plain: list[int | float],
    stream: int,
    device: int,
) -> None:
    """`plain`: the arguments as numbers and addresses."""
    spec = silicon.chip()
    site = site_of(program, spec)
    settings, sanitize = knobs.get(), allocations.is_watching()
    values = settings.values
    if sanitize:
        held = sanitizer.allocations_of(program, site.pointers, arguments)
    else:
        held = Bounds(*_C.launch_bounds(plain, site.pointers), site.names) if values or site.data_dependent else ()
    request = Launch(program=site.program, grid=grid, arguments=plain, allocations=held)
    try:
        timed = _timed(request, site, spec, residency_of(device, spec))
        if settings.debug:
            tell(request, timed.timing, spec, settings)
        if values and sanitize:
            sanitizer.run(request, site.pointers, arguments, users=is_user_kernel(program))
        elif values:
            (interpreter.run if settings.interpret else executor.run)(request)
    except (OutOfBoundsAccess, MisalignedAccess) as error:
        if not sanitize:
            raise
        raise sanitizer.explained(error, program, arguments) from None
    clock().submit(device, stream, program.name, Kind.KERNEL, timed.timing.makespan_fs, None, timed.work)


def _plain(arguments: Sequence[Any]) -> tuple[int, list[int | float]]:
    """The one device of the tensors among the arguments, else the current one; and the arguments as numbers and
    addresses. Raises ValueError where a tensor lies elsewhere."""
    found = _C.launch_arguments(arguments if isinstance(arguments, list) else list(arguments))
    if found is None:
        raise ValueError(_elsewhere(arguments))
    device, plain = found
    return (device if device >= 0 else torch.mtia.current_device()), plain


def _elsewhere(arguments: Sequence[Any]) -> str:
    """Which tensor is not where the others are."""
    index = -1
    for at, a in enumerate(arguments):
        if isinstance(a, torch.Tensor):
            device = a.device
            if device.type != "mtia":
                return f"a kernel on mtia got a tensor on {device} (argument {at}); move it with .to('mtia')"
            if index not in (-1, device.index):
                way_out = f"move it with .to('mtia:{index}')"
                return f"a kernel on mtia:{index} got a tensor on {device} (argument {at}); {way_out}"
            index = device.index
    raise AssertionError("all tensors lie on one device")


# --- timing -----------------------------------------------------------------------------------------------------------


def _layout(site: Site, plain: Sequence[Any]) -> tuple:
    """Scalars as they are; pointers as distance from the first one's 64-byte line where near enough to overlap."""
    pointers = [plain[i] for i in site.pointers]
    order = {p: n for n, p in enumerate(dict.fromkeys(pointers))}
    pointer_set = set(site.pointers)
    return tuple((order[a], a % 64) if i in pointer_set else a for i, a in enumerate(plain))


def _timed(request: Launch, site: Site, spec: ChipSpec, residency: Residency) -> Timed:
    arguments = request.arguments
    if site.data_dependent:
        layout = (request.grid, _layout(site, arguments))
        return _timed_by_data(request, site, spec, residency, layout)
    known = site.known.get((request.grid, *arguments)) or _know(request, site)
    if known is None:
        layout = (request.grid, _layout(site, arguments))
        return _time_and_keep(request, site, spec, residency, layout, trace_launch(request))
    timed = site.timings.get((known.layout, _shares_of(known.ranges, residency)))
    if timed is None:
        return _time_and_keep(request, site, spec, residency, known.layout, trace_launch(request))
    residency.touch_all(known.ranges)
    return timed


def _know(request: Launch, site: Site) -> Known | None:
    """Remembers a launch whose layout has been timed before; None where it has not."""
    layout = (request.grid, _layout(site, request.arguments))
    touched = site.touched.get(layout)
    if touched is None:
        return None
    if len(site.known) >= MOST_KNOWN_LAUNCHES:
        site.known.clear()
    known = Known(layout, touched, _ranges(touched, request.arguments))
    site.known[(request.grid, *request.arguments)] = known
    return known


def _timed_by_data(request: Launch, site: Site, spec: ChipSpec, residency: Residency, layout: tuple) -> Timed:
    """As `_timed`, where addresses, masks or control come from memory: what those loads read is part of the key."""
    arguments = request.arguments
    reads = site.index_reads.get(layout)
    if reads is not None:
        with_data = (layout, _bytes_of(reads, arguments))
        touched = site.touched.get(with_data)
        if touched is not None:
            ranges = _ranges(touched, arguments)
            timed = site.timings.get((with_data, _shares_of(ranges, residency)))
            if timed is not None:
                residency.touch_all(ranges)
                return timed
    trace = trace_launch(request)
    if layout not in site.index_reads:
        site.index_reads[layout] = _reads_of(trace, site, arguments)
    reads = site.index_reads[layout]
    if reads is None:
        timed = _time(request, site, spec, residency, trace)
        _touch(timed.touched, arguments, residency)
        return timed
    for held in (site.timings, site.touched):  # new data at each launch must not fill the memory
        while len(held) > MOST_DATA_TIMINGS:
            held.pop(next(iter(held)))
    return _time_and_keep(request, site, spec, residency, (layout, _bytes_of(reads, arguments)), trace)


def _time_and_keep(
    request: Launch, site: Site, spec: ChipSpec, residency: Residency, layout: tuple, trace: Trace
) -> Timed:
    touched = _touched(trace, request.arguments)
    key = (layout, _shares(touched, request.arguments, residency))
    timed = _time(request, site, spec, residency, trace, touched)
    site.touched[layout], site.timings[key] = touched, timed
    _touch(touched, request.arguments, residency)
    return timed


def _reads_of(trace: Trace, site: Site, arguments: Sequence[Any]) -> tuple[Touched, ...] | None:
    """Where the loads that decide addresses and control read; None where that itself depends on data, or is much."""
    program = site.program
    if (
        site.index_loads & dataflow_of(program).loaded_addresses
        or any(isinstance(cmd, c.If | c.While) for cmd in program.commands)
        or any(not isinstance(program.commands[at], c.Load) for at in site.index_loads)
    ):
        return None
    found = footprints(trace, [s.access for s in trace.steps if s.access is not None and s.command in site.index_loads])
    if any(f.parameter < 0 for f in found) or sum(f.hi - f.lo for f in found) > MOST_INDEX_BYTES:
        return None
    return tuple(
        Touched(f.parameter, f.lo - arguments[f.parameter], f.hi - arguments[f.parameter], False, f.n_bytes)
        for f in found
    )


def _bytes_of(reads: Sequence[Touched], arguments: Sequence[Any]) -> bytes:
    return b"".join(ctypes.string_at(arguments[r.parameter] + r.first, r.end - r.first) for r in reads)


def _time(
    request: Launch,
    site: Site,
    spec: ChipSpec,
    residency: Residency,
    trace: Trace | None = None,
    touched: tuple[Touched, ...] | None = None,
) -> Timed:
    trace = trace if trace is not None else trace_launch(request)
    excess = [*site.excess, *_misaligned(trace, request, spec)]
    timing = _with_software_paths(run_timed(trace, spec, residency), excess, trace, spec)
    touched = touched if touched is not None else _touched(trace, request.arguments)
    work = Work(
        n_bytes=timing.requested_bytes,
        n_flop=timing.flop,
        energy_j=timing.energy_j,
        timing=timing,
        program=site.program,
        bound=timing.bound,
    )
    return Timed(timing, touched, work)


def _shares(touched: Sequence[Touched], arguments: Sequence[Any], residency: Residency) -> tuple[int, ...]:
    return _shares_of(_ranges(touched, arguments), residency)


def _shares_of(ranges: Ranges, residency: Residency) -> tuple[int, ...]:
    """What of SRAM's state the timing depends on: the resident share of each argument, and how much older data the rest
    of them pushes out to DRAM, as a share of what the launch touches."""
    shares = residency.fractions_of(ranges)
    missing = sum([(1.0 - share) * n_bytes for share, n_bytes in zip(shares, ranges.sizes)])
    pushed_out = residency.pressure(int(missing)) if missing else 0
    return (
        round(RESIDENCY_STEPS * pushed_out / sum(ranges.sizes)) if pushed_out else 0,
        *[round(share * RESIDENCY_STEPS) for share in shares],
    )


def _ranges(touched: Sequence[Touched], arguments: Sequence[Any]) -> Ranges:
    return Ranges(
        [(arguments[t.parameter] + t.first, arguments[t.parameter] + t.end, t.written, t.n_bytes) for t in touched]
    )


def _touch(touched: Sequence[Touched], arguments: Sequence[Any], residency: Residency) -> None:
    residency.touch_all(_ranges(touched, arguments))


def _touched(trace: Trace, arguments: Sequence[Any]) -> tuple[Touched, ...]:
    """What the launch touches through each pointer argument, relative to it, so that it holds for other addresses."""
    found = footprints(trace, [s.access for s in trace.steps if s.access is not None])
    return tuple(
        Touched(
            f.parameter, f.lo - arguments[f.parameter], f.hi - arguments[f.parameter], f.written_bytes > 0, f.n_bytes
        )
        for f in found
        if f.parameter >= 0
    )


def _with_software_paths(timing: KernelTiming, excess: Sequence[Excess], trace: Trace, spec: ChipSpec) -> KernelTiming:
    """The timing with the cost of what the chip cannot do, and a warning for each limit that says it."""
    if not excess:
        return timing
    whole, costs = limits.with_software_path(timing, excess, trace, spec)
    by_error: dict[int, tuple[MtiaError, int]] = {}
    for one, cost in zip(excess, costs, strict=True):
        by_error[id(one.error)] = (one.error, by_error.get(id(one.error), (one.error, 0))[1] + cost)
    for error, cost in by_error.values():
        share = 100 * cost / whole.makespan_fs if whole.makespan_fs else 0.0
        warnings.warn(
            f"{error} Going on in software costs {format_time(fs_to_s(cost))}, {share:.0f} % of the kernel's "
            f"{format_time(fs_to_s(whole.makespan_fs))}; the time includes it.",
            ChipLimitWarning,
            stacklevel=2,
        )
    return whole


def _misaligned(trace: Trace, request: Launch, spec: ChipSpec) -> Iterator[Excess]:
    """A DMA of this chip takes addresses that are multiples of `alignment_bytes`. Ours and Inductor's kernels get the
    bytes around them and shift in local memory, as a compiler would; a user's kernel is refused, or (MTIA_STRICT=0)
    pays for that."""
    alignment = spec.pe.dma.alignment_bytes
    program = request.program
    if alignment <= 1 or not is_user_kernel(program):
        return
    for step in trace.steps:
        a = step.access
        if a is None or a.indexed or not program.commands[step.command].operands[0].type.shape:
            continue
        bad = (np.broadcast_to(np.asarray(a.base), (trace.n_programs,)) % alignment != 0) & (np.asarray(a.n_bytes) > 0)
        if bad.any():
            error = _misaligned_error(program, step.command, a, int(bad.argmax()), trace.grid, spec)
            if knobs.get().strict:
                raise error
            yield Excess(error, step.command, "shift", a.rows * a.row_bytes, rows=a.rows)


def _misaligned_error(
    program: TileProgram, command: int, access: Access, at: int, grid: tuple[int, int, int], spec: ChipSpec
) -> MisalignedAccess:
    address = int(access.base if isinstance(access.base, int) else access.base[at])
    name = program.parameters[access.parameter].value.name if access.parameter >= 0 else "?"
    return MisalignedAccess(
        program.name,
        instance=(at % grid[0], at // grid[0] % grid[1], at // (grid[0] * grid[1])),
        line=str(program.commands[command].location),
        argument=name,
        address=address,
        alignment_bytes=spec.pe.dma.alignment_bytes,
        chip=spec.name,
    )


# --- asking for a time without launching ------------------------------------------------------------------------------


def time_program(
    program: TileProgram,
    grid: tuple[int, int, int],
    arguments: Sequence[Any],
    spec: ChipSpec | None = None,
    residency: Residency | None = None,
) -> KernelTiming:
    """Timing of a launch that does not happen: no values, no clock. Cold SRAM unless `residency` is given."""
    spec = spec if spec is not None else silicon.chip()
    site = site_of(program, spec)
    request = Launch(program=site.program, grid=grid, arguments=_plain(arguments)[1])
    trace = trace_launch(request)
    timing = run_timed(trace, spec, residency)
    return _with_software_paths(timing, site.excess, trace, spec)


def time_kernel(
    kernel: Any, grid: tuple[int, ...], arguments: Sequence[Any], constants: dict[str, Any], **options: Any
) -> float:
    """Seconds on the chip of a @triton.jit kernel for these arguments, without launching it.

    `arguments`: tensors and numbers for the non-constexpr parameters, in order. `options`: num_stages etc.
    """
    program = compile_kernel(kernel, arguments, constants, **options)
    x, y, z = (*grid, 1, 1)[:3]
    return fs_to_s(time_program(program, (x, y, z), arguments).makespan_fs)


_SIGNATURES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}
_compiled: dict[tuple, TileProgram] = {}


def compile_kernel(kernel: Any, arguments: Sequence[Any], constants: dict[str, Any], **options: Any) -> TileProgram:
    """The TileProgram of a @triton.jit kernel for these argument types and constants."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import ASTSource

    from mtia.triton_backend.compiler import ARCH, WARP_SIZE, read_binary

    rest = iter(arguments)
    signature = {name: "constexpr" if name in constants else _signature_of(next(rest)) for name in kernel.arg_names}
    key = (
        id(kernel),
        tuple(signature.items()),
        tuple(sorted(constants.items(), key=str)),
        tuple(sorted(options.items())),
    )
    if key not in _compiled:
        source = ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget("mtia", ARCH, WARP_SIZE), options=options)
        _compiled[key] = read_binary(compiled.kernel)
    return _compiled[key]


def _signature_of(argument: Any) -> str:
    if isinstance(argument, torch.Tensor):
        return "*" + _SIGNATURES[argument.dtype]
    if isinstance(argument, bool):
        return "i1"
    if isinstance(argument, int):
        return "i32" if -(1 << 31) <= argument < 1 << 31 else "i64"
    return "fp32"


__all__ = ["compile_kernel", "launch", "time_kernel", "time_program"]
