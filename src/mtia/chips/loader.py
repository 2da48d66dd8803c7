"""Chip files: TOML text -> ChipSpec, strictly. A file is the chip's figures, each with its source.

    name = "mtia200"
    [clock_hz]
    value = 1.35e9
    source = { kind = "published", where = "ISCA'25, Table 2" }

`base = "mtia400"` (a name, or a path beside the file) takes every figure that the file does not state from another
chip.  A per-dtype table is given whole (`value = { bf16 = 1024 }`) or entry by entry (`[pe.dpe.mac_per_cycle.bf16]`).
A part the chip lacks is written "none"; one nobody has described and nobody assumes, "unknown".
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mtia.chips.recorded import warn_of_changes
from mtia.chips.schema import DTYPES, NONE, UNKNOWN, BadValue, Leaf, Table, checked, optional_sections, unit_hint
from mtia.chips.spec import LEAVES, ChipSpec, Figure, Source, SourceKind
from mtia.errors import ChipFileError, UnknownChip, did_you_mean

DATA = Path(__file__).parent / "data"
ALIASES = Path(__file__).parent / "aliases.toml"
PLAIN_KEYS = ("name", "title", "base")
SECTIONS = optional_sections(ChipSpec)
REASON_KEY = {
    SourceKind.PUBLISHED: "where",
    SourceKind.DERIVED: "how",
    SourceKind.ASSUMED: "why",
    SourceKind.CALIBRATED: "data",
    SourceKind.CHOSEN: "why",
}
HOW_TO_WRITE = 'Write value = ... and source = { kind = "published", where = "..." }.'
KINDS = f"Kinds: {', '.join(SourceKind)}."
RANGED = (SourceKind.ASSUMED, SourceKind.CALIBRATED)


def names() -> tuple[str, ...]:
    """The chips that come with openMTIA: MTIA first, then the reference chips."""
    return tuple(sorted((p.stem for p in DATA.glob("*.toml")), key=lambda n: (not n.startswith("mtia"), n)))


@cache
def aliases() -> dict[str, str]:
    """Other names of chips ("A100"), as measured data call them: name in small letters -> name of a chip file."""
    return {name.lower(): entry["chip"] for name, entry in tomllib.loads(_read(ALIASES)).items()}


def load(chip: str | Path | ChipSpec) -> ChipSpec:
    """A chip by name ("mtia400", "MTIA 400", an alias such as "A100") or from a file. A ChipSpec is handed back as is.

    Raises UnknownChip for a name nobody knows, ChipFileError for a file that says something it may not.
    """
    if isinstance(chip, ChipSpec):
        return chip
    if isinstance(chip, Path) or chip.endswith(".toml") or "/" in chip:
        return _load_file(Path(chip).expanduser())
    return _load_named(_canonical(chip))


def _canonical(name: str) -> str:
    return "".join(name.split()).lower().replace("mtia-", "mtia")


@cache
def _load_named(name: str) -> ChipSpec:
    name = aliases().get(name, name)
    if name not in names():
        raise UnknownChip(name, known=names())
    return _load_file(DATA / f"{name}.toml")


def _load_file(path: Path, trail: tuple[Path, ...] = ()) -> ChipSpec:
    """`trail`: the files whose base this is, to notice a circle."""
    if path.resolve() in trail:
        raise ChipFileError(str(path), key="base", problem="is based on itself", value=path.name)
    text = _read(path)
    document = _parse(text, path)
    base = _base_of(document, path, (*trail, path.resolve()))
    spec = build(document, path.name, base)
    if base is not None and path.resolve().parent != DATA.resolve():
        warn_of_changes(path.name, spec.figures, base)
    return spec


def loads(text: str, *, file: str = "<text>") -> ChipSpec:
    """A chip from TOML text; `file` is what messages call it. A base is looked up by name."""
    document = _parse(text, Path(file))
    base = _base_of(document, Path(file), ())
    spec = build(document, file, base)
    if base is not None:
        warn_of_changes(file, spec.figures, base)
    return spec


def _read(path: Path) -> str:
    if not path.is_file():
        raise ChipFileError(str(path), key="", problem="there is no such file", allowed=_listed("Known", names()))
    return path.read_text(encoding="utf-8")


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ChipFileError(path.name, key="", problem=f"is not TOML: {error}") from None


def _base_of(document: Mapping[str, Any], path: Path, trail: tuple[Path, ...]) -> ChipSpec | None:
    base = document.get("base")
    if base is None:
        return None
    if not isinstance(base, str):
        raise ChipFileError(path.name, key="base", problem="is not text", value=base)
    if base.endswith(".toml"):
        return _load_file(path.parent / base, trail)
    if base not in names():
        raise ChipFileError(
            path.name,
            key="base",
            problem="unknown chip",
            value=base,
            allowed=f"{_listed('Known', names())[:-1]}, or a .toml file.{did_you_mean(base, names())}",
        )
    return _load_file(DATA / f"{base}.toml", trail)


def _listed(what: str, words: Iterable[str], near: str = "") -> str:
    """ "Known: a, b, c. Did you mean 'b'?" """
    listed = list(words)
    return f"{what}: {', '.join(listed)}.{did_you_mean(near, listed) if near else ''}"


def _example(kind: SourceKind, words: Iterable[str]) -> str:
    return f'Write source = {{ kind = "{kind.value}", {", ".join(f"{w} = ..." for w in words)} }}.'


def _or_none(section: str) -> str:
    return f'Give the section, or write {section} = "{NONE}" (or "{UNKNOWN}").'


# --- document -> figures ----------------------------------------------------------------------------------------------


def build(document: dict[str, Any], file: str, base: ChipSpec | None) -> ChipSpec:
    """A chip from what a TOML file says, read; `file` is what messages call it. Raises ChipFileError."""
    name, title = _identity(document, file, base)
    own, replaced, absent = _own_figures(document, file)
    figures = {**_inherited(base, own, replaced, absent), **own}
    figures = {key: f for key, f in figures.items() if not (f.value is None and LEAVES.get(key) is None)}
    lacking = absent | _absent_in(base, own)
    _check_complete(figures, lacking, file, base)
    spec = _assemble(ChipSpec, figures, lacking, {"name": name, "title": title, "figures": figures})
    return spec


def _identity(document: Mapping[str, Any], file: str, base: ChipSpec | None) -> tuple[str, str]:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise ChipFileError(file, key="name", problem="is missing", allowed='Write name = "mychip".')
    return name, str(document.get("title", name if base is None else f"{name} (variant of {base.title})"))


def _own_figures(document: Mapping[str, Any], file: str) -> tuple[dict[str, Figure], set[str], set[str]]:
    """The figures that this file states, the tables it gives whole, the optional sections it says the chip lacks."""
    own: dict[str, Figure] = {}
    replaced: set[str] = set()
    absent: set[str] = set()
    for key, node in document.items():
        if key in SECTIONS and node in (NONE, UNKNOWN):
            absent.add(key)
        elif key not in PLAIN_KEYS:
            for leaf_key, leaf, figure in _walk(key, node, file):
                own |= _entries(leaf_key, leaf, figure, file)
                replaced |= {leaf_key} if leaf.table and leaf_key == leaf.key else set()
    return own, replaced, absent


def _walk(key: str, node: object, file: str) -> Iterator[tuple[str, Leaf, Mapping[str, Any]]]:
    """(dotted key, leaf, figure as written) for each figure at or below `node`."""
    leaf = LEAVES.get(key) or _entry_leaf(key)
    if leaf is not None and (not isinstance(node, dict) or "value" in node or "source" in node or not leaf.table):
        yield key, leaf, _as_figure(key, node, file)
    elif not _is_section(key):
        raise _unknown_key(key, file)
    elif not isinstance(node, dict):
        raise ChipFileError(file, key=key, problem="is a section, not a figure", value=node, allowed=_members(key))
    else:
        for inner, value in node.items():
            yield from _walk(f"{key}.{inner}", value, file)


def _entry_leaf(key: str) -> Leaf | None:
    head, _, entry = key.rpartition(".")
    leaf = LEAVES.get(head)
    return leaf if leaf is not None and leaf.table and entry in DTYPES else None


def _is_section(key: str) -> bool:
    return any(k == key or k.startswith(f"{key}.") for k in LEAVES)


def _members(key: str) -> str:
    inside = sorted({k[len(key) + 1 :].split(".")[0] for k in LEAVES if k.startswith(f"{key}.")})
    return f"It holds {', '.join(inside)}."


def _unknown_key(key: str, file: str) -> ChipFileError:
    head, _, entry = key.rpartition(".")
    if head in LEAVES and LEAVES[head].table:
        return ChipFileError(file, key=key, problem="no such number format", allowed=_listed("Known", DTYPES, entry))
    hint = unit_hint(key, LEAVES) or did_you_mean(key, [*LEAVES, *PLAIN_KEYS]).strip()
    return ChipFileError(file, key=key, problem="no such figure", allowed=hint)


def _as_figure(key: str, node: object, file: str) -> Mapping[str, Any]:
    if not isinstance(node, dict) or "value" not in node:
        raise ChipFileError(
            file, key=key, problem="is a figure, so it needs a value and a source", value=node, allowed=HOW_TO_WRITE
        )
    for word in node:
        if word not in ("value", "source"):
            raise ChipFileError(
                file,
                key=f"{key}.{word}",
                problem="no such part of a figure",
                allowed=_listed("A figure has", ("value", "source"), word),
            )
    if "source" not in node:
        raise ChipFileError(file, key=key, problem="has no source", allowed=f"Write source = {{ kind = ... }}. {KINDS}")
    return node


def _entries(key: str, leaf: Leaf, written: Mapping[str, Any], file: str) -> dict[str, Figure]:
    """One Figure, or one per entry of a table that is given whole."""
    value, source = written["value"], written["source"]
    if not leaf.table or key != leaf.key:
        return {key: _figure(key, leaf, value, source, file)}
    if not isinstance(value, dict):
        raise ChipFileError(
            file,
            key=key,
            problem="is a table by number format",
            value=value,
            allowed="Write value = { bf16 = ..., fp8 = ... }.",
        )
    found = {}
    for entry, number in value.items():
        if entry not in DTYPES:
            raise _unknown_key(f"{key}.{entry}", file)
        found[f"{key}.{entry}"] = _figure(f"{key}.{entry}", leaf, number, _entry_source(source, entry), file)
    return found


def _entry_source(source: object, entry: str) -> object:
    """The source of one entry: `low` and `high` of a table may be tables too."""
    if not isinstance(source, dict):
        return source
    return {
        k: v[entry] if k in ("low", "high") and isinstance(v, dict) and entry in v else v for k, v in source.items()
    }


def _figure(key: str, leaf: Leaf, value: object, source: object, file: str) -> Figure:
    known_source = _source(key, leaf, source, file)
    if value == NONE and (leaf.optional or leaf.table):
        return Figure(value=None, source=known_source)
    try:
        number = checked(leaf, value)
    except BadValue as bad:
        raise ChipFileError(file, key=key, problem=bad.problem, allowed=bad.allowed, value=value) from None
    _check_range(key, number, known_source, file)
    return Figure(value=number, source=known_source)


def _source(key: str, leaf: Leaf, source: object, file: str) -> Source:
    if not isinstance(source, dict) or "kind" not in source:
        raise ChipFileError(file, key=key, problem="its source has no kind", value=source, allowed=KINDS)
    if source["kind"] not in tuple(SourceKind):
        raise ChipFileError(
            file,
            key=key,
            problem="unknown kind of source",
            value=source["kind"],
            allowed=KINDS + did_you_mean(str(source["kind"]), [kind.value for kind in SourceKind]),
        )
    kind = SourceKind(source["kind"])
    needed = (REASON_KEY[kind], *(("low", "high") if kind in RANGED else ()))
    _check_source_keys(key, kind, source, needed, file)
    low, high = (_bound(key, leaf, source[end], file) if end in source else None for end in ("low", "high"))
    return Source(kind=kind, text=str(source[REASON_KEY[kind]]), low=low, high=high, note=str(source.get("note", "")))


def _check_source_keys(
    key: str, kind: SourceKind, source: Mapping[str, Any], needed: tuple[str, ...], file: str
) -> None:
    if kind in RANGED and LEAVES.get(key, _entry_leaf(key)).kind is str:  # type: ignore[union-attr]
        needed = needed[:1]  # text has no range
    missing = [word for word in needed if word not in source or source[word] == ""]
    if missing:
        raise ChipFileError(
            file,
            key=key,
            problem=f"a source of kind {kind.value!r} needs {' and '.join(missing)}",
            allowed=_example(kind, needed),
        )
    allowed = {"kind", "note", "low", "high", *needed}
    for word in source:
        if word not in allowed:
            raise ChipFileError(
                file,
                key=key,
                problem=f"its source has no part {word!r}",
                allowed=_listed("Known here", sorted(allowed), word),
            )


def _bound(key: str, leaf: Leaf, bound: object, file: str) -> float:
    if not isinstance(bound, int | float):
        raise ChipFileError(
            file,
            key=key,
            problem="a bound of its range is not a number",
            value=bound,
            allowed="low and high are in the figure's own unit.",
        )
    return float(bound)


def _check_range(key: str, value: object, source: Source, file: str) -> None:
    if source.low is None or source.high is None or isinstance(value, str):
        return
    if source.low > source.high:
        raise ChipFileError(file, key=key, problem=f"low {source.low:g} is above high {source.high:g}")
    if not source.low <= float(value) <= source.high:  # type: ignore[arg-type]
        raise ChipFileError(
            file,
            key=key,
            problem="lies outside its own range",
            value=value,
            allowed=f"Its range is {source.low:g} to {source.high:g}.",
        )


# --- figures -> spec --------------------------------------------------------------------------------------------------


def _inherited(
    base: ChipSpec | None, own: Mapping[str, Figure], replaced: set[str], absent: set[str]
) -> dict[str, Figure]:
    """The base's figures that this file neither restates nor removes, marked with where they come from.

    `replaced`: tables that the file gives whole; `absent`: parts that it says the chip lacks.
    """
    if base is None:
        return {}
    kept = {key: f for key, f in base.figures.items() if key not in own and not _is_under(key, replaced | absent)}
    return {key: Figure(value=f.value, source=_from(base, f.source)) for key, f in kept.items()}


def _is_under(key: str, heads: set[str]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)


def _from(base: ChipSpec, source: Source) -> Source:
    return source if source.inherited_from else replace(source, inherited_from=base.name)


def _absent_in(base: ChipSpec | None, own: Mapping[str, Figure]) -> set[str]:
    """Sections the base lacks and this file does not add."""
    if base is None:
        return set()
    return {s for s in SECTIONS if getattr(base, s) is None and not any(k.startswith(f"{s}.") for k in own)}


def _check_complete(figures: Mapping[str, Figure], lacking: set[str], file: str, base: ChipSpec | None) -> None:
    tables = {key.rpartition(".")[0] for key in figures}
    for key, leaf in LEAVES.items():
        if not leaf.required or key in figures or key in tables or set(leaf.sections) & lacking:
            continue
        if leaf.sections and not any(k.startswith(f"{leaf.sections[0]}.") for k in figures):
            raise ChipFileError(file, key=leaf.sections[0], problem="is missing", allowed=_or_none(leaf.sections[0]))
        where = "" if base is None else f" and {base.name}, its base, has none"
        raise ChipFileError(
            file, key=key, problem=f"is missing{where}", allowed="Every figure of the schema is needed."
        )


def _assemble(
    cls: type, figures: Mapping[str, Figure], lacking: set[str], plain: dict[str, Any], prefix: str = ""
) -> Any:
    """Build one dataclass of the spec from the figures under `prefix`."""
    hints = get_type_hints(cls)
    arguments = dict(plain)
    for field in fields(cls):
        key = f"{prefix}{field.name}"
        inner = _dataclass_of(hints[field.name])
        if field.name in plain or key in lacking:
            continue
        if inner is not None:
            arguments[field.name] = _assemble(inner, figures, lacking, {}, f"{key}.")
        elif LEAVES[key].table:
            arguments[field.name] = Table(_table(figures, key))
        elif key in figures:
            arguments[field.name] = figures[key].value
    return cls(**arguments)


def _dataclass_of(hint: Any) -> type | None:
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind) and isinstance(kind, type)), None)


def _table(figures: Mapping[str, Figure], key: str) -> dict[str, Any]:
    head = f"{key}."
    return {k[len(head) :]: f.value for k, f in figures.items() if k.startswith(head) and f.value is not None}
