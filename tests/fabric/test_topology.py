"""What a rank sees of its fabric, and machines by name."""

from __future__ import annotations

import pytest

from mtia import chips
from mtia.errors import BadProblem
from mtia.fabric.nodes import node, nodes
from mtia.fabric.topology import MEETING_FRAC, fabric_of

GPU = chips.load("h100_sxm").vary(
    {"scale_up.bytes_per_s": 1e11, "scale_up.efficiency_frac": 1.0, "scale_out.bytes_per_s": 1e10,
     "scale_out.efficiency_frac": 1.0, "scale_up.latency_s": 1e-6, "scale_out.latency_s": 8e-6},
    name="gpu",
)  # fmt: skip


def shaped(**figures: object):
    return GPU.vary({f"scale_up.{key}": value for key, value in figures.items()}, name="shaped")


def test_a_switch_gives_every_rank_its_link():
    for ranks in (2, 4, 8):
        seen = fabric_of(GPU, ranks)
        assert seen.ring_bytes_per_s == 1e11 and seen.n_nodes == 1 and seen.peer_reads
        assert seen.spread_bytes_per_s == (1e11 if ranks == 2 else MEETING_FRAC * 1e11)


def test_only_the_whole_domain_multicasts():
    assert fabric_of(GPU, 8).multicasts and not fabric_of(GPU, 4).multicasts
    assert fabric_of(GPU, 16).multicasts and not fabric_of(GPU, 16, ranks_per_node=4).multicasts


def test_a_mesh_uses_the_links_between_its_ranks():
    mesh = shaped(topology="mesh")
    assert fabric_of(mesh, 8).ring_bytes_per_s == 1e11
    assert fabric_of(mesh, 2).ring_bytes_per_s == pytest.approx(1e11 / 7)


def test_far_pairs_of_a_torus_share_links():
    torus = shaped(topology="torus", domain_chips=256)
    assert fabric_of(torus, 256).ring_bytes_per_s == 1e11
    assert fabric_of(torus, 256).spread_bytes_per_s == pytest.approx(MEETING_FRAC * 1e11 / 8)


def test_groups_of_cards_meet_in_the_host():
    host = shaped(topology="host", group_chips=2, bridge_bytes_per_s=1e10)
    assert fabric_of(host, 2).ring_bytes_per_s == 1e11 and fabric_of(host, 2).peer_reads
    four = fabric_of(host, 4)
    assert four.ring_bytes_per_s == 5e9  # two of four hops cross, one bridge
    assert four.spread_bytes_per_s == pytest.approx(1e10 / (4 * 2 / 3)) and not four.peer_reads


def test_rings_beyond_a_domain_use_every_adapter_of_it():
    two = fabric_of(GPU, 16)
    assert two.n_nodes == 2 and two.ring_bytes_per_s == 8e10  # eight adapters of 10 GB/s below the link's 100
    assert two.spread_bytes_per_s == pytest.approx(1e10 * 15 / 8)  # 8 of 15 peers are beyond
    assert two.hop_s == pytest.approx(1e-6 + 2 / 16 * 8e-6) and two.far_s == pytest.approx(9e-6)
    alone = fabric_of(GPU, 2, ranks_per_node=1)
    assert alone.n_nodes == 2 and alone.ring_bytes_per_s == 1e10


def test_more_per_node_never_slows_a_ring():
    rates = [fabric_of(GPU, 16, ranks_per_node=n).ring_bytes_per_s for n in (1, 2, 4, 8)]
    assert rates == sorted(rates)


def test_chips_without_links_are_told():
    with pytest.raises(BadProblem, match=r'chip = .mtia200.; its file says scale_up = "none"'):
        fabric_of(chips.load("mtia200"), 2)
    with pytest.raises(BadProblem, match=r"ranks = 512; tpu_v6e_1 joins 256 chips and has no scale-out network"):
        fabric_of(chips.load("tpu_v6e_1"), 512)


def test_an_unknown_topology_is_told():
    with pytest.raises(
        BadProblem, match=r"topology = 'swich'; known: switch, mesh, torus, host.*Did you mean 'switch'"
    ):
        fabric_of(shaped(topology="swich"), 2)


def test_machines_are_chips_with_other_links():
    assert {"a100_x4_nvlink3", "vidur_a100_dgx", "mtia300_rack"} <= set(nodes())
    for machine in nodes().values():
        assert machine.why and machine.spec.name == machine.name
        assert all(machine.spec.get(key) == value for key, value in machine.figures.items())
    assert fabric_of(node("a100_x4_nvlink3").spec, 4).ring_bytes_per_s == pytest.approx(0.79 * 3e11)
    with pytest.raises(BadProblem, match=r"machine: name = 'vidur_a100'; known: .*Did you mean 'vidur_a100_dgx'"):
        node("vidur_a100")
