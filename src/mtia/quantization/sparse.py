"""2:4 sparse weights: of every four along the depth the two largest stay, kept with their places.

    weight = SparseWeight.of(prune(layer.weight))     # half of the values and a bit for each element
    model = sparsify(model, {"*.mlp.*": "int8"})      # linear layers; formats: bf16, fp16, int8 (dynamic)

torch.sparse.to_sparse_semi_structured takes CUDA tensors alone; this is the same idea for the device. MTIA 200's engine
multiplies them at twice its dense rate (ISCA25). The format of the places is unpublished: kernels/sparse_matmul.py has
ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import nn

from mtia.errors import BadProblem
from mtia.kernels.sparse_matmul import multiply_sparse
from mtia.quantization.operands import quantise

GROUP = 4
DEPTH = 16  # a layer's depth is padded to a multiple
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.int8}


def prune(weight: torch.Tensor) -> torch.Tensor:
    """`weight` [N, K] with the two smallest magnitudes of every four along K set to zero; of equals the later go.

    Raises BadProblem for a K that is no multiple of 4.
    """
    four = _in_fours(weight)
    kept = four.abs().sort(dim=-1, descending=True, stable=True).indices[..., : GROUP // 2]
    return torch.zeros_like(four).scatter(-1, kept, four.gather(-1, kept)).view(weight.shape)


def _in_fours(weight: torch.Tensor) -> torch.Tensor:
    if weight.dim() != 2 or weight.shape[1] % GROUP:
        raise _bad("shape", tuple(weight.shape), f"[rows, a multiple of {GROUP}]; pad the depth with zeros")
    return weight.reshape(weight.shape[0], -1, GROUP)


@dataclass(frozen=True, slots=True)
class SparseWeight:
    """values [N, K / 2], places [K / 8, N] (uint8, two bits a value), as kernels/sparse_matmul.py reads them."""

    values: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of(cls, weight: torch.Tensor) -> SparseWeight:
        """Compress a weight [N, K] that is 2:4 sparse, K a multiple of 16.

        Raises BadProblem where three or four of a group of four are not zero (`prune` first).
        """
        four = _in_fours(weight)
        if weight.shape[1] % DEPTH:
            raise _bad("shape", tuple(weight.shape), f"[rows, a multiple of {DEPTH}]; pad the depth with zeros")
        held = (four != 0).sum(-1)
        if int(held.max()) > GROUP // 2:
            where = (held > GROUP // 2).nonzero()[0].tolist()
            raise _bad(
                "weight", four[where[0], where[1]].tolist(),
                f"two of four not zero, at row {where[0]}, columns {GROUP * where[1]} on; prune(weight) makes it so",
            )  # fmt: skip
        first_two = (four != 0).to(torch.int8).sort(dim=-1, descending=True, stable=True).indices[..., :2]
        at = first_two.sort(-1).values
        nibbles = (at[..., 0] | at[..., 1] << 2).to(torch.uint8)
        places = (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).t()
        return cls(four.gather(-1, at).reshape(weight.shape[0], -1).contiguous(), places.contiguous())

    def dense(self) -> torch.Tensor:
        """The weight [N, K] with its zeros."""
        n = self.values.shape[0]
        bytes_ = self.places.t().contiguous()
        nibbles = torch.stack((bytes_ & 15, bytes_ >> 4), -1).view(n, -1)
        at = torch.stack((nibbles & 3, nibbles >> 2), -1).long()
        four = torch.zeros(n, nibbles.shape[1], GROUP, dtype=self.values.dtype, device=self.values.device)
        return four.scatter(-1, at, self.values.view(n, -1, 2)).view(n, -1)

    @property
    def n_bytes(self) -> int:
        return self.values.nbytes + self.places.nbytes


class SparseLinear(nn.Module):
    """y = x @ w.T + bias with w pruned to 2:4 and held compressed, in bf16, fp16, or int8 with a scale a row and x
    quantised as it comes. Raises UnsupportedDtype on a chip whose engine has no sparse weights."""

    values: torch.Tensor
    places: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, form: str = "bf16") -> None:
        super().__init__()
        if form not in DTYPES:
            raise _bad("format", form, f"known: {', '.join(DTYPES)}")
        self.form, self.in_features, self.out_features = form, linear.in_features, linear.out_features
        self.depth = -(-linear.in_features // DEPTH) * DEPTH
        dense = prune(F.pad(linear.weight.detach(), (0, self.depth - linear.in_features)))
        codes, scale = quantise(dense.contiguous(), "int8", None) if form == "int8" else (dense.to(DTYPES[form]), None)
        held = SparseWeight.of(codes)
        self.register_buffer("values", held.values)
        self.register_buffer("places", held.places)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> SparseWeight:
        return SparseWeight(self.values, self.places)

    @property
    def weight_bytes(self) -> int:
        return self.weight.n_bytes + (0 if self.scale is None else self.scale.nbytes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = F.pad(x.reshape(-1, self.in_features), (0, self.depth - self.in_features)).contiguous()
        scales = None
        if self.scale is None:
            codes = rows.to(DTYPES[self.form])
        else:
            codes, x_scale = quantise(rows, "int8", None)
            scales = (x_scale, self.scale)
        if x.device.type != "mtia":
            out = self._on_host(codes, scales)
        else:
            out = torch.empty((rows.shape[0], self.out_features), dtype=x.dtype, device=x.device)
            multiply_sparse(codes, self.values, self.places, scales, self.bias, out)
        return out.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _on_host(self, codes: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor] | None) -> torch.Tensor:
        out = codes.double() @ self.weight.dense().double().T
        if scales is not None:
            out = out * scales[0].double() * scales[1].double().T
        return out if self.bias is None else out + self.bias.double()


def sparsify(model: nn.Module, plan: str | Mapping[str, str]) -> nn.Module:
    """The model with its `nn.Linear` layers pruned to 2:4 and compressed, in place: `plan` is a format for all (bf16,
    fp16, int8) or a mapping from glob patterns over layer names, the first match counts. It is returned too."""
    rules = {"*": plan} if isinstance(plan, str) else plan
    for name, layer in list(model.named_modules()):
        form = next((f for pattern, f in rules.items() if fnmatchcase(name, pattern)), None)
        if type(layer) is nn.Linear and form is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, SparseLinear(layer, form))
    return model


def _bad(argument: str, value: object, allowed: str) -> BadProblem:
    return BadProblem("2:4 sparse weights", argument=argument, value=value, allowed=allowed)


__all__ = ["DTYPES", "SparseLinear", "SparseWeight", "prune", "sparsify"]
