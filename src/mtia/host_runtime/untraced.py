"""Keeps Dynamo out of Python that PyTorch's C++ enters: kernels below the dispatcher, the runtime's callbacks.

After a graph break Dynamo's frame evaluator stays on while operators run eagerly. It would compile the Python that
serves them, an operator's own kernel in the worst case into a call of that operator. A code object so marked runs as it
is, and so does all that it calls; a frame pays for it only while the evaluator is on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch._C._dynamo import eval_frame


def untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, marked: Dynamo traces neither its frames nor those below them. Marks the code object, which closures
    from one definition share; what has none (a built-in) is as it was."""
    code = getattr(function, "__code__", None)
    if code is not None:
        skip = eval_frame._FrameAction.SKIP
        eval_frame.set_code_exec_strategy(code, eval_frame._FrameExecStrategy(skip, skip))
    return function


__all__ = ["untraced"]
