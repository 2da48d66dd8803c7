"""Reads the text of a Triton module (TTIR, as `str(module)` prints it) into plain operations with regions.

MLIR's Python-visible objects do not expose dense constants or custom attributes, its text does.  The reader keeps to
what MLIR's printer guarantees: one operation a line, a region opened by a trailing `{` and closed by a leading `}`.
Source: Triton 3.9's printer; the version is pinned because the text is bound to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mtia.program.types import Element, Location, TileType

_ELEMENTS = {
    "i1": Element.I1,
    "i8": Element.I8,
    "i16": Element.I16,
    "i32": Element.I32,
    "i64": Element.I64,
    "index": Element.I64,
    "f8E4M3FN": Element.F8E4M3,
    "f8E4M3FNUZ": Element.F8E4M3,
    "f8E5M2": Element.F8E5M2,
    "f8E5M2FNUZ": Element.F8E5M2,
    "f16": Element.F16,
    "bf16": Element.BF16,
    "f32": Element.F32,
    "f64": Element.F64,
}
_SSA = re.compile(r"%[A-Za-z0-9_.$-]+(?:#\d+)?")
_LOC_SUFFIX = re.compile(r"\s+loc\((.*)\)$")
_LOC_ALIAS = re.compile(r"^(#loc\d*) = loc\((.*)\)$")


class TtirSyntaxError(ValueError):
    """The text is not what Triton 3.9 prints; carries the line."""


@dataclass(slots=True)
class TtirBlock:
    label: str = ""
    args: list[tuple[str, TileType]] = field(default_factory=list)
    ops: list[TtirOp] = field(default_factory=list)


@dataclass(slots=True)
class TtirOp:
    """One operation. `text` is what stands between the operands' op name and the types; `types` what follows ` : `."""

    name: str
    results: list[str]
    text: str
    types: str
    location: Location
    regions: list[list[TtirBlock]] = field(default_factory=list)

    @property
    def operands(self) -> list[str]:
        return _SSA.findall(self.text)

    def attribute(self, name: str) -> str | None:
        """The text of `name = value` in the attribute dictionary, or None."""
        match = re.search(rf"[{{,<(\s]{name} = ([^,}}>]+(?:<[^>]*>)?)", self.text)
        return match.group(1).strip() if match else None

    def int_attribute(self, name: str) -> int:
        value = self.attribute(name)
        if value is None:
            raise TtirSyntaxError(f"{self.name}: no attribute {name!r} in {self.text!r}")
        return int(value.split(":")[0])


@dataclass(slots=True)
class TtirFunction:
    name: str
    args: list[tuple[str, TileType, int]]  # name, type, divisibility
    blocks: list[TtirBlock]
    location: Location


def parse_type(text: str) -> TileType:
    """`tensor<64x32x!tt.ptr<bf16>>`, `!tt.ptr<f32>`, `i32`, ... as a TileType."""
    text = text.strip()
    if text.startswith("tensor<"):
        *dims, element = text[len("tensor<") : -1].split("x", _count_dims(text))
        inner = parse_type(element.split(", #")[0])
        return TileType(inner.element, tuple(int(d) for d in dims), inner.pointee)
    if text.startswith("!tt.ptr<"):
        pointee = parse_type(text[len("!tt.ptr<") : -1].split(",")[0])
        return TileType(Element.PTR, (), pointee.element)
    if text not in _ELEMENTS:
        raise TtirSyntaxError(f"type {text!r} is not one the mtia back end knows ({', '.join(_ELEMENTS)})")
    return TileType(_ELEMENTS[text])


def _count_dims(text: str) -> int:
    match = re.match(r"tensor<((?:\d+x)*)", text)
    assert match is not None
    return match.group(1).count("x")


def split_types(text: str) -> list[TileType]:
    """A comma-separated list of types, brackets respected."""
    return [parse_type(part) for part in split_top(text) if part.strip()]


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at `separator` outside (), <>, [] and {}; `->` is not a bracket."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        if c in "(<[{":
            depth += 1
        elif c in ")]}" or (c == ">" and text[i - 1] != "-"):
            depth -= 1
        elif c == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return parts


def _enclosed(text: str) -> str:
    """The text up to the parenthesis that closes the one before it."""
    depth = 1
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return text[:i]
    raise TtirSyntaxError(f"a parenthesis is not closed in {text!r}")


class _Locations:
    """Location aliases of the module, resolved to the innermost frame of the user's own code."""

    def __init__(self, lines: list[str]) -> None:
        self.aliases = {m.group(1): m.group(2) for line in lines if (m := _LOC_ALIAS.match(line))}
        self.cache: dict[str, Location] = {}

    def resolve(self, text: str, depth: int = 0) -> Location:
        if text not in self.cache:
            self.cache[text] = self._resolve(text, depth)
        return self.cache[text]

    def _resolve(self, text: str, depth: int) -> Location:
        if depth > 64:
            return Location()
        if text in self.aliases:
            return self.resolve(self.aliases[text], depth + 1)
        if match := re.match(r'^"([^"]*)":(\d+):\d+', text):
            return Location(match.group(1), int(match.group(2)))
        if match := re.match(r'^"[^"]*"\((.*)\)$', text):
            return self.resolve(match.group(1), depth + 1)
        if match := re.match(r"^callsite\((.*) at (.*)\)$", text):
            callee, caller = (self.resolve(t, depth + 1) for t in match.groups())
            return caller if not callee.file or "/triton/language/" in callee.file else callee
        if match := re.match(r"^fused(?:<[^>]*>)?\[(.*)\]$", text):
            inner = [self.resolve(t.strip(), depth + 1) for t in split_top(match.group(1))]
            return next((loc for loc in inner if loc.file), Location())
        return Location()


class _Reader:
    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.locations = _Locations(lines)
        self.lines = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self.at = 0

    def functions(self) -> Iterator[TtirFunction]:
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if line.startswith("tt.func"):
                yield self._function(line)

    def _function(self, line: str) -> TtirFunction:
        match = re.search(r"@([\w.$]+)\(", line)
        if match is None:
            raise TtirSyntaxError(f"cannot read function header {line!r}")
        args = [self._parameter(part) for part in split_top(_enclosed(line[match.end() :])) if part.strip()]
        blocks = self._region()
        _, location = self._split_location(self.lines[self.at - 1])
        return TtirFunction(match.group(1), args, blocks, location)

    def _parameter(self, text: str) -> tuple[str, TileType, int]:
        text = re.sub(r"\s+loc\(.*\)$", "", text.strip())
        name, rest = text.split(":", 1)
        divisibility = re.search(r"tt\.divisibility = (\d+)", rest)
        type_text = re.sub(r"\s*\{.*\}\s*$", "", rest)
        return name.strip(), parse_type(type_text), int(divisibility.group(1)) if divisibility else 1

    def _region(self) -> list[TtirBlock]:
        """Blocks up to the line that closes the region (left consumed at self.at - 1)."""
        blocks = [TtirBlock()]
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            if line.startswith("}"):
                return blocks if blocks[0].ops or blocks[0].args or len(blocks) == 1 else blocks[1:]
            if line.startswith("^"):
                blocks.append(self._block_header(line))
                if len(blocks) == 2 and not blocks[0].ops:
                    blocks = blocks[1:]
                continue
            blocks[-1].ops.append(self._operation(line))
        raise TtirSyntaxError("a region is not closed")

    def _block_header(self, line: str) -> TtirBlock:
        line = re.sub(r"\s*//.*$", "", line)
        match = re.match(r"^(\^\w+)(?:\((.*)\))?:$", line)
        if match is None:
            raise TtirSyntaxError(f"cannot read block header {line!r}")
        args = []
        for part in split_top(match.group(2) or ""):
            if part.strip():
                name, type_text = re.sub(r"\s+loc\(.*\)$", "", part.strip()).split(":", 1)
                args.append((name.strip(), parse_type(type_text)))
        return TtirBlock(match.group(1), args)

    def _operation(self, line: str) -> TtirOp:
        if line.endswith("{"):
            return self._operation_with_regions(line)
        body, location = self._split_location(line)
        return self._make(body, location, [])

    def _operation_with_regions(self, line: str) -> TtirOp:
        head = line[:-1].rstrip().removesuffix("(").rstrip()
        regions = [self._region()]
        closing = self.lines[self.at - 1]
        while closing.endswith("{"):  # } else {   } do {   }, {
            regions.append(self._region())
            closing = self.lines[self.at - 1]
        tail, location = self._split_location(closing)
        tail = tail.lstrip("}").strip().removeprefix(")").strip()
        return self._make(f"{head} {tail}".strip(), location, regions)

    def _split_location(self, line: str) -> tuple[str, Location]:
        match = _LOC_SUFFIX.search(line)
        if match is None:
            return line, Location()
        return line[: match.start()], self.locations.resolve(match.group(1))

    def _make(self, text: str, location: Location, regions: list[list[TtirBlock]]) -> TtirOp:
        results: list[str] = []
        if match := re.match(r"^((?:%[A-Za-z0-9_.$-]+(?::\d+)?(?:, )?)+) = ", text):
            results = _result_names(match.group(1))
            text = text[match.end() :]
        match = re.match(r'^"?([a-z_]+\.[A-Za-z_0-9.]+)"?\s*(.*)$', text)
        if match is None:
            raise TtirSyntaxError(f"cannot read operation {text!r}")
        body, types = _split_signature(match.group(2))
        return TtirOp(match.group(1), results, body, types, location, regions)


def _result_names(text: str) -> list[str]:
    names: list[str] = []
    for part in text.split(", "):
        name, _, count = part.partition(":")
        names += [f"{name}#{i}" for i in range(int(count))] if count else [name]
    return names


def _split_signature(text: str) -> tuple[str, str]:
    """Split at the last ` : ` outside brackets and quotes; `scf.for` keeps its `-> (types)` in the body."""
    if text.startswith(": "):  # an operation without operands
        return "", text[2:].strip()
    depth, quoted, found = 0, False, -1
    for i, c in enumerate(text):
        if c == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif c in "(<[{":
            depth += 1
        elif c in ")]}" or (c == ">" and text[i - 1] != "-"):
            depth -= 1
        elif c == ":" and depth == 0 and text[i - 1 : i + 2] == " : ":
            found = i
    return (text[:found].strip(), text[found + 1 :].strip()) if found >= 0 else (text.strip(), "")


def parse_module(text: str) -> list[TtirFunction]:
    """All functions of a module, the kernel first (it is the public one)."""
    return list(_Reader(text).functions())
