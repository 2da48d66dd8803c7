"""What one rank of a group sees of the fabric: rates and latencies, from the chip's figures and where ranks sit.

All ranks do the same at the same time, so a link that several share is given to each in equal parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil, inf, sqrt

from mtia.chips.spec import ChipSpec, ScaleUpSpec
from mtia.errors import BadProblem, did_you_mean

MEETING_FRAC = 0.83  # of a link that flows from several peers reach together, where a ring's single flow has all of it


class Topology(StrEnum):
    """How the chips of a scale-up domain are joined."""

    SWITCH = "switch"  # every chip reaches every other at its full rate
    MESH = "mesh"  # a link of its own for each pair
    TORUS = "torus"  # two dimensions; far pairs pass through others
    HOST = "host"  # PCIe: groups below a switch, the groups joined by the host


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """Rates one way, reached by every rank at the same time. `n_nodes`: scale-up domains that the ranks span."""

    ranks: int
    n_nodes: int
    ring_bytes_per_s: float  # to one neighbour, in the best order of ranks
    spread_bytes_per_s: float  # to all others in equal parts
    hop_s: float  # one step with flags in the data, mean over the hops of a ring
    bulk_hop_s: float  # the same for a step in bulk
    far_s: float  # the longest single hop
    multicasts: bool  # the switch adds for all ranks of a domain in one step, and spreads
    peer_reads: bool  # a rank can load from any other's memory

    @property
    def spans_domains(self) -> bool:
        return self.n_nodes > 1


def fabric_of(spec: ChipSpec, ranks: int, *, ranks_per_node: int | None = None) -> Fabric:
    """The fabric that `ranks` chips see; `ranks_per_node` is at most (and by default) the scale-up domain.

    Raises BadProblem where the chip has no links, or none that reach so far.
    """
    up = scale_up_of(spec)
    near = min(ranks, up.domain_chips, ranks_per_node or ranks)
    n_nodes = ceil(ranks / near)
    ring, spread = _ring_in_domain(spec, up, near), _spread_in_domain(spec, up, near)
    if n_nodes == 1:
        return Fabric(ranks=ranks, n_nodes=1, ring_bytes_per_s=ring, spread_bytes_per_s=spread, hop_s=up.latency_s,
                      bulk_hop_s=up.bulk_step_s, far_s=up.latency_s,
                      multicasts=up.multicast and ranks == up.domain_chips,
                      peer_reads=_groups(spec, up, near) == 1)  # fmt: skip
    out = spec.scale_out
    if out is None:
        raise BadProblem("collective", argument="ranks", value=ranks,
                         allowed=f"{spec.name} joins {up.domain_chips} chips and has no scale-out network")  # fmt: skip
    out_rate = out.bytes_per_s * out.efficiency_frac
    crossing_frac = (ranks - near) / (ranks - 1)
    far_share = n_nodes / ranks  # of a ring's hops
    return Fabric(
        ranks=ranks,
        n_nodes=n_nodes,
        ring_bytes_per_s=min(ring, near * out_rate),
        spread_bytes_per_s=min(spread, out_rate / crossing_frac),
        hop_s=up.latency_s + far_share * out.latency_s,
        bulk_hop_s=up.bulk_step_s + far_share * out.latency_s,
        far_s=up.latency_s + out.latency_s,
        multicasts=up.multicast and near == up.domain_chips,
        peer_reads=False,
    )


def scale_up_of(spec: ChipSpec) -> ScaleUpSpec:
    """The scale-up figures. Raises BadProblem where the chip has no such links."""
    if spec.scale_up is None:
        raise BadProblem("collective", argument="chip", value=spec.name,
                         allowed="its file says scale_up = \"none\": give the section to join several")  # fmt: skip
    return spec.scale_up


def topology_of(spec: ChipSpec) -> Topology:
    """The domain's topology. Raises BadProblem on a word that is none."""
    word = scale_up_of(spec).topology
    if word not in tuple(Topology):
        raise BadProblem(spec.name, argument="scale_up.topology", value=word,
                         allowed=f"known: {', '.join(Topology)}.{did_you_mean(word, map(str, Topology))}")  # fmt: skip
    return Topology(word)


def _ring_in_domain(spec: ChipSpec, up: ScaleUpSpec, ranks: int) -> float:
    link = up.bytes_per_s * up.efficiency_frac
    if ranks == 1:  # one rank of each domain: its links are those beyond
        return inf
    match topology_of(spec):
        case Topology.MESH:  # rings side by side use the links between these ranks
            return link * min(1.0, (ranks - 1) / max(1, up.domain_chips - 1))
        case Topology.HOST:
            groups = _groups(spec, up, ranks)
            return min(link, _bridge(up) / groups) if groups > 1 else link
        case _:
            return link


def _spread_in_domain(spec: ChipSpec, up: ScaleUpSpec, ranks: int) -> float:
    if ranks == 1:
        return inf
    link = up.bytes_per_s * up.efficiency_frac * (MEETING_FRAC if ranks > 2 else 1.0)
    match topology_of(spec):
        case Topology.MESH:
            return link * min(1.0, (ranks - 1) / max(1, up.domain_chips - 1))
        case Topology.TORUS:  # a byte passes side / 4 links in each of two dimensions
            return link / max(1.0, sqrt(ranks) / 2)
        case Topology.HOST:
            group = min(ranks, up.group_chips or ranks)
            crossing_frac = (ranks - group) / max(1, ranks - 1)
            return min(link, _bridge(up) / (ranks * crossing_frac)) if crossing_frac else link
        case _:
            return link


def _groups(spec: ChipSpec, up: ScaleUpSpec, ranks: int) -> int:
    """Parts of a domain that reach each other only through the host."""
    return ceil(ranks / (up.group_chips or ranks)) if topology_of(spec) is Topology.HOST else 1


def _bridge(up: ScaleUpSpec) -> float:
    return up.bridge_bytes_per_s or up.bytes_per_s


__all__ = ["MEETING_FRAC", "Fabric", "Topology", "fabric_of", "scale_up_of", "topology_of"]
