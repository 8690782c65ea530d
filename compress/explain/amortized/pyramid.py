"""Multi-scale features of any backbone: the scales are found by running it, not by the names of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import ModelError

MAX_SCALES = 4


@dataclass(frozen=True)
class FeatureScale:
    """The last layer whose output has a given size: ``channels`` maps of ``side`` x ``side`` pixels."""

    layer: str
    channels: int
    side: int


@dataclass(frozen=True)
class _Call:
    """One call of a layer: the sides of what went in and came out (0: no feature map), and its channels."""

    layer: str
    before: int
    side: int
    channels: int


@torch.no_grad()
def find_scales(classifier: nn.Module, example: Tensor) -> tuple[FeatureScale, ...]:
    """The deepest feature map of ``classifier`` and up to three finer ones, coarse to fine.

    Args:
        example: (1, 3, H, W) images with H = W.

    Raises:
        ModelError: the network has no feature maps at two resolutions.
    """
    calls: list[_Call] = []
    handles = []

    def record(name: str) -> object:
        def hook(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            channels = output.shape[1] if isinstance(output, Tensor) and output.dim() > 1 else 0
            calls.append(_Call(name, _side(inputs[0] if inputs else None), _side(output), channels))

        return hook

    for name, module in classifier.named_modules():
        if name:
            handles.append(module.register_forward_hook(record(name)))
    training = classifier.training
    classifier.eval()
    try:
        classifier(example)
    finally:
        classifier.train(training)
        for handle in handles:
            handle.remove()
    scales = _choose(calls, example.shape[1])
    if len(scales) < 2:
        raise ModelError(
            "the explainer needs feature maps at two resolutions or more (square images, a convolutional "
            f"backbone), this model has {len(scales)}; set explainer.enabled=false and "
            "gates.steer=magnitude (or none, uniform)"
        )
    return scales


def _side(value: object) -> int:
    """Side of a square feature map in pixels; 0 for anything else. One pixel is no map."""
    if isinstance(value, Tensor) and value.dim() == 4 and value.shape[2] == value.shape[3] > 1:
        return value.shape[2]
    return 0


def _choose(calls: Sequence[_Call], colours: int) -> tuple[FeatureScale, ...]:
    """For each side the last output that the next stage (or the pooling) reads."""
    times = Counter(call.layer for call in calls)
    sides = sorted({call.side for call in calls if call.side})
    below = dict(zip(sides[1:], sides, strict=False))
    # A block that lowers the resolution may widen its input first: what it works on inside is no stage's output.
    lowering = [(f"{call.layer}.", call.before) for call in calls if below.get(call.before, 0) == call.side > 0]
    last: dict[int, FeatureScale] = {}
    inner: dict[int, FeatureScale] = {}
    for call in calls:
        if not call.side or call.channels == colours:
            continue
        if times[call.layer] > 1 or call.side > min(last.keys() | inner.keys(), default=call.side):
            continue  # a shared layer says its name at several sides; a map that was enlarged holds nothing finer
        inside = any(call.side == before and call.layer.startswith(block) for block, before in lowering)
        (inner if inside else last)[call.side] = FeatureScale(call.layer, call.channels, call.side)
    found = inner | last
    return tuple(found[side] for side in sorted(found))[:MAX_SCALES]


class Capture:
    """Keeps the features of every forward of ``classifier``, from construction to ``remove``."""

    def __init__(self, classifier: nn.Module, scales: Sequence[FeatureScale]) -> None:
        self._order = [scale.layer for scale in scales]
        self._found: dict[str, Tensor] = {}
        self._handles = [classifier.get_submodule(name).register_forward_hook(self._keep(name)) for name in self._order]

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._found[name] = output

        return hook

    def take(self) -> list[Tensor]:
        """The features of the last forward, coarse to fine; they are forgotten here."""
        features = [self._found[name] for name in self._order]
        self._found.clear()
        return features

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def captured(classifier: nn.Module, scales: Sequence[FeatureScale]) -> Iterator[list[Tensor]]:
    """Within the block, a forward of ``classifier`` fills the list with its features, coarse to fine.

    Hooks live only that long: a copied or saved model carries none.
    """
    capture = Capture(classifier, scales)
    features: list[Tensor] = []
    try:
        yield features
        # A forward is complete only here; callers read ``features`` after the block.
        features.extend(capture.take())
    finally:
        capture.remove()
