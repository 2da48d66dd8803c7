"""One process of `mtia conformance`: reads units from standard input, a JSON list a line, answers with JSON lines.

Started with MTIA_HOST_FALLBACK=count. What PyTorch and kernels print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing that an operator prints may look like an answer
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from mtia.conformance.check import run_unit
    from mtia.conformance.units import Unit

    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        result = run_unit(Unit(*json.loads(line)))
        print(json.dumps(result.to_json()), file=answers)


if __name__ == "__main__":
    main()
