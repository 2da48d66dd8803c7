"""The best mixed plan for a share of low-precision work: which layers, and which inputs of a layer, stay wide.

Every layer (or kind of layer) has the choices none, some inputs (WIDTHS) or all of it in the model's own type. What a
choice saves is measured (sensitivity.py), what it costs is its multiplies; choices are taken by most saved for a
multiply, as long as the share of low multiplies allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mtia.errors import BadProblem
from mtia.quantization.calibration import Run
from mtia.quantization.emulation import EmulatedLinear
from mtia.quantization.plan import Plan
from mtia.quantization.recipe import Prepared, Recipe
from mtia.quantization.schemes import scheme_named
from mtia.quantization.sensitivity import sensitivities

WIDTHS = (16, 64)
LEAST_SAVED_FRAC = 0.004
"""Of the whole divergence: what a layer must save to be an exception. Each costs launches, and a plan is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One way to hold a layer: `n_wide` of its inputs in the model's own type, at an estimated divergence a token."""

    n_wide: int
    n_mac_wide: float
    divergence_nats: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`divergence_nats`: estimated for the recipe; `plain_nats`: with no layer and no input kept wide."""

    recipe: Recipe
    divergence_nats: float
    plain_nats: float
    low_frac: float


def search(
    model: nn.Module, scheme: str, tokens: torch.Tensor, run: Run, *, low_frac: float = 0.95, strength: float = 0.0,
    alike: bool = True, seed: int = 0, say: Callable[[str], None] = lambda text: None,
) -> Found:  # fmt: skip
    """The recipe for `scheme` in every linear layer but what stays wide; `low_frac` of multiplies are low at least.

    `model`: on the host, migrated in place; `run` feeds it the examples that everything is calibrated by, `tokens`
    int64 [windows, length] are those that sensitivities are measured on. `strength`: of migration. `alike`: layers of
    one kind take the same choice, so that they share compiled code; else each layer its own.
    Raises BadProblem for a fraction outside 0..1 and an unknown scheme.
    """
    if not 0 <= low_frac <= 1:
        raise BadProblem("search", argument="low_frac", value=low_frac, allowed="0 to 1")
    held = scheme_named(scheme)
    prepared = Prepared(model, strength, run)
    say(f"{len(prepared.layers)} layers calibrated")
    moments = prepared.moments(dict.fromkeys(prepared.layers, held), shift=True)
    choices: dict[str, list[Choice]] = {name: [] for name in prepared.layers}
    for n_wide in (0, *WIDTHS):
        stand_ins = {
            name: EmulatedLinear(prepared.layer(name, held, shift=True, n_wide=n_wide, moments=moments[name]))
            for name in prepared.layers
        }
        for s in sensitivities(model, stand_ins, tokens, seed=seed):
            wide = n_wide / prepared.layers[s.layer].in_features
            choices[s.layer].append(Choice(n_wide=n_wide, n_mac_wide=wide * s.n_mac, divergence_nats=s.divergence_nats))
        say(f"measured with {n_wide} inputs of each layer wide")
    for name, layer in prepared.layers.items():
        choices[name].append(
            Choice(n_wide=layer.in_features, n_mac_wide=layer.in_features * layer.out_features, divergence_nats=0.0)
        )
    if alike:
        choices = by_kind(choices)
    n_mac = sum(c[-1].n_mac_wide for c in choices.values())
    plain_nats = sum(held[0].divergence_nats for held in choices.values())
    taken = allotted(choices, (1 - low_frac) * n_mac, least_nats=LEAST_SAVED_FRAC * plain_nats)
    return _found(scheme, strength, taken, choices, n_mac)


def by_kind(choices: Mapping[str, list[Choice]]) -> dict[str, list[Choice]]:
    """Choices added up over the layers whose names end alike, by a pattern that matches them: *.down_proj."""
    kinds: dict[str, list[list[Choice]]] = {}
    for name, held in choices.items():
        _, dot, own = name.rpartition(".")
        kinds.setdefault(f"*.{own}" if dot else own, []).append(held)
    return {
        pattern: [
            Choice(n_wide=same[0].n_wide, n_mac_wide=sum(c.n_mac_wide for c in same),
                   divergence_nats=sum(c.divergence_nats for c in same))
            for same in zip(*held, strict=True)
        ]
        for pattern, held in kinds.items()
    }  # fmt: skip


def allotted(
    choices: Mapping[str, list[Choice]], n_mac_wide: float, *, least_nats: float = 0.0
) -> dict[str, Choice]:  # fmt: skip
    """A choice for each layer, at most `n_mac_wide` multiplies wide in all: greedy, most saved for a multiply first,
    steps that save less than `least_nats` left out. The first choice of a layer is the cheapest."""
    taken, left = {name: held[0] for name, held in choices.items()}, n_mac_wide
    while True:
        steps = [
            ((taken[name].divergence_nats - c.divergence_nats) / (c.n_mac_wide - taken[name].n_mac_wide), name, c)
            for name, held in choices.items() for c in held
            if 0 < c.n_mac_wide - taken[name].n_mac_wide <= left
            and taken[name].divergence_nats - c.divergence_nats > least_nats
        ]  # fmt: skip
        if not steps:
            return taken
        _, name, choice = max(steps, key=lambda step: (step[0], step[1]))
        left -= choice.n_mac_wide - taken[name].n_mac_wide
        taken[name] = choice


def _found(
    scheme: str, strength: float, taken: Mapping[str, Choice], choices: Mapping[str, list[Choice]], n_mac: float
) -> Found:
    whole = [name for name, choice in taken.items() if choice is choices[name][-1]]
    some = {name: c.n_wide for name, c in taken.items() if c.n_wide and name not in whole}
    low_frac = 1 - sum(c.n_mac_wide for c in taken.values()) / n_mac
    estimate, plain = (sum(c.divergence_nats for c in held) for held in
                       (taken.values(), (c[0] for c in choices.values())))  # fmt: skip
    recipe = Recipe(
        plan=Plan.of({**dict.fromkeys(whole, "bf16"), "*": scheme}), migrate=strength, shift=True, compensate=True,
        wide=some, made={"low_frac": round(low_frac, 4), "estimated_divergence_nats": round(estimate, 5),
                         "without_wide_nats": round(plain, 5)},
    )  # fmt: skip
    return Found(recipe=recipe, divergence_nats=estimate, plain_nats=plain, low_frac=low_frac)


__all__ = ["WIDTHS", "Choice", "Found", "allotted", "by_kind", "search"]
