"""One process of `mtia models`: reads architectures from standard input, answers with JSON lines, as
`mtia.conformance.worker` does with operators. Inductor compiles in the process itself: every worker is one of several.
"""

from __future__ import annotations

from mtia.conformance.worker import Answer, serve


def _architectures() -> Answer:
    import torch._inductor.config as inductor

    from mtia.architectures.check import run_unit
    from mtia.architectures.result import Unit

    inductor.compile_threads = 1
    inductor.force_disable_caches = True  # the compile seconds in the table are those of a first compile
    return lambda request: run_unit(Unit(*request))


if __name__ == "__main__":
    serve(_architectures)
