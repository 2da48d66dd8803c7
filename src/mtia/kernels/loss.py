"""Losses whose kernels PyTorch asks of a device: negative log likelihood and mean squared error."""

from __future__ import annotations

import torch

from mtia.kernels.copy import contiguous, fill
from mtia.kernels.dtypes import compute_dtype
from mtia.kernels.elementwise import Emitter, Operation, define, launch
from mtia.kernels.iteration import broadcast_shape
from mtia.kernels.pointwise import Rule, prepare_out, rule_dtype
from mtia.kernels.reduce import reduce
from mtia.kernels.registry import aten

NONE, MEAN, SUM = 0, 1, 2


def _class_lines(k: Emitter) -> list[str]:
    lines = [f"t = {k.load('target', cast='tl.int64')}", "valid = mask & (t != ignored)", "t = tl.where(valid, t, 0)"]
    if "weight" in k.layouts:
        return [*lines, "w = tl.load(weight_ptr + t, mask=valid, other=0.0).to(tl.float32)"]
    return [*lines, "w = valid.to(tl.float32)"]


def _forward(k: Emitter) -> list[str]:
    return [
        *_class_lines(k),
        f"x = tl.load({k.pointer('x')} + t * stride, mask=valid, other=0.0).to(tl.float32)",
        k.store("out", "tl.where(valid, -x * w, 0.0)"),
        k.store("used", "w"),
    ]


def _backward(k: Emitter) -> list[str]:
    total = ["g = tl.where(total_ == 0, 0.0, g / total_)"] if "total" in k.layouts else []
    load = [f"total_ = {k.load('total', cast='tl.float32')}"] if total else []
    return [
        *_class_lines(k),
        f"g = {k.load('grad', cast='tl.float32')}",
        *load,
        *total,
        f"tl.store({k.pointer('out')} + t * stride, (-g * w).to({k.names['out']}), mask=valid)",
    ]


_F = dict(scalars=("stride", "ignored"), body=_forward, outputs=("out", "used"))
_B = dict(scalars=("stride", "ignored"), body=_backward)
NLL = define(Operation("nll", ("x", "target"), **_F))
NLL_WEIGHTED = define(Operation("nll_weighted", ("x", "target", "weight"), **_F))
NLL_BACKWARD = {
    (weighted, mean): define(
        Operation(
            f"nll_backward{'_weighted' * weighted}{'_mean' * mean}",
            ("target", "grad", *(("weight",) if weighted else ()), *(("total",) if mean else ())),
            **_B,
        )
    )
    for weighted in (False, True)
    for mean in (False, True)
}


def _class_base(x: torch.Tensor) -> torch.Tensor:
    """[R] view of the first class's column: an operand whose address lacks only the class's share."""
    return x.select(-1, 0).reshape(-1) if x.dim() == 1 else x.select(1, 0)


def _one(weight: torch.Tensor) -> torch.Tensor:
    return contiguous(weight)[:1]


@aten("nll_loss_forward.output")
def nll_loss_forward_out(
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    *,
    output: torch.Tensor,
    total_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = x.unsqueeze(0) if x.dim() == 1 else x
    targets = target.reshape(-1)
    n = targets.numel()
    kind = compute_dtype(x.dtype)
    losses = torch.empty((n,), dtype=kind, device=x.device)
    used = torch.empty((n,), dtype=kind, device=x.device)
    inputs = (_class_base(rows), targets) + (() if weight is None else (_one(weight),))
    launch(
        NLL if weight is None else NLL_WEIGHTED,
        (losses, used),
        inputs,
        (rows.stride(1), ignore_index),
        compute=torch.int64,
    )
    total_weight.resize_(())
    if reduction == NONE and x.dim() == 2:
        output.resize_((n,)).copy_(losses)
        fill(total_weight, 0)
        return output, total_weight
    output.resize_(())
    whole = torch.empty((), dtype=kind, device=x.device)
    reduce("sum", losses, 0, whole)
    weights = torch.empty((), dtype=kind, device=x.device)
    reduce("sum", used, 0, weights)
    output.copy_(whole / weights if reduction == MEAN else whole)
    total_weight.copy_(weights)
    return output, total_weight


@aten("nll_loss_backward.grad_input")
def nll_loss_backward_out(
    grad: torch.Tensor,
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
    *,
    grad_input: torch.Tensor,
) -> torch.Tensor:
    if grad_input.shape != x.shape:
        grad_input.resize_(x.shape)
    fill(grad_input, 0)
    rows = grad_input.unsqueeze(0) if x.dim() == 1 else grad_input
    targets = target.reshape(-1)
    if targets.numel() == 0:
        return grad_input
    mean = reduction == MEAN
    inputs = (
        targets,
        grad.reshape(-1).expand(targets.shape) if grad.numel() == 1 else grad,
        *(() if weight is None else (_one(weight),)),
        *((total_weight.reshape(1),) if mean else ()),
    )
    launch(
        NLL_BACKWARD[weight is not None, mean],
        _class_base(rows),
        inputs,
        (rows.stride(1), ignore_index),
        compute=torch.int64,
        shape=tuple(targets.shape),
    )
    return grad_input


@aten("nll_loss2d_forward")
def nll_loss2d_forward(
    x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: int, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = contiguous(x.movedim(1, -1)).view(-1, x.shape[1])
    loss, total = torch.ops.aten.nll_loss_forward(rows, target.reshape(-1), weight, reduction, ignore_index)
    return (loss.view(target.shape) if reduction == NONE else loss), total


@aten("nll_loss2d_backward")
def nll_loss2d_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    reduction: int,
    ignore_index: int,
    total_weight: torch.Tensor,
) -> torch.Tensor:
    moved = x.movedim(1, -1)
    rows = contiguous(moved).view(-1, x.shape[1])
    g = grad.reshape(-1) if reduction == NONE else grad
    d = torch.ops.aten.nll_loss_backward(g, rows, target.reshape(-1), weight, reduction, ignore_index, total_weight)
    return d.view(moved.shape).movedim(-1, 1)


SQUARED_DIFFERENCE = define(Operation("squared_difference", ("x", "target"), "(x - target) * (x - target)"))
MSE_BACKWARD = define(
    Operation("mse_loss_backward", ("grad", "x", "target"), "factor * (x - target) * grad", ("factor",))
)


@aten("mse_loss.out")
def mse_loss_out(x: torch.Tensor, target: torch.Tensor, reduction: int = MEAN, *, out: torch.Tensor) -> torch.Tensor:
    compute = rule_dtype(Rule.PROMOTE, out, (x, target))
    if reduction == NONE:
        prepare_out(out, (x, target))
        launch(SQUARED_DIFFERENCE, out, (x, target), compute=compute)
        return out
    squares = torch.empty(broadcast_shape(x.shape, target.shape), dtype=compute, device=x.device)
    launch(SQUARED_DIFFERENCE, squares, (x, target), compute=compute)
    out.resize_(())
    reduce("mean" if reduction == MEAN else "sum", squares, None, out, acc=compute)
    return out


@aten("mse_loss_backward.grad_input")
def mse_loss_backward_out(
    grad: torch.Tensor, x: torch.Tensor, target: torch.Tensor, reduction: int, *, grad_input: torch.Tensor
) -> torch.Tensor:
    prepare_out(grad_input, (x, target))
    factor = 2.0 / max(x.numel(), 1) if reduction == MEAN else 2.0
    launch(
        MSE_BACKWARD,
        grad_input,
        (grad, x, target),
        (factor,),
        compute=rule_dtype(Rule.PROMOTE, grad_input, (x, target)),
    )
    return grad_input


@aten("mse_loss_backward")
def mse_loss_backward(grad: torch.Tensor, x: torch.Tensor, target: torch.Tensor, reduction: int) -> torch.Tensor:
    return mse_loss_backward_out(grad, x, target, reduction, grad_input=torch.empty_like(x))
