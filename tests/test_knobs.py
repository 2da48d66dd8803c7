from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path

import pytest

from mtia import knobs
from mtia.errors import KnobError, MtiaError
from mtia.knobs import HostFallback, Knobs, from_environment


def test_defaults():
    found = from_environment({})
    assert (found.chip, found.device_count, found.values, found.strict, found.sanitize) == (
        "mtia300",
        1,
        True,
        True,
        False,
    )
    assert found.host_fallback is HostFallback.WARN


def test_the_table_documents_every_field():
    assert [k.field for k in knobs.TABLE] == [f.name for f in fields(Knobs)]
    assert all(k.help and k.allowed for k in knobs.TABLE)


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("MTIA_CHIP", "mtia200", "chip", "mtia200"), ("MTIA_DEVICE_COUNT", "72", "device_count", 72),
        ("MTIA_VALUES", "0", "values", False), ("MTIA_STRICT", "off", "strict", False), ("MTIA_DEBUG", "2", "debug", 2),
        ("MTIA_HOST_FALLBACK", "error", "host_fallback", HostFallback.ERROR), ("MTIA_VERIFY", "1", "verify", True),
        ("MTIA_CACHE_DIR", "some/where", "cache_dir", Path("some/where")), ("MTIA_INTERPRET", "True", "interpret", True),
    ],
)  # fmt: skip
def test_each_variable_is_read(variable: str, text: str, field: str, value: object):
    assert getattr(from_environment({variable: text, "HOME": "elsewhere", "OTHER": "x"}), field) == value


def test_an_unknown_variable_is_an_error_with_a_suggestion():
    with pytest.raises(
        KnobError, match=r"MTIA_CHP: no such setting\. Known: MTIA_CHIP, .* Did you mean 'MTIA_CHIP'\?"
    ) as info:
        from_environment({"MTIA_CHP": "mtia200"})
    assert info.value.name == "MTIA_CHP"


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("MTIA_DEBUG", "9", "Write 0 to 2."), ("MTIA_DEVICE_COUNT", "0", "Write 1 to 4096."),
        ("MTIA_DEVICE_COUNT", "many", "Write 1 to 4096."), ("MTIA_VALUES", "maybe", "Write 1 or 0."),
        ("MTIA_HOST_FALLBACK", "never", "Write count, warn or error."), ("MTIA_CHIP", "", "A chip's name"),
    ],
)  # fmt: skip
def test_an_unreadable_value_says_what_is_allowed(variable: str, text: str, allowed: str):
    with pytest.raises(KnobError) as info:
        from_environment({variable: text})
    assert variable in str(info.value) and repr(text) in str(info.value) and allowed in str(info.value)
    assert isinstance(info.value, MtiaError | ValueError)


def test_scopes_nest_and_end():
    outside = knobs.get().chip
    with knobs.scope(chip="mtia200", strict=False) as inside:
        assert inside.chip == "mtia200" and knobs.get().strict is False
        with knobs.scope(chip="mtia100"):
            assert knobs.get().chip == "mtia100" and knobs.get().strict is False
        assert knobs.get().chip == "mtia200"
    assert knobs.get().chip == outside


def test_a_scope_ends_when_its_block_fails():
    outside = knobs.get()
    with pytest.raises(RuntimeError), knobs.scope(debug=2):
        raise RuntimeError
    assert knobs.get() == outside


def test_a_scope_is_not_seen_by_other_threads():
    seen: list[int] = []
    with knobs.scope(debug=2):
        thread = threading.Thread(target=lambda: seen.append(knobs.get().debug))
        thread.start()
        thread.join()
    assert seen == [from_environment({}).debug]


def test_scope_values_are_checked_like_text():
    with pytest.raises(KnobError, match="Did you mean 'chip'"), knobs.scope(chp="mtia200"):
        pass
    with pytest.raises(KnobError, match="Write 0 to 2"), knobs.scope(debug=7):
        pass


def test_update_lasts_and_reload_forgets(monkeypatch: pytest.MonkeyPatch):
    try:
        assert knobs.update(debug=2).debug == 2 == knobs.get().debug
        monkeypatch.setenv("MTIA_DEBUG", "1")
        assert knobs.reload().debug == 1
    finally:
        monkeypatch.delenv("MTIA_DEBUG", raising=False)
        knobs.reload()


def test_describe_lists_every_knob_with_its_value():
    with knobs.scope(sanitize=True):
        rows = {variable: value for variable, value, _, _ in knobs.describe()}
    assert rows["MTIA_SANITIZE"] == "1" and len(rows) == len(knobs.TABLE)
