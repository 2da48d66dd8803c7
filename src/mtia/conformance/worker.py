"""One process of `mtia conformance`: reads units from standard input, a JSON list a line, answers with JSON lines.

Started with MTIA_HOST_FALLBACK=count. What PyTorch and kernels print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable

from mtia.conformance.journal import Entry

Answer = Callable[[list[str]], Entry]


def serve(start: Callable[[], Answer]) -> None:
    """Answer units until standard input ends. `start` imports what is needed and gives the function that answers."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing that an operator prints may look like an answer
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    answer = start()
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line)).to_json()), file=answers)


def _operators() -> Answer:
    from mtia.conformance.check import run_unit
    from mtia.conformance.units import Unit

    return lambda request: run_unit(Unit(*request))


if __name__ == "__main__":
    serve(_operators)
