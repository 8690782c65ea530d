"""Maps of a set of images, and the ranks of their pixels with ties broken by a seeded draw.

Quantised maps have many ties: broken by the order of pixels in memory, they would remove an image from its top-left
corner on, which looks like an explanation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...errors import DataError
from ...progress import SILENT, Progress
from ..base import Explainer, Saliency

BATCH = 128


def explain_images(
    explainer: Explainer,
    images: Tensor,
    labels: Tensor,
    *,
    device: torch.device | None = None,
    batch_size: int = BATCH,
    progress: Progress = SILENT,
) -> Saliency:
    """Maps (N, H, W), float32 on the CPU, of ``explainer`` for ``images`` (N, 3, H, W) and classes ``labels`` (N,).

    Tests that remove pixels rank them by ``importance``; tests that compare maps take ``maps``, with their signs.

    Raises:
        DataError: a map that is not finite, or not as large as the image.
    """
    batches, signed = [], False
    starts = range(0, len(images), batch_size)
    for start in progress.track(starts, f"explain by {explainer.name}", total=len(starts)):
        part = slice(start, start + batch_size)
        saliency = explainer.explain(images[part].to(device), labels[part].to(device))
        maps, signed = saliency.maps.detach().float().cpu(), saliency.signed
        if maps.shape[1:] != images.shape[2:] or len(maps) != len(images[part]):
            raise DataError(
                f"explainer '{explainer.name}' gives maps {tuple(maps.shape)} for images {tuple(images[part].shape)}; "
                "one map per image, as large as the image, is needed"
            )
        broken = ~maps.isfinite().flatten(1).all(1)
        if broken.any():
            raise DataError(
                f"explainer '{explainer.name}' gives a map with NaN or infinity for image "
                f"{start + int(broken.nonzero()[0])}: such a map has no order to test; leave this explainer out"
            )
        batches.append(maps)
    return Saliency(torch.cat(batches), signed=signed)


@torch.no_grad()
def predicted_classes(classifier: nn.Module, images: Tensor, *, batch_size: int = BATCH) -> Tensor:
    """(N,) the classes that ``classifier`` predicts for ``images`` (N, 3, H, W), which all tests explain."""
    device = device_of(classifier)
    return torch.cat([classifier(part.to(device)).argmax(1).cpu() for part in torch.split(images, batch_size)])


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's first parameter."""
    return next(model.parameters()).device


def is_constant(maps: Tensor) -> Tensor:
    """(N,) whether a map (H, W) has one value only: its ranks are all from the draw."""
    flat = maps.flatten(1)
    return (flat == flat[:, :1]).all(1)


def to_ranks(maps: Tensor, *, seed: int = 0) -> Tensor:
    """Rank of every pixel, from the least salient (0) to the most; equal pixels are in a random order by ``seed``.

    (N, ...) -> int64 of the same shape; every row is a permutation. The draw depends on the seed, the number of rows
    and their size only.
    """
    flat = maps.flatten(1)
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.rand(flat.shape, generator=generator).argsort(1)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, stable=True))
    ranks = torch.arange(flat.shape[1]).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, ranks).view(maps.shape)
