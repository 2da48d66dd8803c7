"""One pytest process of a suite. Its orders come as JSON in its one argument; answers go to standard output.

What tests print goes to standard error. Orders: pytest's arguments, tests that are done, the share of this worker.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mtia.suites.plugin import Plugin

QUIET = ("-q", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short", "--continue-on-collection-errors")


def main(orders_file: str) -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    orders = json.loads(Path(orders_file).read_text(encoding="utf-8"))
    if orders["on_path"]:
        sys.path.insert(0, orders["source"])
    plugin = Plugin(
        lambda line: print(line, file=answers),
        Path(orders["source"]),
        known=frozenset(orders["known"]),
        share=tuple(orders["share"]),
        every=orders["every"],
    )
    print(json.dumps({"ready": True}), file=answers)
    code = pytest.main([*QUIET, *orders["arguments"]], plugins=[plugin])
    print(json.dumps({"done": int(code)}), file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
