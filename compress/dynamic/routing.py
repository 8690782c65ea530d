"""Routers, routes, and the dynamic classifier that chooses channels per image (DRIB; Wang et al., AAAI 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import PruningError
from ..modes import eval_mode
from ..parallel.processes import mean_and_std, random_per_image
from ..surgery import ChannelGraph, ChannelGroup, Slot

MAX_MASK = 5.0
"""Upper bound of mask values."""

MEAN_RATE = 0.05
"""Rate of the running mean of the features per training batch."""

MIN_KEPT_MASK = 1e-3
"""Lower bound of kept values once masks are hard, so that exactly the kept channels are computed and counted."""


class Router(nn.Module):
    """Head and masks of one route: p = softmax(head(GAP(ReLU(x)))) over ``masks`` masks.

    Args:
        inputs: channels of x, the routed layer's input.
        channels: of the routed layer's output.
        masks: number of masks to choose from.
    """

    keep: Tensor
    mean: Tensor

    def __init__(self, inputs: int, channels: int, masks: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, masks, bias=False)
        nn.init.normal_(self.head.weight)
        self.masks = nn.Parameter(torch.ones(masks, channels))
        self.register_buffer("keep", torch.ones(masks, channels, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(inputs))
        self.hard = False
        self.project_()

    @torch.no_grad()
    def project_(self) -> None:
        """Project after each step: rows of the head to length 1 and orthogonal to the mean of the features.

        Mask values are clamped to 0 .. 5; closed ones are 0, and kept ones above it once masks are hard.

        Features after a ReLU have a mean that outweighs the differences between images: a head without a bias that
        has a part along it gives every image the same mask, and the other masks never learn.
        """
        rows = self.head.weight
        direction = F.normalize(self.mean, dim=0)
        rows.sub_((rows @ direction)[:, None] * direction)
        rows.div_(rows.norm(dim=1, keepdim=True).clamp_min(1e-12))
        self.masks.clamp_(MIN_KEPT_MASK if self.hard else 0.0, MAX_MASK).mul_(self.keep)

    def score(self, x: Tensor) -> Tensor:
        """(N, masks) scores of the masks for x (N, inputs, H, W)."""
        features = self.features(x)
        if self.training:
            self.update_mean_(features.detach())
        scores: Tensor = self.head(features)
        return scores

    def features(self, x: Tensor) -> Tensor:
        """(N, inputs) GAP(ReLU(x)), the head's input."""
        return x.relu().mean((2, 3))

    def choose(self, scores: Tensor, temperature: float | None) -> Tensor:
        """(N, masks) one-hot choices.

        Args:
            temperature: of the hard straight-through Gumbel-softmax, in standard deviations of the scores over the
                batch: with rows of length 1, scores have the scale of their layer's features, and noise of a fixed
                size could decide every choice. None: the largest score, no noise.
        """
        if temperature is None:
            return F.one_hot(scores.argmax(1), scores.shape[1]).to(self.masks.dtype)
        spread = mean_and_std(scores.detach().float(), (0,))[1].mean().clamp_min(1e-6)
        scaled = scores.float() / (temperature * spread)
        noise = -random_per_image(scaled.detach(), Tensor.exponential_).log()
        soft = (scaled + noise).softmax(1)
        hard = F.one_hot(soft.argmax(1), scores.shape[1]).to(soft.dtype)
        return (hard - soft.detach() + soft).to(self.masks.dtype)

    @torch.no_grad()
    def init_head_(self, features: Tensor) -> None:
        """Set the head's rows to the principal directions of features (N, inputs), each with both signs."""
        self.mean.copy_(features.mean(0))
        centred = features.double() - features.double().mean(0)
        directions = torch.linalg.svd(centred, full_matrices=False).Vh
        number = torch.arange(len(self.masks), device=features.device)
        rows = directions[number // 2 % len(directions)]
        self.head.weight.copy_(torch.where(number[:, None] % 2 == 0, rows, -rows))
        self.project_()

    @torch.no_grad()
    def update_mean_(self, features: Tensor) -> None:
        """Update the running mean by the features (N, inputs) of a training batch."""
        self.mean.lerp_(mean_and_std(features, (0,))[0].to(self.mean.dtype), MEAN_RATE)


@dataclass(frozen=True)
class Route:
    """A group whose channels are chosen per image: ``layer`` produces them, its ``inputs`` input channels decide.

    The consumers of ``group`` include the heads that read its channels.
    """

    group: ChannelGroup
    layer: str
    inputs: int

    @property
    def name(self) -> str:
        """The group's name."""
        return self.group.name


def find_routes(network: nn.Module, graph: ChannelGraph, example: Tensor) -> tuple[Route, ...]:
    """The groups of ``graph`` that can be chosen per image, in the order in which the network computes them.

    Those are the outputs of a single ordinary convolution that is not the first: residual streams stay dense (as in
    DRIB, where only the first convolution of a basic block is gated).

    Raises:
        PruningError: there is none.
    """
    order = _conv_call_order(network, example)
    modules = dict(network.named_modules())
    routes = []
    for group in graph.groups:
        layer = modules[group.producers[0].layer] if len(group.producers) == 1 else None
        if not isinstance(layer, nn.Conv2d) or layer.groups != 1 or group.channels != layer.out_channels:
            continue
        name = group.producers[0].layer
        if name in order and name != order[0]:
            routes.append(Route(group, name, layer.in_channels))
    if not routes:
        raise PruningError(
            "no layer of this model can pick its channels per image: that takes a convolution, not the first one, "
            "whose channels no other layer adds to; use the slim model instead"
        )
    routes.sort(key=lambda route: order.index(route.layer))
    return tuple(_with_heads(route, routes) for route in routes)


def _with_heads(route: Route, routes: Sequence[Route]) -> Route:
    """``route`` with the heads that read its channels among its consumers: a head reads its layer's input."""
    slots = {slot.layer: slot for slot in route.group.consumers}
    heads = tuple(
        Slot(head_name(index), slots[other.layer].positions, slots[other.layer].sources)
        for index, other in enumerate(routes)
        if other.layer in slots
    )
    return replace(route, group=replace(route.group, consumers=(*route.group.consumers, *heads)))


def head_name(index: int) -> str:
    """The name that a route's head has in the cost model and in exported graphs."""
    return f"routers.{index}.head"


@torch.no_grad()
def _conv_call_order(network: nn.Module, example: Tensor) -> list[str]:
    """Names of the convolutions in the order of their first call."""
    order: list[str] = []
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}

    def record(name: str) -> Callable[[nn.Module, object], None]:
        def hook(*_: object) -> None:
            if name not in order:
                order.append(name)

        return hook

    handles = [layer.register_forward_pre_hook(record(name)) for name, layer in layers.items()]
    try:
        network(example)
    finally:
        for handle in handles:
            handle.remove()
    return order


class Routing(NamedTuple):
    """Result of one forward pass. By route: ``scores`` and one-hot ``choices`` (N, masks), ``gates`` (N, channels)."""

    logits: Tensor
    scores: list[Tensor]
    choices: list[Tensor]
    gates: list[Tensor]


class DynamicClassifier(nn.Module):
    """A classifier whose routed layers compute only the channels that a mask chosen per image opens.

    Gates act where channels are consumed: for values >= 0 that equals gating before the ReLU, as in DRIB.
    ``temperature`` is that of the choices in training (None: no noise); in eval mode there is no noise.
    """

    def __init__(self, classifier: nn.Module, routes: Sequence[Route], masks: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.routes = tuple(routes)
        self.routers = nn.ModuleList(Router(route.inputs, route.group.channels, masks) for route in self.routes)
        self.temperature: float | None = 1.0

    @torch.no_grad()
    def init_heads_(self, images: Tensor) -> None:
        """Initialise the heads so that every mask of a route is chosen by about as many of ``images``."""
        with eval_mode(self), self._gated(closing=False, init_heads=True):
            self.classifier(images)

    @property
    def router_list(self) -> list[Router]:
        """The routers, typed as ``Router``."""
        return [router for router in self.routers if isinstance(router, Router)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes)."""
        return self.routed(images).logits

    def routed(self, images: Tensor, *, closing: bool = True, dense: Sequence[Tensor] | None = None) -> Routing:
        """Logits and the routing that they were computed with.

        Args:
            closing: False closes no channel: the dense network with its heads.
            dense: by route (N,) bool, the images for which all of its channels are open.
        """
        with self._gated(closing, dense=dense) as routing:
            logits = self.classifier(images)
        return routing._replace(logits=logits)

    @contextmanager
    def _gated(
        self, closing: bool, *, init_heads: bool = False, dense: Sequence[Tensor] | None = None
    ) -> Iterator[Routing]:
        """Hooks for one forward pass: gate the consumers' inputs, then let the routed layers' heads choose.

        With ``init_heads`` each head is first initialised from its input.
        """
        temperature = self.temperature if self.training else None
        modules = dict(self.classifier.named_modules())
        routing = Routing(torch.empty(0), [], [], [])
        reads: dict[str, list[tuple[int, Slot]]] = {}
        for index, route in enumerate(self.routes):
            for slot in route.group.consumers:
                if closing and slot.layer in modules:
                    reads.setdefault(slot.layer, []).append((index, slot))
        numbers, routers = {route.layer: index for index, route in enumerate(self.routes)}, self.router_list

        def hook_of(layer: str) -> object:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
                x, *rest = args
                for index, slot in reads.get(layer, ()):
                    x = x * _input_factors(routing.gates[index], slot, module, x)
                if layer in numbers:
                    assert numbers[layer] == len(routing.gates), "routes are in the order of their layers' calls"
                    router = routers[numbers[layer]]
                    if init_heads:
                        router.init_head_(router.features(x))
                    routing.scores.append(router.score(x))
                    routing.choices.append(router.choose(routing.scores[-1], temperature))
                    gates = routing.choices[-1] @ router.masks
                    if dense is not None:
                        gates = gates.masked_fill(dense[numbers[layer]][:, None], 1)
                    routing.gates.append(gates)
                return (x, *rest)

            return hook

        layers = [name for name in modules if name in reads or name in numbers]
        handles = [modules[name].register_forward_pre_hook(hook_of(name)) for name in layers]
        try:
            yield routing
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def project_(self) -> None:
        """Project heads and masks onto their constraints; after every optimiser step."""
        for router in self.router_list:
            router.project_()


def _input_factors(values: Tensor, slot: Slot, layer: nn.Module, x: Tensor) -> Tensor:
    """Factors of the inputs x of ``layer``, broadcastable to x, from gate values (N, channels) of the slot's group."""
    width = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    assert isinstance(width, int)
    if slot.positions == slot.sources == tuple(range(width)):
        factor = values
    else:
        positions = torch.tensor(slot.positions, device=values.device)
        sources = torch.tensor(slot.sources, device=values.device)
        factor = values.new_ones(len(values), width).index_copy(1, positions, values[:, sources])
    return factor if x.dim() == 2 else factor[:, :, None, None]
