"""Verify routes by an information bottleneck: do an image's open channels contain the bits of its label? (DRIB)

Per-sample information-bottleneck attribution (Schulz et al., ICLR 2020), after each routed layer of the dense network:
z = l r + (1 - l) eps with eps ~ N(mean, variance) of the layer's values r, l = blur_1(sigmoid(alpha)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import BatchSource
from ..gates import CostModel
from ..progress import SILENT, Progress
from ..training import to_device
from .cost import macs_per_image
from .routing import DynamicClassifier

INITIAL_ALPHA = 5.0
"""Initial alpha: its sigmoid is .993."""

CAPACITY_WEIGHT = 10.0
"""Weight of the mean capacity in the loss."""

LEARNING_RATE = 1.0
"""Of Adam, on alpha."""

STEPS = 10
"""Steps of Adam per image."""

IMAGES_A_BATCH = 10

SET_SHARE = 0.9
"""S_IB is the smallest set of channels with this share of the bits."""

MIN_COVERED = 0.5
"""A choice is accepted if it opens at least this share of S_IB."""

_MIN_VARIANCE = 1e-8


@dataclass(frozen=True)
class RouteEvidence:
    """Verification of one route over all images: bits after its layer in the dense network, and its choices.

    ``bits_per_pixel``: mean capacity of a channel's pixel. ``bits_per_channel``: of a channel, summed over pixels.
    ``channels``: mean size of S_IB. ``open_channels``: mean number of channels that the route opens.
    ``covered``: mean share of S_IB among those. ``accepted``: share of the images whose choice is accepted; the others
    run this layer dense.
    """

    route: str
    bits_per_pixel: float
    bits_per_channel: float
    channels: float
    open_channels: float
    covered: float
    accepted: float


@dataclass(frozen=True)
class VerificationEvidence:
    """Result of the verification of a dynamic classifier.

    ``macs_with_dense``: mean MACs if every layer whose choice was not accepted runs dense.
    ``accuracy``, ``accuracy_with_dense``: on the same images, as routed and with those layers dense.
    """

    images: int
    routes: tuple[RouteEvidence, ...]
    macs: float
    macs_with_dense: float
    accuracy: float
    accuracy_with_dense: float

    @property
    def accepted(self) -> float:
        """Share of all choices that are accepted."""
        return sum(route.accepted for route in self.routes) / len(self.routes)

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return asdict(self) | {"accepted": self.accepted}


@dataclass(frozen=True)
class FeatureMoments:
    """Mean and variance of every value (C, H, W) of a layer's output."""

    mean: Tensor
    variance: Tensor


def capacity(values: Tensor, passed: Tensor, moments: FeatureMoments) -> Tensor:
    """Bits (N, C, H, W) of r in z = l r + (1 - l) eps: KL(N(l r + (1-l) m, (1-l)^2 v) || N(m, v)).

    Args:
        values: r (N, C, H, W).
        passed: l (N, C, H, W), 0 <= l < 1.
    """
    noise = (1 - passed) ** 2
    normal = (values - moments.mean) / moments.variance.sqrt()
    nats = 0.5 * (noise + passed**2 * normal**2 - 1 - noise.clamp_min(1e-12).log())
    return nats / math.log(2)


def smallest_set(bits: Tensor, share: float = SET_SHARE) -> Tensor:
    """(N, C) bool: the fewest channels with ``share`` of each row's bits (N, C); none for rows without bits."""
    order = bits.argsort(dim=1, descending=True, stable=True)
    before = bits.gather(1, order).cumsum(1) - bits.gather(1, order)
    inside = before < share * bits.sum(1, keepdim=True) * (1 - 1e-9)
    return torch.zeros_like(inside).scatter(1, order, inside)


def coverage(opened: Tensor, needed: Tensor) -> Tensor:
    """(N,) |opened & needed| / |needed| of channel sets (N, C) bool; 1 where nothing is needed."""
    count = needed.sum(1)
    return torch.where(count > 0, (opened & needed).sum(1) / count.clamp_min(1), 1.0)


def blur(values: Tensor, sigma: float = 1.0) -> Tensor:
    """Gaussian blur of (N, C, H, W) over pixels, edges reflected; the kernel ends at 2 sigma."""
    if sigma <= 0:
        return values
    height, width = values.shape[2:]
    for axis, size in ((2, height), (3, width)):
        reach = min(math.ceil(2 * sigma), size - 1)
        steps = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
        kernel = torch.exp(-(steps**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        pad = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        shape = (-1, 1) if axis == 2 else (1, -1)
        planes = F.pad(values, pad, mode="reflect").flatten(0, 1)[:, None]
        values = F.conv2d(planes, kernel.view(1, 1, *shape)).view(*values.shape)
    return values


Hook = Callable[[nn.Module, object, Tensor], Tensor | None]
"""A forward hook: (layer, inputs, output) -> the output that replaces it, or None."""


@contextmanager
def _output_hook(network: nn.Module, layer: str, hook: Hook) -> Iterator[None]:
    handle = network.get_submodule(layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def read_moments(network: nn.Module, layers: Sequence[str], batches: BatchSource) -> dict[str, FeatureMoments]:
    """Mean and variance of each layer's output over one pass; ``network`` is in eval mode."""
    device = next(network.parameters()).device
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    count = 0

    def accumulate(name: str) -> Hook:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            values = output.double()
            first, second = sums.get(name, (torch.zeros(()), torch.zeros(())))
            sums[name] = (first.to(values) + values.sum(0), second.to(values) + (values**2).sum(0))

        return hook

    handles = [network.get_submodule(name).register_forward_hook(accumulate(name)) for name in layers]
    try:
        for batch in batches.epoch(0):
            network(to_device(batch, device).images)
            count += len(batch.labels)
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: FeatureMoments(
            (first / count).float(), (second / count - (first / count) ** 2).clamp_min(_MIN_VARIANCE).float()
        )
        for name, (first, second) in sums.items()
    }


def bits_of(network: nn.Module, layer: str, moments: FeatureMoments, images: Tensor, labels: Tensor) -> Tensor:
    """(N, C, H, W) bits that the labels need of each value of ``layer``'s output, by ten steps on alpha per image.

    Loss: cross entropy + 10 x mean capacity, for each image on its own.
    """
    shape = (len(images), *moments.mean.shape)
    alpha = torch.full(shape, INITIAL_ALPHA, device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=LEARNING_RATE)
    capacities: list[Tensor] = []

    def inject(_: nn.Module, __: object, output: Tensor) -> Tensor:
        passed = blur(alpha.sigmoid())
        noise = moments.mean + moments.variance.sqrt() * torch.randn_like(output)
        capacities.append(capacity(output.detach(), passed, moments))
        return passed * output.detach() + (1 - passed) * noise

    with _output_hook(network, layer, inject), torch.enable_grad():
        for _ in range(STEPS):
            capacities.clear()
            ce = F.cross_entropy(network(images), labels, reduction="sum")
            loss = ce + CAPACITY_WEIGHT * capacities[0].flatten(1).mean(1).sum()
            (alpha.grad,) = torch.autograd.grad(loss, [alpha])
            optimizer.step()
        capacities.clear()
        with torch.no_grad():
            network(images)
    return capacities[0]


def verify_routes(
    model: DynamicClassifier,
    dense: nn.Module,
    cost: CostModel,
    images: BatchSource,
    sample: BatchSource,
    *,
    progress: Progress = SILENT,
) -> VerificationEvidence:
    """Compare the channels that each image opens with those that contain its label's bits; leaves both in eval mode.

    Args:
        dense: the network before routes were learned: closed channels carry no information, so bits are measured
            with all channels open.
        cost: of ``routed_cost``.
        images: to verify, in batches of about ``IMAGES_A_BATCH``.
        sample: images to estimate the noise's mean and variance from.
    """
    device = next(model.parameters()).device
    model.eval()
    dense.eval()
    layers = [route.layer for route in model.routes]
    moments = read_moments(dense, layers, sample)
    by_route: list[list[Tensor]] = [[] for _ in layers]
    figures = []
    for batch in progress.track(images.epoch(0), "verification", total=len(images), unit="batches"):
        batch = to_device(batch, device)
        with torch.no_grad():
            routing = model.routed(batch.images)
        refused = []
        for index, layer in enumerate(layers):
            bits = bits_of(dense, layer, moments[layer], batch.images, batch.labels).flatten(2)
            opened, needed = routing.gates[index] > 0, smallest_set(bits.sum(2))
            covered = coverage(opened, needed)
            accepted = covered >= MIN_COVERED
            refused.append(~accepted)
            columns = (bits.mean((1, 2)), bits.sum(2).mean(1), needed.sum(1), opened.sum(1), covered, accepted)
            by_route[index].append(torch.stack([values.double().cpu() for values in columns], 1))
        with torch.no_grad():
            with_dense = model.routed(batch.images, dense=refused)
        by_image = [
            values
            for result in (routing, with_dense)
            for values in (macs_per_image(cost, result.gates), result.logits.argmax(1) == batch.labels)
        ]
        figures.append(torch.stack([values.double().cpu() for values in by_image], 1))
    macs, accuracy, macs_with_dense, accuracy_with_dense = torch.cat(figures).mean(0).tolist()
    routes = [
        RouteEvidence(route.name, *torch.cat(rows).mean(0).tolist())
        for route, rows in zip(model.routes, by_route, strict=True)
    ]
    count = len(torch.cat(figures))
    return VerificationEvidence(count, tuple(routes), macs, macs_with_dense, accuracy, accuracy_with_dense)
