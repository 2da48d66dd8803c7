"""Writes the tables of docs/fidelity.md: published statements about MTIA beside predictions, misses first.

python scripts/fidelity.py                   # run every statement, write the page
python scripts/fidelity.py --check           # the same, but compare: exit code 1 where the page would change
python scripts/fidelity.py fc-sram tbe-200   # run these, print them
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import torch

from mtia.errors import MtiaError
from mtia.validate.fidelity import evaluate, named, page, statements

PAGE = Path(__file__).resolve().parent.parent / "docs" / "fidelity.md"


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    names = [a for a in arguments if not a.startswith("-")]
    chosen = named(statements(), names) if names else statements()
    found = evaluate(chosen)
    if names:
        print(page.table(found))
        return 0
    if "--check" not in arguments:
        page.write(PAGE, found)
        print(page.summary(found))
        return 0
    before = page.between_marks(PAGE.read_text(encoding="utf-8"))
    after = page.made(found)
    changes = difflib.unified_diff(before.splitlines(), after.splitlines(), "committed", "now", lineterm="", n=0)
    print("\n".join(changes))
    return int(before != after)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MtiaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
