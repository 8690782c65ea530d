"""Multi-scale features of any backbone: the scales are found by running it, not by the names of its layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ModelError

MAX_SCALES = 4


@dataclass(frozen=True)
class Scale:
    """The last layer whose output has a given size: ``channels`` maps of ``side`` x ``side`` pixels."""

    layer: str
    channels: int
    side: int


@torch.no_grad()
def find_scales(classifier: nn.Module, example: Tensor) -> tuple[Scale, ...]:
    """The deepest feature map of ``classifier`` and up to three finer ones, coarse to fine.

    Args:
        example: (1, 3, H, W) images with H = W.

    Raises:
        ModelError: the network has no feature maps at two resolutions.
    """
    seen: list[Scale] = []
    handles = []

    def record(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3] > 1:
                seen.append(Scale(name, output.shape[1], output.shape[2]))

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
    # The last output of a resolution is the one that the next stage (or the pooling) reads.
    last = {scale.side: scale for scale in seen if scale.channels != example.shape[1]}
    scales = tuple(last[side] for side in sorted(last))[:MAX_SCALES]
    if len(scales) < 2:
        raise ModelError(
            "the explainer needs feature maps at two resolutions or more (square images, a convolutional "
            f"backbone), this model has {len(scales)}; rank its channels with gates.steer=magnitude instead"
        )
    return scales


@contextmanager
def captured(classifier: nn.Module, scales: Sequence[Scale]) -> Iterator[list[Tensor]]:
    """Within the block, a forward of ``classifier`` fills the list with its features, coarse to fine.

    Hooks live only that long: a copied or saved model carries none.
    """
    found: dict[str, Tensor] = {}
    modules = dict(classifier.named_modules())

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            found[name] = output

        return hook

    handles = [modules[scale.layer].register_forward_hook(keep(scale.layer)) for scale in scales]
    features: list[Tensor] = []
    try:
        yield features
        # A forward is complete only here; callers read ``features`` after the block.
        features.extend(found[scale.layer] for scale in scales)
    finally:
        for handle in handles:
            handle.remove()
