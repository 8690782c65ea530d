"""Feature pyramid of any backbone: its scales are found by running it, not by the names of its layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import ModelError
from ...modes import eval_mode

MAX_SCALES = 4


@dataclass(frozen=True)
class FeatureScale:
    """The last layer whose output has a given size: ``channels`` maps of ``side`` x ``side`` pixels."""

    layer: str
    channels: int
    side: int


@dataclass(frozen=True)
class _LayerCall:
    """One call of a layer: sides of its input and its output (0: no feature map), and output channels."""

    layer: str
    input_side: int
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
    calls: list[_LayerCall] = []
    handles = []

    def record(name: str) -> object:
        def hook(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            channels = output.shape[1] if isinstance(output, Tensor) and output.dim() > 1 else 0
            calls.append(_LayerCall(name, _map_side(inputs[0] if inputs else None), _map_side(output), channels))

        return hook

    for name, module in classifier.named_modules():
        if name:
            handles.append(module.register_forward_hook(record(name)))
    try:
        with eval_mode(classifier):
            classifier(example)
    finally:
        for handle in handles:
            handle.remove()
    scales = _last_per_side(calls, example.shape[1])
    if len(scales) < 2:
        raise ModelError(
            "the explainer needs feature maps at two resolutions or more (square images, a convolutional "
            f"backbone), this model has {len(scales)}; set explainer.enabled=false and "
            "gates.steer=magnitude (or none, uniform)"
        )
    return scales


def _map_side(value: object) -> int:
    """Side of a square feature map in pixels; 0 for anything else, a single pixel included."""
    if isinstance(value, Tensor) and value.dim() == 4 and value.shape[2] == value.shape[3] > 1:
        return value.shape[2]
    return 0


def _last_per_side(calls: Sequence[_LayerCall], image_channels: int) -> tuple[FeatureScale, ...]:
    """For each side the last output that the next stage (or the pooling) reads."""
    uses = Counter(call.layer for call in calls)
    sides = sorted({call.side for call in calls if call.side})
    next_lower = dict(zip(sides[1:], sides, strict=False))
    # A block that lowers the resolution may widen its input first: those inner maps are not a stage's output.
    lowering = [
        (f"{call.layer}.", call.input_side) for call in calls if next_lower.get(call.input_side, 0) == call.side > 0
    ]
    last: dict[int, FeatureScale] = {}
    inner: dict[int, FeatureScale] = {}
    for call in calls:
        if not call.side or call.channels == image_channels:
            continue
        if uses[call.layer] > 1 or call.side > min(last.keys() | inner.keys(), default=call.side):
            continue  # a shared layer has outputs of several sides; an upsampled map holds no finer detail
        inside = any(call.side == side and call.layer.startswith(block) for block, side in lowering)
        (inner if inside else last)[call.side] = FeatureScale(call.layer, call.channels, call.side)
    by_side = inner | last
    return tuple(by_side[side] for side in sorted(by_side))[:MAX_SCALES]


class Capture:
    """Forward hooks that keep the features of the last forward pass of ``classifier``, until ``remove``."""

    def __init__(self, classifier: nn.Module, scales: Sequence[FeatureScale]) -> None:
        self._order = [scale.layer for scale in scales]
        self._features: dict[str, Tensor] = {}
        self._handles = [classifier.get_submodule(name).register_forward_hook(self._keep(name)) for name in self._order]

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            self._features[name] = output

        return hook

    def take(self) -> list[Tensor]:
        """Return the features of the last forward pass, coarse to fine, and release them."""
        features = [self._features[name] for name in self._order]
        self._features.clear()
        return features

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


@contextmanager
def captured(classifier: nn.Module, scales: Sequence[FeatureScale]) -> Iterator[list[Tensor]]:
    """After the block, the list holds the features of the forward pass inside it, coarse to fine.

    Hooks exist only inside the block: a copied or saved model has none.
    """
    capture = Capture(classifier, scales)
    features: list[Tensor] = []
    try:
        yield features
        features.extend(capture.take())
    finally:
        capture.remove()
