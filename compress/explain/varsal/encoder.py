"""The network that gives a saliency map: image -> mean and log variance per pixel, at the image's own resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTHS = (64,) * 4 + (32,) * 5 + (16,) * 6
"""Channels of the hidden layers (VarSal); 0.19 G MACs for a 32-pixel image, 9.2 G for one of 224."""

RECOMPUTE_ABOVE = 64 * 64
"""Pixels of an image above which activations are computed again for the gradient instead of being kept: a batch of 32
at 224 pixels keeps 6.6 GB otherwise. It costs a second forward pass of the encoder."""

_PER_BLOCK = 2


class Encoder(nn.Module):
    """3x3 convolutions, batch norm, ReLU, no pooling; the last layer is a convolution alone.

    Fully convolutional: it takes any size, but is made for the one that it was trained at.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        inputs = (3, *widths)
        layers = [_layer(a, b) for a, b in zip(inputs, widths, strict=False)]
        blocks = [nn.Sequential(*layers[k : k + _PER_BLOCK]) for k in range(0, len(layers), _PER_BLOCK)]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(inputs[-1], 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 2, H, W) mu and log nu of images (N, 3, H, W)."""
        x = images
        recompute = self.training and torch.is_grad_enabled() and x.shape[2] * x.shape[3] > RECOMPUTE_ABOVE
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_twice, block)) if recompute else block(x)
        maps: Tensor = self.head(x)
        return maps


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _twice(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first pass and of the second: the same batch must not count twice in BN's statistics."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
