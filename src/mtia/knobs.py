"""Every setting from the environment, typed, in one table. Nothing else in openMTIA reads `os.environ`.

    knobs.get().chip                       # the value in force: scope, else environment, else default
    with knobs.scope(chip="mtia200"):      # for a block of code, in this context (thread, task) only
        ...

An unknown `MTIA_*` variable is an error with a suggestion, raised when the knobs are first read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

from mtia.errors import KnobError, did_you_mean

PREFIX = "MTIA_"


class HostFallback(StrEnum):
    """What happens when an operator has no device kernel. It is counted in every case."""

    COUNT = "count"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """The settings; each field is documented in `TABLE`."""

    chip: str = "mtia300"
    device_count: int = 1
    values: bool = True
    host_fallback: HostFallback = HostFallback.WARN
    debug: int = 0
    strict: bool = True
    cache_dir: Path = Path()
    interpret: bool = False
    sanitize: bool = False
    verify: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One row of the table: the field it sets, how its text is read, and what it is for."""

    field: str
    parse: Callable[[str], object]
    allowed: str
    help: str

    @property
    def variable(self) -> str:
        return PREFIX + self.field.upper()


def _boolean(text: str) -> bool:
    return {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}[
        text.lower()
    ]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return parse


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError(text)
    return text


_YES_NO = "Write 1 or 0."
TABLE: tuple[Knob, ...] = (
    Knob(field="chip", parse=_name, allowed="A chip's name (`mtia chips`) or a chip file.",
         help="the silicon that `device=\"mtia\"` is"),
    Knob(field="device_count", parse=_integer(1, 4096), allowed="Write 1 to 4096.", help="how many devices there are"),
    Knob(field="values", parse=_boolean, allowed=_YES_NO, help="0: time only, nothing is computed"),
    Knob(field="host_fallback", parse=HostFallback, allowed="Write count, warn or error.",
         help="an operator without a device kernel: counted only, warned about once per operator, or refused"),
    Knob(field="debug", parse=_integer(0, 2), allowed="Write 0 to 2.",
         help="on stderr, 1: a line for each launch; 2: each program's text too, once"),
    Knob(field="strict", parse=_boolean, allowed=_YES_NO,
         help="1: a chip's limits are errors; 0: warnings, with the cost of the software path"),
    Knob(field="cache_dir", parse=_path, allowed="Write a folder.",
         help="compiled kernels, tilings, converted weights"),
    Knob(field="interpret", parse=_boolean, allowed=_YES_NO, help="1: kernels run in the plain interpreter"),
    Knob(field="sanitize", parse=_boolean, allowed=_YES_NO,
         help="1: check every access of every kernel (docs/sanitizer.md)"),
    Knob(field="verify", parse=_boolean, allowed=_YES_NO,
         help="1: check each TileProgram against the rules of programs, as it is first launched"),
)  # fmt: skip
_BY_FIELD = {knob.field: knob for knob in TABLE}
_BY_VARIABLE = {knob.variable: knob for knob in TABLE}


def from_environment(environ: Mapping[str, str]) -> Knobs:
    """The knobs that `environ` asks for. Raises KnobError on an unknown MTIA_* variable or an unreadable value."""
    settings: dict[str, object] = {"cache_dir": default_cache_dir(environ)}
    for variable, text in environ.items():
        if variable.startswith(PREFIX):
            knob = _known_variable(variable)
            settings[knob.field] = _parsed(knob, text)
    return Knobs(**settings)  # type: ignore[arg-type]


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """Where caches go unless MTIA_CACHE_DIR says otherwise: the user's cache folder."""
    root = environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "openmtia"


def _known_variable(variable: str) -> Knob:
    if variable not in _BY_VARIABLE:
        raise KnobError(variable, problem="no such setting", allowed=_known(variable, _BY_VARIABLE))
    return _BY_VARIABLE[variable]


def _known(word: str, words: Mapping[str, Knob]) -> str:
    return f"Known: {', '.join(words)}.{did_you_mean(word, words)}"


def _parsed(knob: Knob, text: str) -> object:
    try:
        return knob.parse(text)
    except (KeyError, ValueError):
        raise KnobError(knob.variable, problem="cannot be read", allowed=knob.allowed, value=text) from None


_environment: Knobs | None = None
_scoped: ContextVar[Knobs | None] = ContextVar("mtia_knobs", default=None)


def get() -> Knobs:
    """The knobs in force here. The environment is read once, on the first call."""
    return _scoped.get() or _from_process()


def _from_process() -> Knobs:
    global _environment
    if _environment is None:
        _environment = from_environment(os.environ)
    return _environment


def reload() -> Knobs:
    """Read the environment again (a process that changed it, tests)."""
    global _environment
    _environment = None
    knobs = _from_process()
    _tell_listeners()
    return knobs


def update(**settings: object) -> Knobs:
    """Change knobs for the rest of the process. Takes effect where no scope is open."""
    global _environment
    _environment = _changed(_from_process(), settings)
    _tell_listeners()
    return _environment


_listeners: list[Callable[[], None]] = []


def on_change(listener: Callable[[], None]) -> None:
    """Call `listener()` whenever other knobs come into force (a scope begins or ends, `update`, `reload`)."""
    _listeners.append(listener)


def _tell_listeners() -> None:
    for listener in _listeners:
        listener()


@contextmanager
def scope(**settings: object) -> Iterator[Knobs]:
    """Knobs for a block: `with scope(chip="mtia200", strict=False): ...`. Scopes nest."""
    token = _scoped.set(_changed(get(), settings))
    try:
        _tell_listeners()
        yield get()
    finally:
        _scoped.reset(token)
        _tell_listeners()


def _changed(knobs: Knobs, settings: Mapping[str, object]) -> Knobs:
    return replace(knobs, **{name: _checked(name, value) for name, value in settings.items()})


def _checked(name: str, value: object) -> object:
    """A value given in Python passes through the same reader as text, so the same limits hold."""
    if name not in _BY_FIELD:
        raise KnobError(name, problem="no such setting", allowed=_known(name, _BY_FIELD))
    return _parsed(_BY_FIELD[name], str(int(value) if isinstance(value, bool) else value))


def describe() -> list[tuple[str, str, str, str]]:
    """(variable, value in force, allowed, help) for each knob, in table order."""
    now = get()
    return [(k.variable, _text(getattr(now, k.field)), k.allowed, k.help) for k in TABLE]


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


assert {f.name for f in fields(Knobs)} == set(_BY_FIELD), "knobs.TABLE and knobs.Knobs must list the same fields"

__all__ = [
    "TABLE", "HostFallback", "Knob", "Knobs", "default_cache_dir", "describe", "from_environment", "get", "on_change",
    "reload", "scope", "update",
]  # fmt: skip
