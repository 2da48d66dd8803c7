"""Collective algorithms as steps of one rank (`steps.Step`). Bytes are counted as nccl-tests does (`Collective`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil, log2

from mtia.fabric.steps import Plan, Step
from mtia.fabric.topology import Fabric
from mtia.fabric.transport import Transport

MOST_MOVERS_PER_PEER = 16
DIRECT_STEPS = 1.8  # steps of a direct exchange beyond the store: senders and receivers meet
PEER_STEP_FRAC = 0.3  # of a step: posting to one peer more
BARRIER_PEER_FRAC = 0.15  # of a step: one peer more in a barrier, whose flags lanes post side by side
PIECE_BYTES, MOST_PIECES = 16384, 64  # a mover's piece of a pipeline
MULTICAST_STEPS = 10  # copy in, meet, add and spread, copy out: a flag there and back for each


class Collective(StrEnum):
    """Operations; `n_bytes` is the result of an all-gather, the input of a reduce-scatter, else a rank's buffer."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    BROADCAST = "broadcast"
    SEND_RECV = "send_recv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What algorithms ask of a chip besides its fabric."""

    fabric: Fabric
    memory_bytes_per_s: float
    launch_s: float


Algorithm = Callable[[Site, Transport, float], Plan | None]


def _plan(
    site: Site, transport: Transport, name: str, steps: list[Step], *, rate: float, movers_per_peer: int = 0
) -> Plan:
    return Plan(
        algorithm=name,
        transport=transport,
        link_bytes_per_s=rate,
        memory_bytes_per_s=site.memory_bytes_per_s,
        steps=tuple(steps),
        movers_per_peer=movers_per_peer,
        launch_s=site.launch_s,
    )


# --- rings: each rank passes one share after the other to its neighbour ----------------------------------------------


def _scatter_steps(ranks: int, share: float) -> list[Step]:
    """Sends its share, then adds what arrives and passes it on; the last arrival is not yet taken."""
    first = Step(sends_bytes=share)
    return [first, *[Step(sends_bytes=share, takes_bytes=share, adds_bytes=share)] * (ranks - 2)]


def _gather_steps(ranks: int, share: float, staged: bool) -> list[Step]:
    """Passes on what arrives, keeping a copy (bulk stores land in place), and takes the last."""
    kept = share if staged else 0.0
    passing = Step(sends_bytes=share, takes_bytes=share, copies_bytes=kept)
    last = Step(takes_bytes=share if staged else 0.0, copies_bytes=kept)
    return [*[passing] * (ranks - 2), last]


def ring_reduce_scatter(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    ranks = site.fabric.ranks
    share = n_bytes / ranks
    last = Step(takes_bytes=share, adds_bytes=share, copies_bytes=share)
    return _ring(site, transport, [*_scatter_steps(ranks, share), last])


def ring_all_gather(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    ranks = site.fabric.ranks
    share = n_bytes / ranks
    first = Step(sends_bytes=share, copies_bytes=share)
    return _ring(site, transport, [first, *_gather_steps(ranks, share, transport.staged)])


def ring_all_reduce(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    ranks = site.fabric.ranks
    share = n_bytes / ranks
    middle = Step(sends_bytes=share, takes_bytes=share, adds_bytes=share, copies_bytes=share)
    steps = [*_scatter_steps(ranks, share), middle, *_gather_steps(ranks, share, transport.staged)]
    return _ring(site, transport, steps)


def _ring(site: Site, transport: Transport, steps: list[Step]) -> Plan:
    return _plan(site, transport, "ring", steps, rate=site.fabric.ring_bytes_per_s)


def ring_broadcast(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """A pipeline through all ranks in pieces; the last rank has the first piece after ranks - 1 hops."""
    return _pipeline(site, transport, "ring", n_bytes, hops=site.fabric.ranks - 1, ways=1, adds=False)


# --- direct: to all peers at once ------------------------------------------------------------------------------------


def direct_all_to_all(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """Every rank stores its part for each peer at once; its own part is copied meanwhile.

    Message engines do so only with what goes unannounced; libraries do not use lines here.
    """
    ranks = site.fabric.ranks
    part = n_bytes / ranks
    if transport.name == "line" or (transport.entry_s and not transport.staged):
        return None
    sent = part * (ranks - 1)
    flag_s = site.fabric.hop_s - transport.step_s  # nobody passes it on: one flag at the end, no chain of fences
    store = Step(sends_bytes=sent, beside_bytes=part, peers=ranks - 1, more_s=flag_s + _posting_s(site, transport))
    return _plan(site, transport, "direct", [store, Step()],
                 rate=site.fabric.spread_bytes_per_s, movers_per_peer=_movers_per_peer(transport, ranks))  # fmt: skip


def pairwise_all_to_all(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """One peer after the other, each transfer announced: how message engines move what does not fit a mailbox."""
    if not transport.entry_s or transport.staged:
        return None
    ranks = site.fabric.ranks
    part = n_bytes / ranks
    own = part / (ranks - 1)
    steps = [Step(sends_bytes=part, beside_bytes=own, more_s=-transport.entry_s)] * (ranks - 1)  # nothing to pass on
    return _plan(site, transport, "pairwise", [*steps, Step()], rate=site.fabric.ring_bytes_per_s)


def send_recv(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    movers = min(MOST_MOVERS_PER_PEER, transport.pes) if not transport.grain_bytes else 1
    steps = [Step(sends_bytes=n_bytes), Step(takes_bytes=n_bytes if transport.staged else 0.0)]
    return _plan(site, transport, "direct", steps, rate=site.fabric.ring_bytes_per_s, movers_per_peer=movers)


def _posting_s(site: Site, transport: Transport) -> float:
    meeting = DIRECT_STEPS if transport.staged else 0.0
    return site.fabric.hop_s * (meeting + PEER_STEP_FRAC * max(0, site.fabric.ranks - 2))


def _movers_per_peer(transport: Transport, ranks: int) -> int:
    """Bulk: the movers are dealt out to peers and to the own part; words: one mover each."""
    if transport.grain_bytes:
        return 1
    return max(1, min(MOST_MOVERS_PER_PEER, transport.pes // ranks))


# --- all-reduce in one or two shots: every rank reads its peers' buffers, between two barriers -----------------------


def one_shot_all_reduce(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """Every rank reads and adds all buffers."""
    ranks = site.fabric.ranks
    read = Step(sends_bytes=n_bytes * (ranks - 1), adds_bytes=n_bytes * (ranks - 1), copies_bytes=n_bytes)
    return _shots(site, transport, "one shot", [read])


def two_shot_all_reduce(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """Every rank adds its share of all buffers, then reads the sums of the others."""
    ranks = site.fabric.ranks
    rest = n_bytes * (ranks - 1) / ranks
    reduce = Step(sends_bytes=rest, adds_bytes=rest, copies_bytes=n_bytes / ranks)
    gather = Step(sends_bytes=rest, copies_bytes=n_bytes / ranks)
    return _shots(site, transport, "two shot", [reduce, gather])


def _shots(site: Site, transport: Transport, name: str, shots: list[Step]) -> Plan | None:
    """A barrier, the shots (each a read there and back and a barrier)."""
    if not site.fabric.peer_reads:
        return None
    barrier = Step(more_s=BARRIER_PEER_FRAC * site.fabric.hop_s * max(0, site.fabric.ranks - 2))
    return _plan(site, transport, name, [barrier, Step(), *shots, Step()], rate=site.fabric.spread_bytes_per_s)


# --- in the switch ---------------------------------------------------------------------------------------------------


def multicast_all_reduce(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """Copies into shared buffers; each rank has the switch add its share of all and spread the sum; copies out."""
    fabric = site.fabric
    if not fabric.multicasts or fabric.spans_domains or transport.staged:
        return None
    share = n_bytes / fabric.ranks
    whole = Step(sends_bytes=n_bytes + share, beside_bytes=2 * (n_bytes + share),
                 more_s=(MULTICAST_STEPS - 1) * transport.step_s)  # fmt: skip
    flowing = replace(transport, chunk_bytes=1 << 62)  # chunk after chunk, the flags of one behind the data of the next
    return _plan(site, flowing, "multicast", [whole, Step()], rate=fabric.spread_bytes_per_s)


# --- pipelines and trees ---------------------------------------------------------------------------------------------


def tree_all_reduce(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    """Up and down a tree in pieces; two trees share the work, so each rank passes on all bytes both ways."""
    return _tree(site, transport, n_bytes, ways=2, adds=True)


def tree_broadcast(site: Site, transport: Transport, n_bytes: float) -> Plan | None:
    return _tree(site, transport, n_bytes, ways=1, adds=False)


def _tree(site: Site, transport: Transport, n_bytes: float, *, ways: int, adds: bool) -> Plan | None:
    """A binary tree of domains, each a chain of its ranks, or one step through a switch that adds and spreads."""
    if not site.fabric.spans_domains:
        return None
    near = 1 if site.fabric.multicasts else ceil(site.fabric.ranks / site.fabric.n_nodes) - 1
    depth = near + ceil(log2(site.fabric.n_nodes))
    return _pipeline(site, transport, "tree", n_bytes, hops=ways * depth, ways=ways, adds=adds)


def _pipeline(site: Site, transport: Transport, name: str, n_bytes: float, *, hops: int, ways: int, adds: bool) -> Plan:
    """Pieces follow each other at once; the first one's way through all hops is waiting."""
    rate = site.fabric.ring_bytes_per_s
    pieces = max(1, min(MOST_PIECES, int(n_bytes // (transport.pes * PIECE_BYTES))))
    piece = n_bytes / pieces
    fill = Step(more_s=(hops - 1) * (transport.step_s + piece * transport.wire_ratio / rate))
    one = Step(sends_bytes=piece * ways, takes_bytes=piece * ways, adds_bytes=piece if adds else 0.0)
    rest = [replace(one, awaits=False)] * (pieces - 1)
    return _plan(site, transport, name, [fill, one, *rest, Step(takes_bytes=piece)], rate=rate)


# --- what there is ---------------------------------------------------------------------------------------------------

ALGORITHMS: dict[Collective, tuple[Algorithm, ...]] = {
    Collective.ALL_REDUCE: (ring_all_reduce, tree_all_reduce, multicast_all_reduce),
    Collective.ALL_GATHER: (ring_all_gather,),
    Collective.REDUCE_SCATTER: (ring_reduce_scatter,),
    Collective.ALL_TO_ALL: (direct_all_to_all, pairwise_all_to_all),
    Collective.BROADCAST: (ring_broadcast, tree_broadcast),
    Collective.SEND_RECV: (send_recv,),
}
