"""docs/sanitizer.md: every wrong program raises the error below it, and its fix runs."""

import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from mtia import errors, knobs

PAGE = Path(__file__).parents[2] / "docs" / "sanitizer.md"
SECTIONS = PAGE.read_text().split("\n## ")
PRELUDE = re.findall(r"```python\n(.*?)```", SECTIONS[0], re.DOTALL)[0]
MISTAKES = {section.splitlines()[0]: section for section in SECTIONS[1:]}


def run(program, file):
    file.write_text(PRELUDE + program)  # Triton reads a kernel's source from its file
    loader = SourceFileLoader(file.stem, str(file))
    spec = spec_from_loader(file.stem, loader)
    assert spec is not None
    with knobs.scope(sanitize=True):
        loader.exec_module(module_from_spec(spec))


@pytest.mark.parametrize("title", MISTAKES)
def test_the_mistake_is_named_and_the_fix_runs(title, tmp_path):
    wrong, right = re.findall(r"```python\n(.*?)```", MISTAKES[title], re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", MISTAKES[title], re.DOTALL)
    name, _, text = shown.strip().partition(": ")
    with pytest.raises(getattr(errors, name)) as caught:
        run(wrong, tmp_path / "wrong.py")
    words = re.escape(" ".join(text.split())).replace(r"\.\.\.", ".*")
    assert re.fullmatch(words, " ".join(str(caught.value).split()))
    run(right, tmp_path / "right.py")
