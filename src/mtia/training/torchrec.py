"""TorchRec on the device. Its modules are PyTorch's own operators but for what fbgemm adds; `register` serves that."""

from __future__ import annotations

import torch

_library: torch.library.Library | None = None


def register() -> None:
    """Serve fbgemm's operators that TorchRec's unsharded modules call, on mtia. Import torchrec (or fbgemm_gpu) before.

    Without it they run on the host, counted in mtia.host_fallbacks().
    """
    global _library
    if _library is None:
        library = torch.library.Library("fbgemm", "IMPL", "MTIA")
        library.impl("asynchronous_complete_cumsum", _complete_cumsum)
        _library = library


def _complete_cumsum(lengths: torch.Tensor) -> torch.Tensor:
    """Offsets [..., n + 1] of lists that are `lengths` [..., n] long: 0, then running sums."""
    return torch.nn.functional.pad(lengths.cumsum(-1, dtype=lengths.dtype), (1, 0))


__all__ = ["register"]
