"""A recipe: which layer takes which scheme, and what is done beforehand so that less is lost. A file that can be kept.

migrate      outliers of activations moved into weights (migration.py), by this strength; 0 leaves them
shift        activations are rounded about their mean
wide         inputs of a layer that stay in the model's own type, those of greatest part in its rounding error
compensate   weights rounded column by column, errors made good by later columns (compensation.py)

All of it is found from examples; a recipe holds the choices, not the results, so it is short, and applying it takes the
examples again.
"""

# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.calibration import Inputs, Moments, Run, add_moments, fed, linears
from mtia.quantization.compensation import compensated
from mtia.quantization.emulation import rounded
from mtia.quantization.linear import QuantisedLinear
from mtia.quantization.migration import migrate
from mtia.quantization.plan import Plan
from mtia.quantization.quantize import quantize
from mtia.quantization.schemes import Scheme

RECIPES = Path(__file__).parent / "recipes"
"""Those that come with the package, MODEL-SCHEME.json."""
_FIELDS = ("plan", "migrate", "shift", "compensate", "wide", "made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`wide`: number of inputs by pattern over layer names, first match counts. `made`: how it was found."""

    plan: Plan
    migrate: float = 0.0
    shift: bool = False
    compensate: bool = False
    wide: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)

    @property
    def needs_examples(self) -> bool:
        return bool(self.migrate or self.shift or self.compensate or self.wide)

    def n_wide(self, layer: str) -> int:
        return next((n for pattern, n in self.wide.items() if fnmatchcase(layer, pattern)), 0)

    def scheme_for(self, layer: str) -> Scheme | None:
        """None where the layer stays as it is."""
        scheme = self.plan.scheme_for(layer)
        return None if scheme is None or scheme.weight == "bf16" else scheme

    def save(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {
            "plan": {pattern: scheme.name for pattern, scheme in self.plan.rules}, "migrate": self.migrate,
            "shift": self.shift, "compensate": self.compensate, "wide": dict(self.wide), "made": dict(self.made),
        }  # fmt: skip
        path.write_text(json.dumps(held, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Raises BadProblem for a file that is not there or not a recipe."""
        try:
            held = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise BadProblem("recipe", argument="file", value=str(path), allowed=f"{error}; `mtia quality --search` "
                             "writes one") from error  # fmt: skip
        unknown = sorted(set(held) - set(_FIELDS)) if isinstance(held, dict) else ["not an object"]
        if unknown or "plan" not in held:
            raise BadProblem("recipe", argument="field", value=unknown[0] if unknown else "no plan",
                             allowed=f"known: {', '.join(_FIELDS)}")  # fmt: skip
        return cls(**{**held, "plan": Plan.of(held["plan"])})


def apply(recipe: Recipe, model: nn.Module, run: Run | None = None) -> nn.Module:
    """The model on the host, quantised in place by the recipe; returned too. `run(model)` feeds it the examples.

    Raises BadProblem where the recipe needs examples and there are none.
    """
    if not recipe.needs_examples:
        return quantize(model, recipe.plan)
    if run is None:
        raise BadProblem("recipe", argument="examples", value=None, allowed="it is calibrated; give run(model)")
    prepared = Prepared(model, recipe.migrate, run)
    chosen = {name: scheme for name in prepared.layers if (scheme := recipe.scheme_for(name)) is not None}
    moments = prepared.moments(chosen, shift=recipe.shift) if recipe.compensate else {}
    for name, scheme in chosen.items():
        _put(model, name, prepared.layer(name, scheme, shift=recipe.shift, n_wide=recipe.n_wide(name),
                                         moments=moments.pop(name, None)))  # fmt: skip
    return model


def shaped(recipe: Recipe, model: nn.Module) -> nn.Module:
    """The model with layers of the recipe's shapes and schemes, without examples: for its time, not its values."""
    for name, layer in linears(model).items():
        scheme = recipe.scheme_for(name)
        if scheme is not None:
            zero = torch.zeros(layer.in_features, device=layer.weight.device)
            wide = torch.arange(recipe.n_wide(name), device=layer.weight.device)
            _put(model, name, QuantisedLinear(layer, scheme, shift=_shift(zero, scheme, recipe.shift), wide=wide))
    return model


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


def _shift(mean: torch.Tensor, scheme: Scheme, wanted: bool) -> torch.Tensor | None:
    """Activations that are not rounded need no shift."""
    return mean if wanted and not scheme.is_weight_only else None


class Prepared:
    """A model whose outliers are migrated, and what its linear layers are fed; makes quantised layers of them."""

    def __init__(self, model: nn.Module, strength: float, run: Run) -> None:
        self.model, self.run = model, run
        inputs = fed(model, run)
        self.layers = linears(model)
        missed = sorted(set(self.layers) - set(inputs))
        if missed:
            raise BadProblem(
                "calibrating", argument="layer", value=missed[0], allowed="the examples must reach each layer"
            )
        scales = migrate(model, {name: i.largest for name, i in inputs.items()}, strength) if strength else {}
        divided = {id(i): i.divided(scales[name]) for name, i in inputs.items() if name in scales}
        self.inputs: dict[str, Inputs] = {name: divided.get(id(i), i) for name, i in inputs.items()}

    def moments(self, chosen: Mapping[str, Scheme], *, shift: bool) -> dict[str, torch.Tensor]:
        """By layer, [K, K] of what its product multiplies; layers alike in inputs and scheme share a tensor."""
        shared: dict[tuple[int, str], Moments] = {}
        asked = {}
        for name, scheme in chosen.items():
            inputs = self.inputs[name]
            key = (id(inputs), scheme.activation + scheme.rule)
            asked[name] = shared.setdefault(key, Moments(_rounding(_shift(inputs.mean, scheme, shift), scheme)))
        add_moments(self.model, self.run, asked)
        return {name: m.sum for name, m in asked.items()}

    def layer(
        self, name: str, scheme: Scheme, *, shift: bool, n_wide: int = 0, moments: torch.Tensor | None = None
    ) -> QuantisedLinear:
        """The layer quantised, its weights compensated where there are moments."""
        layer, wide = self.layers[name], self.wide(name, n_wide)
        held = None
        if moments is not None:
            narrow = torch.ones(layer.in_features).index_fill(0, wide, 0.0)
            held = compensated(layer.weight.float() * narrow, moments * narrow * narrow[:, None], scheme)
        return QuantisedLinear(layer, scheme, shift=_shift(self.inputs[name].mean, scheme, shift), wide=wide, held=held)

    def wide(self, name: str, n_wide: int) -> torch.Tensor:
        """int64 [n_wide]: the inputs of most variance times squared weights; the rounding error is as large."""
        part = self.inputs[name].variance * (self.layers[name].weight.float() ** 2).sum(0)
        return part.topk(min(n_wide, part.numel())).indices.sort().values


def _rounding(shift: torch.Tensor | None, scheme: Scheme) -> Any:
    def rounding(rows: torch.Tensor) -> torch.Tensor:
        rows = rows if shift is None else rows - shift.to(torch.bfloat16).float()
        if scheme.is_weight_only:
            return rows
        short = -rows.shape[1] % scheme.depth_multiple
        wide = rounded(torch.nn.functional.pad(rows, (0, short)), scheme.activation, scheme.activation_block)
        return wide[:, : rows.shape[1]]

    return rounding


__all__ = ["RECIPES", "Prepared", "Recipe", "apply", "shaped"]
