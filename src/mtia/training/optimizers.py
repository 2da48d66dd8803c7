"""Optimizers of recommendation training that PyTorch does not bring: row-wise Adagrad, Shampoo."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from mtia.errors import BadProblem
from mtia.kernels import embedding_rows as rows


class _ByParameter(torch.optim.Optimizer):
    """A step that updates one parameter after the other, each by `_update`."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self._update(p, group)
        return loss

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} says how one parameter is updated")


class RowwiseAdagrad(_ByParameter):
    """Adagrad with one moment a row (FBGEMM's EXACT_ROWWISE_ADAGRAD): moment += mean(g^2) over the row, then
    row -= lr * g / (sqrt(moment) + eps).

    A weight with a `row_gradient` (TableBatchedEmbeddingBags on mtia) is updated by one kernel in the rows that were
    hit; a dense gradient by PyTorch's operators, with the same result, since a zero gradient changes nothing. A
    parameter of one dim has a moment per element: plain Adagrad.
    """

    def __init__(self, params: Iterable[torch.Tensor], lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(params, dict(lr=lr, eps=eps))

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = getattr(p, "row_gradient", None)
        if gradient is None and p.grad is None:
            return
        if "moment" not in self.state[p]:
            self.state[p]["moment"] = torch.zeros(p.shape[:1], dtype=torch.float32, device=p.device)
        moment = self.state[p]["moment"]
        if gradient is not None:
            rows.rowwise_adagrad_(p, moment, gradient, rate=group["lr"], eps=group["eps"])
            p.row_gradient = None  # type: ignore[attr-defined]
            return
        assert p.grad is not None
        g = p.grad.float().reshape(p.shape[0], -1)
        moment += g.square().mean(1)
        p.sub_((group["lr"] * g / (moment.sqrt() + group["eps"]).unsqueeze(1)).reshape(p.shape).to(p.dtype))

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            for p in group["params"]:
                if getattr(p, "row_gradient", None) is not None:
                    p.row_gradient = None


class Shampoo(_ByParameter):
    """Shampoo (Gupta, Koren and Singer, 2018), with the step length of Adagrad (grafting; Anil et al., 2020).

    A gradient of two or more dims is seen as a matrix [m, n]. Each side of at most `largest` keeps its statistics
    (L += G G^T, R += G^T G) and, every `every` steps, their inverse root by an eigendecomposition; a longer side is
    left as it is. The direction L^(-1/2k) G R^(-1/2k), k sides, is given the norm of Adagrad's step. A vector takes
    Adagrad's. `damping` of the largest eigenvalue is added to all.

    `roots_on`: where eigendecompositions run. "cpu" is what Meta does on MTIA 300, with a host to itself (facts 11.8):
    statistics go there and roots come back, timed as transfers; the host's own time is not modelled. "mtia": on the
    device, by Jacobi rotations.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float = 1e-2,
        *,
        eps: float = 1e-6,
        every: int = 10,
        largest: int = 256,
        damping: float = 1e-4,
        roots_on: str = "cpu",
    ) -> None:
        if every < 1:
            raise BadProblem("Shampoo", argument="every", value=every, allowed="at least 1 step")
        super().__init__(params, dict(lr=lr, eps=eps, every=every, largest=largest, damping=damping, roots_on=roots_on))

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        if p.grad is None:
            return
        state, g = self.state[p], p.grad.float()
        if not state:
            state["step"], state["squares"] = 0, torch.zeros_like(g)
        state["squares"] += g.square()
        adagrad = g / (state["squares"].sqrt() + group["eps"])
        direction = self._preconditioned(g, state, group) if p.dim() > 1 else None
        state["step"] += 1
        if direction is not None:
            length = direction.norm() + torch.finfo(torch.float32).tiny
            adagrad = direction.reshape(g.shape) * (adagrad.norm() / length)
        p.sub_((group["lr"] * adagrad).to(p.dtype))

    def _preconditioned(self, g: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> torch.Tensor:
        matrix = g.reshape(g.shape[0], -1)
        sides = [side for side in (0, 1) if matrix.shape[side] <= group["largest"]]
        for side in sides:
            facing = matrix if side == 0 else matrix.mT
            self._learn(f"side{side}", facing, state, group, 2 * len(sides))
        if 0 in sides:
            matrix = state["side0_root"] @ matrix
        if 1 in sides:
            matrix = matrix @ state["side1_root"]
        return matrix

    @staticmethod
    def _learn(side: str, g: torch.Tensor, state: dict[str, Any], group: dict[str, Any], root: int) -> None:
        if side not in state:
            state[side] = torch.zeros((g.shape[0], g.shape[0]), device=g.device)
        state[side] += g @ g.mT
        if state["step"] % group["every"] == 0:
            values, vectors = torch.linalg.eigh(state[side].to(group["roots_on"]))
            values = values.clamp(min=0) + group["damping"] * values.amax() + torch.finfo(values.dtype).tiny
            state[f"{side}_root"] = ((vectors * values.pow(-1 / root)) @ vectors.mT).to(g.device)


__all__ = ["RowwiseAdagrad", "Shampoo"]
