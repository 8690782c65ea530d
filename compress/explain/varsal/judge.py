"""What saliency maps are worth: does the prediction survive without the pixels that they rank lowest?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ...data import BatchSource
from ...errors import PruningError
from ...models import Classifier
from ...training import to_device
from ..predictor import divergence
from ..rbf import fixed_draws

REMOVED = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the pixels that are zeroed, lowest first."""

CONSTANT = 1e-3
"""Standard deviation over a map's pixels (the prior's is 1) below which it is constant."""


@dataclass(frozen=True)
class MapQuality:
    """KL(original || perturbed) in nats, means over images, per share of ``REMOVED`` with the lowest pixels zeroed.

    Zero means after normalisation: mean grey. ``kl_random`` ranks pixels at random, ``kl_other`` by the map of
    another image: what a map must beat to explain anything, and to explain this image.

    ``spread``: median over images of a map's standard deviation over its pixels. ``variety``: mean over pixels of the
    standard deviation over images. ``uncertainty``: mean of sqrt(nu). All in units of the prior's deviation.
    """

    removed: tuple[float, ...]
    kl: tuple[float, ...]
    kl_random: tuple[float, ...]
    kl_other: tuple[float, ...]
    spread: float
    variety: float
    uncertainty: float
    images: int

    @property
    def mean_kl(self) -> float:
        """Over the shares removed."""
        return sum(self.kl) / len(self.kl)

    @property
    def mean_kl_random(self) -> float:
        """Over the shares removed."""
        return sum(self.kl_random) / len(self.kl_random)

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@torch.inference_mode()
def judge_maps(maps: nn.Module, classifier: nn.Module, val: BatchSource, fabric: Fabric) -> MapQuality:
    """Measure a network of saliency maps by its means mu on validation images, in float32; leaves both in eval mode.

    Args:
        maps: images (N, 3, H, W) -> (N, 2, H, W) mu and log nu.
    """
    maps.eval()
    classifier.eval()
    sums = torch.zeros(3, len(REMOVED), dtype=torch.float64)
    spreads, moments, uncertainty, count = [], torch.zeros(()), 0.0, 0
    before: Tensor | None = None
    with fixed_draws(fabric.device):
        for batch in val.epoch(0):
            batch = to_device(batch, fabric.device)
            found = maps(batch.images).float()
            mean = found[:, 0]
            others = torch.cat([mean[-1:] if before is None else before, mean[:-1]])  # the map of the image before
            before = mean[-1:]
            reference = classifier(batch.images)
            for row, scores in enumerate((mean, torch.rand_like(mean), others)):
                for column, share in enumerate(REMOVED):
                    logits = masked_logits(classifier, batch.images, keep_highest(scores, 1 - share))
                    sums[row, column] += float(divergence(reference, logits).sum())
            spreads.append(mean.flatten(1).std(1).cpu())
            moments = moments + torch.stack([mean.double().sum(0), mean.double().square().sum(0)]).cpu()
            uncertainty += float(torch.exp(found[:, 1] / 2).mean((1, 2)).sum())
            count += len(batch.images)
    first, second = moments / count
    kl, kl_random, kl_other = (tuple(row.tolist()) for row in sums / count)
    return MapQuality(
        removed=REMOVED,
        kl=kl,
        kl_random=kl_random,
        kl_other=kl_other,
        spread=float(torch.cat(spreads).median()),
        variety=float((second - first.square()).clamp_min(0).sqrt().mean()),
        uncertainty=uncertainty / count,
        images=count,
    )


def keep_highest(scores: Tensor, share: float) -> Tensor:
    """(N, 1, H, W) mask in {0, 1} of the highest ``share`` of the pixels of scores (N, H, W); ties by position."""
    flat = scores.flatten(1)
    kept = flat.topk(round(share * flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat).scatter_(1, kept, 1.0).reshape(len(scores), 1, *scores.shape[1:])


def masked_logits(classifier: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """Logits of images whose pixels outside the mask are zero after normalisation, where the classifier has it inside.

    A classifier that knows no normalisation takes images that are normalised already: zero is zero.
    """
    if isinstance(classifier, Classifier):
        logits: Tensor = classifier.net(classifier.normalize(images) * mask)
    else:
        logits = classifier(images * mask)
    return logits


def refuse_flat(quality: MapQuality) -> None:
    """Raise PruningError for maps that rank nothing: constant ones, or no better than a random order of the pixels."""
    if not quality.spread >= CONSTANT:
        raise PruningError(
            f"the VarSal maps collapsed to a constant (standard deviation {quality.spread:.2g} over the pixels, "
            f"{CONSTANT:g} or more is needed): lower beta, or train for longer (beta, epochs and lr "
            "of VarSalConfig)"
        )
    if not quality.mean_kl < quality.mean_kl_random:
        raise PruningError(
            f"the VarSal maps are no better than a random order of the pixels (KL {quality.mean_kl:.3f} against "
            f"{quality.mean_kl_random:.3f} nats): train them for longer (epochs and lr of VarSalConfig)"
        )
