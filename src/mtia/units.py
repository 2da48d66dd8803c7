"""Units: the constants, the clock conversions, and the one place where prefixes (us, GB/s, TFLOP/s) are written out.

A bare number carries its unit in its name (`_s _hz _bytes _bytes_per_s _flop_per_s _w _j _cycles _tokens _frac`),
unprefixed.  The engine's clock is an integer number of femtoseconds (`_fs`); only this module converts.
"""

from __future__ import annotations

from math import isfinite

KiB, MiB, GiB = 2**10, 2**20, 2**30  # capacities
KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12  # vendors' bandwidths are decimal: 204.8 GB/s = 204.8e9
FS_PER_S = 10**15


UNIT_SUFFIXES = (
    "_s", "_fs", "_hz", "_bytes", "_bytes_per_s", "_bytes_per_cycle", "_flop", "_flop_per_s", "_flop_per_cycle",
    "_mac_per_cycle", "_elements_per_cycle", "_w", "_j", "_j_per_byte", "_cycles", "_tokens", "_tokens_per_s", "_frac",
)  # fmt: skip


def ceil_div(a: int, b: int) -> int:
    """The least integer not below a / b, for positive b."""
    return -(-a // b)


def cycles_to_fs(n_cycles: int, clock_hz: float) -> int:
    """Duration of `n_cycles`, rounded up once. Convert totals: sums of rounded periods drift."""
    return ceil_div(n_cycles * FS_PER_S, int(clock_hz))


def s_to_fs(time_s: float) -> int:
    """Nearest femtosecond."""
    return round(time_s * FS_PER_S)


def fs_to_s(time_fs: int) -> float:
    return time_fs / FS_PER_S


def bytes_to_fs(n_bytes: float, bytes_per_s: float) -> int:
    """Time to move `n_bytes` at `bytes_per_s`, rounded up."""
    return -int(-n_bytes * FS_PER_S // bytes_per_s)


# --- text -------------------------------------------------------------------------------------------------------------

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"),
             (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"), (1e-15, "f"))  # fmt: skip
_BINARY = ((GiB * 1024, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB"))


def format_si(value: float, unit: str, digits: int = 3) -> str:
    """`value` with the prefix that leaves 1 to 999 before the point: format_si(2.048e11, "B/s") == "205 GB/s"."""
    if value == 0 or not isfinite(value):
        return f"{value:g} {unit}"
    size = abs(value)
    for place, (scale, prefix) in enumerate(_PREFIXES):
        if size >= scale * (1 - 0.5 * 10.0**-digits) or place == len(_PREFIXES) - 1:
            return f"{_significant(value / scale, digits)} {prefix}{unit}"
    raise AssertionError("unreachable")


def _significant(value: float, digits: int) -> str:
    """`value` to `digits` significant digits; in exponent form only where no prefix is small enough."""
    if abs(value) < 0.5:
        return f"{value:.{digits}g}"
    whole_digits = len(str(int(abs(value) + 0.5)))
    text = f"{value:.{max(0, digits - whole_digits)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_time(time_s: float, digits: int = 3) -> str:
    return format_si(time_s, "s", digits)


def format_rate(bytes_per_s: float, digits: int = 3) -> str:
    return format_si(bytes_per_s, "B/s", digits)


def format_flops(flop_per_s: float, digits: int = 3) -> str:
    return format_si(flop_per_s, "FLOP/s", digits)


def format_capacity(n_bytes: float) -> str:
    """Binary prefixes, as memories are sold inside a chip: 393216 -> "384 KiB"."""
    for scale, name in _BINARY:
        if abs(n_bytes) >= scale:
            return f"{n_bytes / scale:.4g} {name}"
    return f"{n_bytes:g} B"


__all__ = [
    "FS_PER_S", "GB", "KB", "MB", "TB", "UNIT_SUFFIXES", "GiB", "KiB", "MiB", "bytes_to_fs",
    "ceil_div", "cycles_to_fs", "format_capacity", "format_flops", "format_rate", "format_si", "format_time",
    "fs_to_s", "s_to_fs",
]  # fmt: skip
