"""VarSal as an explainer: a mean map and its standard deviation, in one forward pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import DataError, ModelError
from ...files import read_tensors, write_tensors
from ..base import Saliency
from .encoder import Encoder
from .objective import check_side


class VarSal:
    """Variational saliency maps: ``maps`` = mu, ``uncertainty`` = sqrt(nu), in the prior's standard deviations.

    It explains the whole prediction P(x), not the evidence for one class: labels change nothing.

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
            DataError: the images are no (N, 3, H, W) of 8 pixels or more, or not finite.
        """
        del labels
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"VarSal cannot explain {tuple(images.shape)} {images.dtype}: give floating-point images (N, 3, H, W)"
            )
        check_side(*images.shape[2:])
        bad = ~images.flatten(1).isfinite().all(1)
        if bad.any():
            raise DataError(
                f"image {int(bad.nonzero()[0])} of {len(images)} holds NaN or infinity: give values in [0, 1]"
            )
        self.network.eval()
        weight = next(self.network.parameters())
        found = self.network(images.to(weight.device, weight.dtype)).float()
        return Saliency(found[:, 0], uncertainty=torch.exp(found[:, 1] / 2))

    def save(self, path: Path) -> None:
        """Write the network's weights as safetensors."""
        write_tensors(path, self.network.state_dict())

    @classmethod
    def load(cls, path: Path, maps: nn.Module | None = None) -> VarSal:
        """What ``save`` wrote, on the CPU.

        Args:
            maps: the network that it was saved from; an ``Encoder``, of the widths in the file, if not given.

        Raises:
            ModelError: the file's weights are those of another network.
        """
        state = read_tensors(path)
        if maps is None:
            maps = Encoder(_widths(state))
        try:
            maps.load_state_dict(state)
        except RuntimeError as error:
            raise ModelError(
                f"{path} holds other weights than this network of saliency maps has: give the network that it was "
                "saved from, or train it again"
            ) from error
        return cls(maps)


def _widths(state: Mapping[str, Tensor]) -> list[int]:
    """Of the hidden layers of the ``Encoder`` that ``state`` is of; a file keeps no order."""
    found = []
    for name, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.0\.weight", name):
            found.append((int(match[1]), int(match[2]), len(value)))
    return [width for _, _, width in sorted(found)]
