"""One class per kind of failure a user can cause, with fields, so that nobody parses text.

A message names what was being built, the value, the limit or the allowed values, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class MtiaError(Exception):
    """Base of every error that openMTIA raises on purpose. Pickles with its fields, so workers can hand it back."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(cls: type[MtiaError], args: tuple[Any, ...], fields: dict[str, Any]) -> MtiaError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean 'mtia200'?" for the nearest known word, or nothing."""
    words = list(known)
    near = [w for w in words if word and w.startswith(word)] or get_close_matches(word, words, n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


# --- chips and settings -----------------------------------------------------------------------------------------------


class UnknownChip(MtiaError, ValueError):
    def __init__(self, name: str, *, known: Sequence[str]) -> None:
        super().__init__(
            f"unknown chip {name!r}; known: {', '.join(known)}, or the path of a chip file (.toml)."
            f"{did_you_mean(name, known)}"
        )
        self.name, self.known = name, tuple(known)


class ChipFileError(MtiaError, ValueError):
    """A chip file says something it may not. `key` is the dotted key, "" for the file as a whole."""

    def __init__(self, file: str, *, key: str, problem: str, allowed: str = "", value: object = None) -> None:
        where = f"{file}: {key}" if key else file
        said = "" if value is None else f" (got {value!r})"
        super().__init__(f"{where}: {problem}{said}.{' ' + allowed if allowed else ''}")
        self.file, self.key, self.problem, self.allowed, self.value = file, key, problem, allowed, value


class KnobError(MtiaError, ValueError):
    """A setting that does not exist, or a value it cannot take."""

    def __init__(self, name: str, *, problem: str, allowed: str = "", value: object = None) -> None:
        said = "" if value is None else f" (got {value!r})"
        super().__init__(f"{name}: {problem}{said}.{' ' + allowed if allowed else ''}")
        self.name, self.problem, self.allowed, self.value = name, problem, allowed, value


class BadProblem(MtiaError, ValueError):
    """An operator was described with a size, place or name that makes no sense."""

    def __init__(self, what: str, *, argument: str, value: object, allowed: str) -> None:
        super().__init__(f"{what}: {argument} = {value!r}; {allowed}.")
        self.what, self.argument, self.value, self.allowed = what, argument, value, allowed


# --- what a kernel asks that the chip has not -------------------------------------------------------------------------


class UnsupportedDtype(MtiaError, TypeError):
    """`since` names the first chip or generation that has it, "" when none does; `software`: the way without a unit and
    what it costs."""

    def __init__(
        self, what: str, *, chip: str, dtype: str, supported: Sequence[str], since: str = "", software: str = ""
    ) -> None:
        has_it = f" {dtype} is supported since {since}." if since else ""
        has_it += f" {software}" if software else ""
        super().__init__(
            f"{what}: {chip} has no {dtype}; it supports {', '.join(supported) or 'none'}.{has_it} "
            f"Cast the operands, or choose another chip (MTIA_CHIP, mtia.use)."
        )
        self.what, self.chip, self.dtype, self.supported, self.since = what, chip, dtype, tuple(supported), since
        self.software = software


class UnsupportedOperation(MtiaError, NotImplementedError):
    """An operation the compiler does not lower (yet); `instead` says what works."""

    def __init__(self, op: str, *, kernel: str, line: str, instead: str = "", detail: str = "") -> None:
        why = f" ({detail})" if detail else ""
        super().__init__(
            f"{line}: kernel {kernel!r} uses {op!r}{why}, which the mtia back end does not lower."
            f"{' ' + instead if instead else ''}"
        )
        self.op, self.kernel, self.line, self.instead, self.detail = op, kernel, line, instead, detail


class OutOfLocalMemory(MtiaError):
    def __init__(self, program: str, *, needed_bytes: int, limit_bytes: int, largest: str) -> None:
        super().__init__(
            f"{program}: circular buffers need {needed_bytes:,} bytes of local memory, the PE has "
            f"{limit_bytes:,}; the largest is {largest!r}. Use a smaller tile or fewer slots."
        )
        self.program, self.needed_bytes, self.limit_bytes, self.largest = program, needed_bytes, limit_bytes, largest


class TooManyCircularBuffers(MtiaError):
    def __init__(self, program: str, *, needed: int, limit: int, source: str = "") -> None:
        per = f" ({source})" if source else ""
        super().__init__(
            f"{program}: needs {needed} circular buffers, a PE has {limit}{per}. Split the kernel, or "
            f"load fewer tensors at a time; MTIA_STRICT=0 goes on with a warning."
        )
        self.program, self.needed, self.limit, self.source = program, needed, limit, source


class MisalignedAccess(MtiaError):
    def __init__(
        self,
        kernel: str,
        *,
        instance: Sequence[int],
        line: str,
        argument: str,
        address: int,
        alignment_bytes: int,
        chip: str = "",
        report: str = "",
    ) -> None:
        who = chip or "this chip"
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: address {address:#x} of "
            f"{argument!r} is not a multiple of {alignment_bytes} bytes, which a DMA of {who} needs. Pad "
            f"rows to {alignment_bytes} bytes; MTIA_STRICT=0 goes on with a warning.{_below(report)}"
        )
        self.kernel, self.instance, self.line, self.argument = kernel, tuple(instance), line, argument
        self.address, self.alignment_bytes, self.chip = address, alignment_bytes, chip


class OutOfBoundsAccess(MtiaError, IndexError):
    """`offset_bytes` from the start of the allocation that the argument points into (or of the view, where the access
    stays in the allocation and leaves the view); negative is before it."""

    def __init__(
        self,
        kernel: str,
        *,
        instance: Sequence[int],
        line: str,
        argument: str,
        address: int,
        offset_bytes: int,
        allocation_bytes: int,
        access: str = "load",
        bounds: str = "allocation",
        report: str = "",
    ) -> None:
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: {access} at {address:#x}, "
            f"offset {offset_bytes:,} bytes of {argument!r}, whose {bounds} has {allocation_bytes:,} "
            f"bytes. Mask the access, or check the strides and the grid.{_below(report)}"
        )
        self.kernel, self.instance, self.line = kernel, tuple(instance), line
        self.argument, self.access = argument, access
        self.address, self.offset_bytes, self.allocation_bytes = address, offset_bytes, allocation_bytes


class UnalignedElement(MtiaError):
    """An element that does not lie at a multiple of its own size (found under MTIA_SANITIZE)."""

    def __init__(
        self, kernel: str, *, instance: Sequence[int], line: str, argument: str, address: int, element_bytes: int,
        access: str, report: str = "",
    ) -> None:  # fmt: skip
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: misaligned {access} at {address:#x} of "
            f"{argument!r}: an element of {element_bytes} bytes lies at a multiple of {element_bytes}. Check the "
            f"pointer arithmetic, and casts of the pointer to a wider type.{_below(report)}"
        )
        self.kernel, self.instance, self.line, self.argument = kernel, tuple(instance), line, argument
        self.address, self.element_bytes, self.access = address, element_bytes, access


class UninitializedRead(MtiaError):
    """A kernel reads bytes that nothing has written since they were allocated (found under MTIA_SANITIZE)."""

    def __init__(
        self, kernel: str, *, instance: Sequence[int], line: str, argument: str, address: int, offset_bytes: int,
        access: str, report: str = "",
    ) -> None:  # fmt: skip
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: {access} of uninitialised memory at "
            f"{address:#x}, offset {offset_bytes:,} bytes of {argument!r}: neither a kernel nor a copy has written it. "
            f"Fill the tensor (torch.zeros), or mask what the writer left out.{_below(report)}"
        )
        self.kernel, self.instance, self.line, self.argument = kernel, tuple(instance), line, argument
        self.address, self.offset_bytes, self.access = address, offset_bytes, access


class RaceBetweenInstances(MtiaError):
    """Two program instances of one launch touch one byte, one of them changes it, not both by atomics, and no atomics
    order them."""

    def __init__(
        self, kernel: str, *, instance: Sequence[int], other: Sequence[int], line: str, other_line: str, argument: str,
        address: int, offset_bytes: int, access: str, other_access: str, report: str = "",
    ) -> None:  # fmt: skip
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: {access} at {address:#x}, offset "
            f"{offset_bytes:,} bytes of {argument!r}, races with the {other_access} of program instance {tuple(other)} "
            f"at {other_line}: instances run in any order, and no atomics order these two. Give each instance bytes of "
            f"its own, use tl.atomic_* for both, or split the kernel in two launches.{_below(report)}"
        )
        self.kernel, self.instance, self.other, self.line = kernel, tuple(instance), tuple(other), line
        self.other_line, self.argument, self.address, self.offset_bytes = other_line, argument, address, offset_bytes
        self.access, self.other_access = access, other_access


class UseAfterFree(MtiaError):
    """A kernel reaches memory through a pointer whose tensor is gone (found under MTIA_SANITIZE)."""

    def __init__(
        self, kernel: str, *, instance: Sequence[int], line: str, argument: str, address: int, access: str,
        report: str = "",
    ) -> None:  # fmt: skip
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: {access} at {address:#x} of {argument!r}, "
            f"use after free: the tensor that owned this memory is gone. Keep it alive as long as its address is used "
            f"(raw pointers, and graphs that are replayed).{_below(report)}"
        )
        self.kernel, self.instance, self.line, self.argument = kernel, tuple(instance), line, argument
        self.address, self.access = address, access


def _below(report: str) -> str:
    """The sanitizer's report of a tensor and its allocation, on lines of their own."""
    return f"\n{report}" if report else ""


class KernelAssertion(MtiaError, AssertionError):
    """A `tl.device_assert` failed."""

    def __init__(self, kernel: str, *, instance: Sequence[int], line: str, message: str) -> None:
        super().__init__(
            f"{line}: kernel {kernel!r}, program instance {tuple(instance)}: device assertion failed: {message}"
        )
        self.kernel, self.instance, self.line, self.message = kernel, tuple(instance), line, message


class ProgramError(MtiaError):
    """A TileProgram that breaks its own rules (found by the verifier)."""

    def __init__(self, program: str, *, command: int, problem: str) -> None:
        super().__init__(
            f"{program}: command {command}: {problem}. This is a bug in the producer of the program; run "
            f"with MTIA_DEBUG=2 to see its text."
        )
        self.program, self.command, self.problem = program, command, problem


class Deadlock(MtiaError):
    """No engine can go on. `waits` says who waits for what, one line each."""

    def __init__(self, program: str, *, at_s: float, waits: Sequence[str]) -> None:
        super().__init__(f"{program}: deadlock at {at_s * 1e6:.3f} us: {'; '.join(waits)}")
        self.program, self.at_s, self.waits = program, at_s, tuple(waits)


# --- run time ---------------------------------------------------------------------------------------------------------


class UninitializedError(MtiaError, RuntimeError):
    """Something was used before it was set up, or its native library was not built."""

    def __init__(self, what: str, *, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.what, self.remedy = what, remedy


class HostFallbackRefused(MtiaError, RuntimeError):
    def __init__(self, op: str, *, dtypes: Sequence[str] = ()) -> None:
        on = f" on {', '.join(dtypes)}" if dtypes else ""
        super().__init__(
            f"{op}{on} has no mtia kernel, and MTIA_HOST_FALLBACK=error refuses to compute it on the "
            f"host. Set MTIA_HOST_FALLBACK=warn to allow it (counted in mtia.host_fallbacks())."
        )
        self.op, self.dtypes = op, tuple(dtypes)


__all__ = [
    "BadProblem", "ChipFileError", "Deadlock", "HostFallbackRefused", "KernelAssertion", "KnobError",
    "MisalignedAccess", "MtiaError", "OutOfBoundsAccess", "OutOfLocalMemory", "ProgramError", "RaceBetweenInstances",
    "TooManyCircularBuffers", "UnalignedElement", "UninitializedError", "UninitializedRead", "UnknownChip",
    "UnsupportedDtype", "UnsupportedOperation", "UseAfterFree", "did_you_mean",
]  # fmt: skip
