"""VarSal's explainer and its encoder: image -> mean and log variance per pixel, at the image's resolution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...errors import DataError, ModelError
from ...files.atomic import read_tensors, write_tensors
from ..base import Saliency
from .objective import check_side

WIDTHS = (64,) * 4 + (32,) * 5 + (16,) * 6
"""Channels of the hidden layers (VarSal); 0.19 G MACs for a 32-pixel image, 9.2 G for one of 224."""

RECOMPUTE_ABOVE = 64 * 64
"""Pixels of an image above which activations are recomputed for the gradient instead of stored: a batch of 32 at 224
pixels stores 6.6 GB otherwise. It costs a second forward pass of the encoder."""

_LAYERS_PER_BLOCK = 2


class Encoder(nn.Module):
    """3x3 convolutions with batch norm and ReLU, without pooling; the last layer is a bare convolution.

    Fully convolutional: it takes any size, but fits the one that it was trained at.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        inputs = (3, *widths)
        layers = [_conv_bn_relu(a, b) for a, b in zip(inputs, widths, strict=False)]
        starts = range(0, len(layers), _LAYERS_PER_BLOCK)
        self.blocks = nn.ModuleList(nn.Sequential(*layers[k : k + _LAYERS_PER_BLOCK]) for k in starts)
        self.head = nn.Conv2d(inputs[-1], 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 2, H, W) mu and log nu of images (N, 3, H, W)."""
        x = images
        recompute = self.training and torch.is_grad_enabled() and x.shape[2] * x.shape[3] > RECOMPUTE_ABOVE
        for block in self.blocks:
            x = (
                checkpoint(block, x, use_reentrant=False, context_fn=partial(_recompute_contexts, block))
                if recompute
                else block(x)
            )
        maps: Tensor = self.head(x)
        return maps


def _conv_bn_relu(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _recompute_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first pass and of the recomputation: a batch must not count twice in BN's statistics."""
    return nullcontext(), _frozen_statistics(block)


@contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class VarSal:
    """``Explainer`` of a trained network: ``maps`` = mu, ``uncertainty`` = sqrt(nu), in the prior's deviations.

    It explains the predicted distribution P(x), not the evidence for one class: labels are ignored.

    Args:
        maps: images (N, 3, H, W) -> (N, 2, H, W) mu and log nu, trained by ``train_maps``.
    """

    name = "varsal"

    def __init__(self, maps: nn.Module) -> None:
        self.network = maps.eval()

    @torch.no_grad()
    def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
        """Explain images (N, 3, H, W) in [0, 1], of the size that the maps were trained at; ``labels`` is ignored.

        Raises:
            DataError: the images are not (N, 3, H, W) of 8 pixels or more, or not finite.
        """
        del labels
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"VarSal cannot explain {tuple(images.shape)} {images.dtype}: give floating-point images (N, 3, H, W)"
            )
        check_side(*images.shape[2:])
        broken = ~images.flatten(1).isfinite().all(1)
        if broken.any():
            raise DataError(
                f"image {int(broken.nonzero()[0])} of {len(images)} holds NaN or infinity: give values in [0, 1]"
            )
        self.network.eval()
        weight = next(self.network.parameters())
        mean, log_variance = self.network(images.to(weight.device, weight.dtype)).float().unbind(1)
        return Saliency(mean, uncertainty=torch.exp(log_variance / 2))

    def save(self, path: Path) -> None:
        """Write the network's weights as safetensors."""
        write_tensors(path, self.network.state_dict())

    @classmethod
    def load(cls, path: Path, maps: nn.Module | None = None) -> VarSal:
        """Read what ``save`` wrote, to the CPU.

        Args:
            maps: a network of the saved architecture; an ``Encoder``, of the widths in the file, if not given.

        Raises:
            ModelError: the file's weights are of another architecture.
        """
        state = read_tensors(path)
        if maps is None:
            maps = Encoder(_encoder_widths(state))
        try:
            maps.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"{path} holds other weights than this network of saliency maps has: give the network that it was "
                "saved from, or train it again"
            ) from error
        return cls(maps)


def _encoder_widths(state: Mapping[str, Tensor]) -> list[int]:
    """Channels of the hidden layers of the ``Encoder`` with the weights ``state``, which are in no order."""
    layers = []
    for name, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.0\.weight", name):
            layers.append((int(match[1]), int(match[2]), len(value)))
    return [width for _, _, width in sorted(layers)]
