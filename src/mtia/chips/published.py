"""A chip from its published figures alone: `from_published("h20", {"bf16": 148, "hbm_gbs": 4000, "sms": 78, ...})`.

Peaks are dense, in TFLOP/s by number format; `hbm_gbs`, `hbm_gib`, `l2_mib`, `sms` or `cus`, `boost_mhz`,
`tensor_clock_mhz` (the clock peaks are quoted at), `smem_kib` or `lds_kib`, `link_gbs` (one way), `tdp_w`, `mxu`
("256x256"). What is not said is taken from the reference chip most like it (`nearest`), scaled to the published
figures; what that chip has calibrated is pooled over all calibrated chips (`mtia.chips.pooled`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isqrt, log2
from typing import Any

from mtia.chips.loader import build, load, names
from mtia.chips.pooled import FEW_PES, pooled
from mtia.chips.schema import DTYPES
from mtia.chips.spec import ChipSpec, SourceKind
from mtia.errors import ChipFileError, did_you_mean
from mtia.units import GiB, KiB, MiB

WHERE = "published figures beside the data"
NUMBERS = (
    "hbm_gbs", "hbm_gib", "l2_mib", "sms", "cus", "boost_mhz", "tensor_clock_mhz", "smem_kib", "lds_kib", "regs_kib",
    "link_gbs", "tdp_w", "fp32_vector",
)  # fmt: skip
WORDS = ("link", "mxu", "note", "title", "vendor")
NOT_READ = re.compile(r"^(_|aic_)")  # comments, and what another project's file says
SAME_RATE = {"bf16": ("fp16",), "fp16": ("bf16",), "mx4": ("fp4",)}  # a format nobody quotes runs like this one
L1_BYTES = 28 * KiB  # of the combined memory of a GPU's SM that no kernel gets as shared memory
PCIE_GBS = 64  # a link that is not faster is taken for PCIe (x16, fifth generation)
LINKED_CHIPS = 8  # in a scale-up domain, where the like chip has fewer
FULL_RATE_POWER_FRAC = 0.9  # of the power limit: multiplies at full rate on the GPUs that are held by it
POWER_OF_TWO_FRAC = 0.09  # peaks are quoted at a clock up to this far below boost


class UnreadFigure(UserWarning):
    """A published figure that no part of the description uses."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One chip's published figures, checked. `peaks`: FLOP/s by number format."""

    name: str
    file: str
    peaks: Mapping[str, float]
    numbers: Mapping[str, float]
    words: Mapping[str, str] = field(default_factory=dict)

    def error(self, key: str, problem: str, *, allowed: str = "", value: object = None) -> ChipFileError:
        return ChipFileError(self.file, key=f"{self.name}.{key}", problem=problem, allowed=allowed, value=value)

    def get(self, *keys: str) -> float | None:
        return next((self.numbers[k] for k in keys if k in self.numbers), None)

    @property
    def array(self) -> int | None:
        """Edge of a systolic array: 256 of "256x256"."""
        return int(self.words["mxu"].partition("x")[0]) if "mxu" in self.words else None


def from_published(
    name: str, figures: Mapping[str, Any], *, file: str = "chips.json", without: Collection[str] = ()
) -> ChipSpec:
    """A ChipSpec from published figures; chips named in `without` lend nothing. Raises ChipFileError on a bad entry."""
    entry = read_entry(name, figures, file)
    base = nearest(entry, without={*without, name})
    spec = build(_document(entry, base), file, base)
    return pooled(spec, without=without)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_entry(name: str, figures: Mapping[str, Any], file: str = "chips.json") -> Entry:
    """The entry's figures, checked. Raises ChipFileError that names entry and key; warns of keys nobody reads."""
    peaks: dict[str, float] = {}
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    for key, value in figures.items():
        if key in DTYPES:
            peaks[key] = _positive(name, file, key, value) * 1e12
        elif key in NUMBERS:
            numbers[key] = _positive(name, file, key, value)
        elif key in WORDS:
            words[key] = str(value)
        elif not NOT_READ.match(key):
            _warn_unread(name, file, key)
    entry = Entry(name=name, file=file, peaks=peaks, numbers=numbers, words=words)
    _check(entry)
    return entry


def _positive(name: str, file: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ChipFileError(file, key=f"{name}.{key}", problem="is not a number above 0", value=value,
                            allowed="Leave a figure out that is not known.")  # fmt: skip
    return float(value)


def _warn_unread(name: str, file: str, key: str) -> None:
    known = (*DTYPES, *NUMBERS, *WORDS)
    hint = did_you_mean(key, known)
    warnings.warn(f"{file}: {name}.{key} is not a figure that is used.{hint}", UnreadFigure, stacklevel=4)


def _check(entry: Entry) -> None:
    if not any(d in entry.peaks for d in ("bf16", "fp16")):
        raise entry.error("bf16", "is missing, and so is fp16", allowed="Give the dense peak in TFLOP/s.")
    if "hbm_gbs" not in entry.numbers:
        raise entry.error("hbm_gbs", "is missing", allowed="Give the memory bandwidth in GB/s.")
    if "mxu" in entry.words and not re.fullmatch(r"\d+x\d+", entry.words["mxu"]):
        raise entry.error("mxu", "is not the size of an array", allowed='Write "256x256".', value=entry.words["mxu"])


# --- the reference chip most like it ----------------------------------------------------------------------------------


def nearest(entry: Entry, *, without: Collection[str] = ()) -> ChipSpec:
    """The reference chip whose PEs are most like those described: multiplies a cycle and PE, clock, cache a PE."""
    known = [load(n) for n in names() if n not in without]
    references = [c for c in known if c.info.generation == 0]
    chips = [c for c in references if _same_kind(entry, c)] or references
    return min(chips, key=lambda chip: (_distance(entry, chip), chip.name))


def _same_kind(entry: Entry, chip: ChipSpec) -> bool:
    """Systolic arrays are few and large: they say nothing of chips with many PEs."""
    return (entry.array is not None) == (chip.grid.n_pes < FEW_PES)


def _distance(entry: Entry, chip: ChipSpec) -> float:
    """Squared octaves apart, over what the entry says; a number format only one of them has counts one, the kind of PE
    four."""
    n_pes, clock = _n_pes(entry, chip), _clock_hz(entry, chip)
    pairs = [
        (_peak(entry) / n_pes / _tensor_clock_hz(entry, chip) / 2, float(_mac(chip))),
        (clock**2, chip.clock_hz**2),
        (entry.numbers["hbm_gbs"] * 1e9 / n_pes, chip.dram.bytes_per_s / chip.grid.n_pes),
    ]
    if l2 := entry.get("l2_mib"):
        pairs.append(((l2 * MiB / n_pes) ** 0.5, (chip.sram.capacity_bytes / chip.grid.n_pes) ** 0.5))
    narrow = ("fp8", "fp4")
    formats = {d for d in narrow if d in entry.peaks} ^ {d for d in narrow if d in chip.pe.dpe.mac_per_cycle}
    other_unit = ("cus" in entry.numbers) != (chip.info.vendor == "AMD")  # who else counts in compute units
    return sum(log2(a / b) ** 2 for a, b in pairs) + len(formats) + 4 * other_unit


def _peak(entry: Entry) -> float:
    return entry.peaks.get("bf16") or entry.peaks["fp16"]


def _mac(chip: ChipSpec) -> int:
    return int(chip.pe.dpe.mac_per_cycle["bf16"])


def _n_pes(entry: Entry, like: ChipSpec) -> int:
    """As published; else as many PEs of the like chip's rate as the peak needs, systolic arrays in powers of two."""
    if found := entry.get("sms", "cus"):
        return round(found)
    mhz = entry.get("tensor_clock_mhz", "boost_mhz")
    needed = _peak(entry) / (2 * (mhz * 1e6 if mhz else like.clock_hz))
    return max(1, 2 ** round(log2(needed / entry.array**2)) if entry.array else round(needed / _mac(like)))


def _clock_hz(entry: Entry, like: ChipSpec) -> float:
    """Boost clock; where none is published, that at which whole systolic arrays give the peak, or the like chip's."""
    if mhz := entry.get("boost_mhz", "tensor_clock_mhz"):
        return mhz * 1e6
    return _peak(entry) / (2 * entry.array**2 * _n_pes(entry, like)) if entry.array else like.clock_hz


def _tensor_clock_hz(entry: Entry, like: ChipSpec) -> float:
    mhz = entry.get("tensor_clock_mhz", "boost_mhz")
    return mhz * 1e6 if mhz else _clock_hz(entry, like)


# --- the chip file that the entry amounts to --------------------------------------------------------------------------


def _published(value: object, key: str) -> dict[str, Any]:
    return {"value": value, "source": {"kind": "published", "where": f"{WHERE}: {key}"}}


def _derived(value: object, how: str) -> dict[str, Any]:
    return {"value": value, "source": {"kind": "derived", "how": how}}


def _assumed(value: float, why: str, spread: float = 1.5) -> dict[str, Any]:
    return {"value": value, "source": {"kind": "assumed", "low": value / spread, "high": value * spread, "why": why}}


def _document(entry: Entry, base: ChipSpec) -> dict[str, Any]:
    """The TOML document of the chip: what is published, and what scales with it."""
    flat: dict[str, dict[str, Any]] = {}
    for part in (_grid, _multiply, _memory, _paths, _power, _links):
        flat |= part(entry, base)
    title = entry.words.get("title", f"{entry.name} (from published figures, else as {base.name})")
    return {"name": entry.name, "title": title, **_nested(flat)}


def _nested(flat: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, figure in flat.items():
        at = document
        *sections, last = key.split(".")
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = figure
    return document


def _grid(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    n = _n_pes(entry, base)
    rows = next(r for r in range(isqrt(n), 0, -1) if n % r == 0)
    how = f"{n} PEs as {rows} x {n // rows}" + ("" if entry.get("sms", "cus") else f", at the rate of {base.name}'s")
    out = {"grid.rows": _derived(rows, how), "grid.cols": _derived(n // rows, how)}
    if mhz := entry.get("boost_mhz", "tensor_clock_mhz"):
        out["clock_hz"] = _published(mhz * 1e6, "boost_mhz" if entry.get("boost_mhz") else "tensor_clock_mhz")
    elif entry.array:
        out["clock_hz"] = _derived(
            _clock_hz(entry, base), f"published peak / (2 x {n} arrays of {entry.array} squared)"
        )
    return out


def _multiply(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    n, clock = _n_pes(entry, base), _tensor_clock_hz(entry, base)
    peaks = dict(entry.peaks)
    for dtype, others in SAME_RATE.items():
        peaks.setdefault(dtype, next((peaks[o] for o in others if o in peaks), 0.0))
    rates = {d: _mac_per_cycle(peak / (2 * n * clock)) for d, peak in peaks.items() if peak > 0}
    how = f"published peaks / (2 x {n} PEs x {clock / 1e6:g} MHz), to the next power of two where it is near"
    out = {"pe.dpe.mac_per_cycle": _derived(rates, how)}
    if entry.array:
        out["pe.dpe.block_n"] = _published(entry.array, "mxu")
        out["pe.dpe.block_k_bytes"] = _derived(2 * entry.array, "elements of 2 B over the edge of the array")
    if vector := entry.get("fp32_vector"):
        lanes = max(1, round(vector * 1e12 / (2 * n * _clock_hz(entry, base))))
        cores = base.pe.cores.vector_cores
        out["pe.cores.vector_bytes_per_cycle"] = _derived(max(4, 4 * lanes // cores), f"{lanes} FP32 lanes a PE")
    return out


def _mac_per_cycle(rate: float) -> int:
    """Engines do powers of two; a peak quoted below the boost clock gives a little less."""
    whole = 2 ** round(log2(rate)) if rate >= 1 else 1
    return whole if abs(rate / whole - 1) <= POWER_OF_TWO_FRAC else max(1, round(rate))


def _memory(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    out = {"dram.bytes_per_s": _published(entry.numbers["hbm_gbs"] * 1e9, "hbm_gbs")}
    if gib := entry.get("hbm_gib"):
        out["dram.capacity_bytes"] = _published(round(gib * GiB), "hbm_gib")
    if l2 := entry.get("l2_mib"):
        out["sram.capacity_bytes"] = _published(round(l2 * MiB), "l2_mib")
    if smem := entry.get("smem_kib"):
        out["pe.local_memory_bytes"] = _derived(round(smem * KiB) - (L1_BYTES if smem >= 128 else 0),
                                                "smem_kib, less what the L1 cache keeps")  # fmt: skip
    elif lds := entry.get("lds_kib"):
        out["pe.local_memory_bytes"] = _published(round(lds * KiB), "lds_kib")
    return out


def _paths(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    """Rates inside the chip: the like chip's bytes a cycle."""
    clock = _clock_hz(entry, base)
    scale = _n_pes(entry, base) * clock / (base.grid.n_pes * base.clock_hz)
    port = base.noc.pe_bytes_per_s / base.clock_hz
    why = f"as {base.name}'s"
    return {
        "sram.bytes_per_s": _scaled(base, "sram.bytes_per_s", scale, f"{why} bytes a cycle and PE"),
        "noc.pe_bytes_per_s": _assumed(port * clock, f"{why} {port:g} bytes a cycle"),
    }


def _scaled(base: ChipSpec, key: str, scale: float, why: str) -> dict[str, Any]:
    """The base's figure times `scale`; marked calibrated where the base has calibrated it, so that it gets pooled."""
    figure = base.figures[key]
    value = float(figure.value) * scale  # type: ignore[arg-type]
    if figure.source.kind is not SourceKind.CALIBRATED:
        return _assumed(value, why)
    low, high = (float(end or 0.0) * scale for end in (figure.source.low, figure.source.high))
    return {"value": value, "source": {"kind": "calibrated", "low": low, "high": high, "data": figure.source.text}}


def _power(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    """The like chip's shares of the power limit, and its energy per multiply."""
    out = _energies(entry, base)
    if tdp := entry.get("tdp_w"):
        share = f"the share of the limit that {base.name} takes"
        out["power.tdp_w"] = _published(tdp, "tdp_w")
        out["power.idle_w"] = _assumed(tdp * base.power.idle_w / base.power.tdp_w, share)
        out["power.typical_w"] = _assumed(tdp * base.power.typical_w / base.power.tdp_w, share, 1.01)
    return out


def _energies(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    """Energy per multiply as the like chip, or less: multiplies at full rate are taken to fit FULL_RATE_POWER_FRAC of
    the limit. A format that the like chip lacks spends in proportion to its time."""
    tdp = entry.get("tdp_w") or base.power.tdp_w
    rates: dict[str, int] = _multiply(entry, base)["pe.dpe.mac_per_cycle"]["value"]
    per_s = rates["bf16"] * _n_pes(entry, base) * _clock_hz(entry, base)
    scale = min(1.0, FULL_RATE_POWER_FRAC * tdp / per_s / base.power.mac_j["bf16"])
    why = f"as {base.name}, within the power limit at full rate"
    out = {f"power.mac_j.{d}": _scaled(base, f"power.mac_j.{d}", scale, why) for d in base.power.mac_j}
    for dtype in (d for d in rates if d not in base.power.mac_j):
        of_bf16 = rates["bf16"] / rates[dtype]
        out[f"power.mac_j.{dtype}"] = _scaled(base, "power.mac_j.bf16", scale * of_bf16, "as bf16, by time")
    return out


def _links(entry: Entry, base: ChipSpec) -> dict[str, dict[str, Any]]:
    link = entry.get("link_gbs")
    if not link or base.scale_up is None:
        return {}
    rate = {"scale_up.bytes_per_s": _published(link * 1e9, "link_gbs")}
    if "pcie" in entry.words.get("link", "").lower() or link <= PCIE_GBS:
        return rate | _pcie()
    alone = base.scale_up.topology == "host" or base.scale_up.domain_chips < LINKED_CHIPS
    return rate | (_switched() if alone else {})


def _switched() -> dict[str, dict[str, Any]]:
    """Links of their own where the like chip has none: all chips behind a switch."""
    why = "links faster than PCIe; as the linked reference chips"
    chips = {"value": LINKED_CHIPS, "source": {"kind": "assumed", "low": 4, "high": 72, "why": why}}
    return {
        "scale_up.topology": _derived("switch", why),
        "scale_up.efficiency_frac": _assumed(0.79, why, 1.15),
        "scale_up.domain_chips": chips,
    }


def _pcie() -> dict[str, dict[str, Any]]:
    """Cards of one server without links of their own: pairs below a switch, the pairs joined by the host."""
    why = "cards over PCIe, as those of the reference chips; depends on the server"
    return {
        "scale_up.topology": _derived("host", "link: PCIe"),
        "scale_up.multicast": _derived(False, "link: PCIe"),
        "scale_up.efficiency_frac": _assumed(0.64, why, 1.3),
        "scale_up.group_chips": {"value": 2, "source": {"kind": "assumed", "low": 1, "high": 8, "why": why}},
        "scale_up.bridge_bytes_per_s": _assumed(1.1e10, why, 3.0),
    }


__all__ = ["Entry", "UnreadFigure", "from_published", "nearest", "read_entry"]
