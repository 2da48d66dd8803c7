"""Operators composed of others: against the CPU, forward and backward, nothing on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mtia.host_runtime import record

from .on_device import check

EXACT = (1e-6, 1e-6)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (2, 3, 7, 9)), generator=torch.Generator().manual_seed(1))


def with_gradient(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> None:
    """Value and gradients of every input, for a gradient of the output that differs place by place."""

    def both(*tensors: torch.Tensor) -> Any:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = function(*leaves)
        weight = torch.linspace(0.5, 1.5, out.numel()).reshape(out.shape).to(out.device)
        return out.detach(), torch.autograd.grad(out, leaves, weight)

    check(both, *inputs, tolerance=(1e-5, 1e-5))


RESAMPLED = {
    "nearest": lambda x: F.interpolate(x, size=(5, 13)),
    "nearest-exact": lambda x: F.interpolate(x, scale_factor=1.7, mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, size=(10, 4), mode="bilinear"),
    "bilinear corners": lambda x: F.interpolate(x, size=(10, 4), mode="bilinear", align_corners=True),
    "antialiased": lambda x: F.interpolate(x, size=(3, 4), mode="bilinear", antialias=True),
    "bicubic": lambda x: F.interpolate(x, size=(10, 12), mode="bicubic"),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "maximum": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "dilated maximum": lambda x: F.max_pool2d(x, 2, 1, 0, dilation=2),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (3, 4)),
    "replicated border": lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"),
    "reflected border": lambda x: F.pad(x, (2, 1, 1, 3), mode="reflect"),
    "group norm": lambda x: F.group_norm(x, 3),
    "batch norm": lambda x: F.batch_norm(x, None, None, training=True),
}


@pytest.mark.parametrize("name", RESAMPLED)
def test_images(name: str):
    with_gradient(RESAMPLED[name], image())


def test_maximum_keeps_nan_and_names_the_first_of_equals():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 3, 3] = torch.nan
    check(lambda x: F.max_pool2d(x, 2, return_indices=True), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int32, torch.int64])
def test_maxima_of_volumes_and_rows(dtype: torch.dtype):
    """Places too, where a dilated window reaches over both borders."""
    x = (image(2, 3, 5, 6, 7) * 8).to(dtype)
    check(lambda x: F.max_pool3d(x, (3, 2, 3), (1, 2, 2), (1, 1, 1), (2, 1, 2), return_indices=True), x)
    if dtype.is_floating_point:  # the CPU takes no integers here
        check(lambda x: F.adaptive_max_pool1d(x.flatten(2), 9, return_indices=True), x)


@pytest.mark.parametrize("name", ["huber_loss", "smooth_l1_loss"])
def test_gradient_of_a_loss_with_a_knee(name: str):
    with_gradient(lambda x, y: getattr(F, name)(x, y, reduction="none"), image(), image().flip(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape, groups", [((2, 6, 5), 3), ((3, 4), 2), ((2, 6, 3, 4), 1), ((0, 4, 3), 2)])
def test_group_norm(shape: tuple[int, ...], groups: int, dtype: torch.dtype):
    x, w, b = image(*shape).to(dtype), image(shape[1]).to(dtype), image(shape[1]).flip(0).to(dtype)
    check(lambda x: F.group_norm(x, groups), x)
    check(lambda x, w: F.group_norm(x, groups, w), x, w)
    check(lambda x, w, b: F.group_norm(x, groups, w, b), x, w, b)


def test_unpooling_is_the_inverse():
    x = image()

    def round_trip(x: torch.Tensor) -> torch.Tensor:
        pooled, at = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(pooled, at, 2, output_size=x.shape[-2:])

    check(round_trip, x, tolerance=(0, 0))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling_a_field(mode: str, padding: str):
    grid = torch.linspace(-1.17, 1.31, 2 * 4 * 5 * 2).reshape(2, 4, 5, 2)
    with_gradient(lambda x, g: F.grid_sample(x, g, mode, padding, align_corners=False), image(), grid)


def test_order_statistics():
    x = image(6, 11)
    x[2, 4] = torch.nan
    check(lambda x: (x.median(1).values, x.nanmedian(1).values, x.median(), x.nanmedian()), x, tolerance=(0, 0))
    check(lambda x: (x.cummax(1), x.cummin(0)), x, tolerance=(0, 0))
    check(lambda x: x.logcumsumexp(1), image(6, 11), tolerance=EXACT)
    check(lambda x: x.mode(1), (image(6, 11) * 2).round(), tolerance=(0, 0))


def test_distinct():
    x = (image(5, 8) * 2).round().to(torch.int64)
    check(lambda x: torch.unique(x, return_inverse=True, return_counts=True), x)
    check(lambda x: torch.unique(x % 2, dim=1, return_inverse=True, return_counts=True), x)
    check(lambda x: torch.unique_consecutive(x, return_inverse=True, return_counts=True), x)


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "prod"])
def test_segments(reduce: str):
    lengths = torch.tensor([3, 0, 4, 2])
    data = image(9, 5) + 2
    with_gradient(
        lambda x: torch.segment_reduce(x, reduce, lengths=lengths.to(x.device), initial=1.0, unsafe=True), data
    )


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags(mode: str):
    indices, offsets = torch.tensor([1, 2, 4, 5, 4, 3, 2, 9]), torch.tensor([0, 4, 4, 6])
    with_gradient(
        lambda w: F.embedding_bag(indices.to(w.device), w, offsets.to(w.device), mode=mode, padding_idx=9), image(10, 4)
    )


def test_scattered_products():
    index = torch.tensor([[0, 1, 1, 2], [2, 2, 2, 0]])
    for include in (True, False):
        check(lambda x, i, s, include=include: x.scatter_reduce(1, i, s, "prod", include_self=include),
              image(2, 3), index, image(2, 4), tolerance=EXACT)  # fmt: skip


@pytest.mark.parametrize("edges", [[0.0, 1, 2, 3, 4], [1.5, -2, 3, 0.5, 2], [3.0, 2, 1], [2.0, 2]])
def test_histograms_place_values_as_the_cpu_does_also_between_edges_out_of_order(edges):
    edges = torch.tensor(edges)
    values = torch.cat([edges, edges.nextafter(edges + 1), torch.linspace(-3, 5, 97), torch.tensor([float("nan")])])
    pairs = torch.stack((values, values.flip(0)), -1)
    here, there = (torch.histogramdd(x, [e, e]).hist for x, e in ((pairs, edges), (pairs.to("mtia"), edges.to("mtia"))))
    assert torch.equal(there.cpu(), here)


def test_histograms_count_every_element_once():
    x = image(200)
    edges = torch.linspace(-2, 2, 9)
    check(torch.ops.aten.histogram.bins_tensor, x, edges)
    counts = torch.ops.aten.histogram.bin_ct(x.to("mtia"), 10)[0].cpu()
    assert counts.sum() == 200


SPECIAL = ("i0", "i0e", "i1", "i1e", "digamma", "erfcx", "bessel_j0", "bessel_j1", "modified_bessel_k0", "ndtri")


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name: str):
    check(getattr(torch.special, name), torch.linspace(0.05, 0.95, 40), tolerance=EXACT)


def test_functions_of_two():
    a, x = torch.linspace(1.5, 6, 24), torch.linspace(0.3, 5, 24)
    check(lambda a, x: (torch.igamma(a, x), torch.igammac(a, x), torch.special.zeta(a, x)), a, x, tolerance=EXACT)
    check(lambda x: torch.special.chebyshev_polynomial_t(x, torch.full_like(x, 5.0)), x / 6, tolerance=EXACT)
    check(lambda x: (torch.polygamma(2, x), torch.nextafter(x, -x)), x, tolerance=EXACT)


def test_mantissa_and_exponent():
    x = torch.tensor([0.0, 1.0, -3.5, 1e-42, torch.inf, -torch.inf, 1024.0])
    check(torch.frexp, x, tolerance=(0, 0))
    check(lambda x: (torch.round(x, decimals=2), torch.angle(x)), torch.tensor([1.239, -7.255, 0.0]), tolerance=EXACT)


def test_distances():
    with_gradient(torch.nn.functional.pdist, image(6, 4))
    for p in (0.0, 1.0, 2.0, 3.0, float("inf")):
        with_gradient(lambda x, y, p=p: torch.cdist(x, y, p, compute_mode="donot_use_mm_for_euclid_dist"),
                      image(5, 4), image(3, 4) + 1)  # fmt: skip


def test_losses_with_margins():
    target = torch.tensor([1, 0, 3])
    with_gradient(lambda x: F.multi_margin_loss(x, target.to(x.device)), image(3, 4))
    many = torch.tensor([[1, 3, -1, 0], [0, -1, 2, 1], [2, 1, 0, -1]])
    with_gradient(lambda x: F.multilabel_margin_loss(x, many.to(x.device)), image(3, 4))


def test_connectionist_temporal_classification():
    scores = image(7, 3, 5)
    targets = torch.tensor([[1, 2, 2], [3, 1, 0], [4, 0, 0]])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return F.ctc_loss(x.log_softmax(-1), targets.to(x.device), [7, 6, 5], [3, 2, 0], reduction="none")

    with_gradient(loss, scores)


def test_ctc_lengths_stay_on_the_device():
    """Lengths as tensors give what lists give, for padded and for joined targets, and only single numbers are read."""
    scores, lengths, counts = image(7, 3, 5), torch.tensor([7, 6, 5]), torch.tensor([3, 2, 1])
    padded, joined = torch.tensor([[1, 2, 2], [3, 1, 0], [4, 0, 0]]), torch.tensor([1, 2, 2, 3, 1, 4])

    def loss(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        there = (t.to(x.device) for t in (targets, lengths, counts))
        return F.ctc_loss(x.log_softmax(-1), *there, reduction="mean")

    with_gradient(lambda x: loss(x, padded), scores)
    with_gradient(lambda x: loss(x, joined), scores)
    x, n, c = scores.log_softmax(-1).to("mtia"), lengths.to("mtia"), counts.to("mtia")
    with record.session() as log:
        F.ctc_loss(x, joined.to("mtia"), n, c)
    assert all(s.work.n_bytes <= 8 for s in log.of_kind(record.Kind.COPY) if s.name == "download")


def test_pooling_at_random_places():
    samples = torch.tensor([[[0.1, 0.9], [0.5, 0.2], [0.99, 0.0]], [[0.3, 0.4], [0.7, 0.6], [0.05, 0.8]]])
    pool = torch.ops.aten.fractional_max_pool2d
    check(lambda x, u: pool(x, [2, 3], [3, 4], u), image(), samples, tolerance=(0, 0))


def test_random_slopes_are_kept_for_the_gradient():
    x = image(40).to("mtia")
    noise = torch.zeros_like(x)
    y = torch.ops.aten.rrelu_with_noise(x, noise, 0.1, 0.3, True)
    slopes = noise[x <= 0].cpu()
    assert slopes.min() >= 0.1 and slopes.max() <= 0.3 and len(slopes.unique()) > 5
    assert torch.equal(y.cpu(), (x * noise).cpu())
