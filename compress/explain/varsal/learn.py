"""Train VarSal's maps, measure whether the prediction survives without their lowest pixels, refuse useless ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ...config import VarSalConfig
from ...data import Batch, BatchSource, one_pass
from ...errors import ExplainerRefused
from ...models import Classifier
from ...training import History, Learning, fit, one_cycle, to_device
from ..amortized.predictor import divergence
from ..amortized.rbf import fixed_draws
from .objective import VarSalObjective

REMOVED = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the pixels that are zeroed, the lowest first."""

MIN_SPREAD = 1e-3
"""Standard deviation over a map's pixels (the prior's is 1) below which it counts as constant."""


@dataclass(frozen=True)
class MapQuality:
    """KL(original || perturbed) in nats, means over images, per share of ``REMOVED`` with the lowest pixels zeroed.

    Zeroed after normalisation, so mean grey. Controls: ``kl_random`` ranks pixels at random, ``kl_other`` by the map
    of another image of the batch, ``kl_centre`` by the distance to the image's centre. A map must beat the first to
    explain anything, the second to explain its image, the third to be better than a bias to the centre.

    ``spread``: median over images of a map's standard deviation over its pixels. ``variety``: mean over pixels of the
    standard deviation over images. ``uncertainty``: mean of sqrt(nu). All in units of the prior's deviation.
    """

    removed: tuple[float, ...]
    kl: tuple[float, ...]
    kl_random: tuple[float, ...]
    kl_other: tuple[float, ...]
    kl_centre: tuple[float, ...]
    spread: float
    variety: float
    uncertainty: float
    images: int

    @property
    def mean_kl(self) -> float:
        """Mean over the shares removed."""
        return fmean(self.kl)

    @property
    def mean_kl_random(self) -> float:
        """Mean over the shares removed."""
        return fmean(self.kl_random)

    def in_words(self) -> str:
        """One line."""
        return (
            f"KL {self.mean_kl:.3f} without the pixels that maps rank lowest (by distance from the centre "
            f"{fmean(self.kl_centre):.3f}, by another image's map {fmean(self.kl_other):.3f}, random "
            f"{self.mean_kl_random:.3f}), spread {self.spread:.2f}, uncertainty {self.uncertainty:.2f}"
        )

    def to_dict(self) -> dict[str, object]:
        """JSON form."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@torch.inference_mode()
def judge_maps(
    maps: nn.Module, classifier: nn.Module, val: BatchSource, fabric: Fabric, *, brief: bool = False
) -> MapQuality:
    """Measure a network of saliency maps by its means mu on validation images, in float32; leaves both in eval mode.

    Args:
        maps: images (N, 3, H, W) -> (N, 2, H, W) mu and log nu.
        brief: leave out the controls (they are NaN): for validation during training.
    """
    maps.eval()
    classifier.eval()

    def work(number: int, batch: Batch) -> tuple[Tensor, Tensor, Tensor, float]:
        batch = to_device(batch, fabric.device)
        mean, log_variance = maps(batch.images).float().unbind(1)
        reference = classifier(batch.images)
        rankings = [mean]
        if not brief:
            with fixed_draws(fabric.device, number):
                uniform = torch.rand_like(mean)
            rankings += [uniform, mean.roll(1, 0), -_centre_distance(mean)]  # rolled: the map of the previous image
        sums = torch.zeros(4, len(REMOVED), dtype=torch.float64)
        for row, scores in enumerate(rankings):
            for column, share in enumerate(REMOVED):
                logits = masked_logits(classifier, batch.images, keep_highest(scores, 1 - share))
                sums[row, column] = float(divergence(reference, logits).sum())
        spread = mean.flatten(1).std(1).cpu()
        moments = torch.stack([mean.double().sum(0), mean.double().square().sum(0)]).cpu()
        return sums, spread, moments, float(torch.exp(log_variance / 2).mean((1, 2)).sum())

    batch_sums, spreads, moments, uncertainties = zip(*one_pass(val, work), strict=True)
    sums, uncertainty = torch.stack(batch_sums).sum(0), sum(uncertainties)
    count = sum(map(len, spreads))
    first, second = torch.stack(moments).sum(0) / count
    if brief:
        sums[1:] = torch.nan
    kl, kl_random, kl_other, kl_centre = (tuple(row.tolist()) for row in sums / count)
    return MapQuality(
        removed=REMOVED,
        kl=kl,
        kl_random=kl_random,
        kl_other=kl_other,
        kl_centre=kl_centre,
        spread=float(torch.cat(spreads).median()),
        variety=float((second - first.square()).clamp_min(0).sqrt().mean()),
        uncertainty=uncertainty / count,
        images=count,
    )


def _centre_distance(like: Tensor) -> Tensor:
    """(N, H, W) squared distance to the image's centre, in pixels."""
    rows, columns = (torch.arange(side, device=like.device) - (side - 1) / 2 for side in like.shape[1:])
    return (rows[:, None].square() + columns.square()).to(like).expand_as(like)


def keep_highest(scores: Tensor, share: float) -> Tensor:
    """(N, 1, H, W) mask in {0, 1} of the highest ``share`` of the pixels of scores (N, H, W); ties by position."""
    flat = scores.flatten(1)
    kept = flat.argsort(dim=1, descending=True, stable=True)[:, : round(share * flat.shape[1])]
    return torch.zeros_like(flat).scatter_(1, kept, 1.0).reshape(len(scores), 1, *scores.shape[1:])


def masked_logits(classifier: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """Logits of images whose pixels outside the mask are zero after normalisation.

    Any module but a ``Classifier`` is assumed to take images that are normalised already.
    """
    if isinstance(classifier, Classifier):
        return classifier.logits(classifier.normalize(images) * mask)
    logits: Tensor = classifier(images * mask)
    return logits


def refuse_flat(quality: MapQuality) -> None:
    """Raise ExplainerRefused for useless maps: constant ones, or no better than a random order of the pixels."""
    if not quality.spread >= MIN_SPREAD:
        raise ExplainerRefused(
            f"the VarSal maps collapsed to a constant (standard deviation {quality.spread:.2g} over the pixels, "
            f"{MIN_SPREAD:g} or more is needed): lower explainer.varsal.beta, or train for longer "
            "(explainer.varsal.epochs, explainer.varsal.lr)"
        )
    if not quality.mean_kl < quality.mean_kl_random:
        raise ExplainerRefused(
            f"the VarSal maps are no better than a random order of the pixels (KL {quality.mean_kl:.3f} against "
            f"{quality.mean_kl_random:.3f} nats): train them for longer (explainer.varsal.epochs, explainer.varsal.lr)"
        )


def train_maps(
    maps: nn.Module,
    classifier: nn.Module,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    *,
    config: VarSalConfig,
) -> History:
    """Minimise ``VarSalObjective``; the weights of the epoch with the lowest ``MapQuality.mean_kl`` stay.

    One-cycle learning rate as for the other explainers: short trainings converge too. Check the result by
    ``judge_maps`` and ``refuse_flat`` before use.

    Args:
        maps: any network, images (N, 3, H, W) -> (N, 2, H, W) mu and log nu: an ``Encoder``, or a head on the
            classifier's own features. The classifier may be a part of it: it stays frozen and in eval mode.
        classifier: on the fabric's device.

    Raises:
        ConfigError, DataError: see ``VarSalObjective``.
        TrainingError: the loss is not finite.
    """
    maps.train().requires_grad_(True)
    classifier.eval().requires_grad_(False)
    height, width = next(train.epoch(0)).images.shape[2:]
    objective = VarSalObjective(
        classifier,
        height,
        width,
        alpha=config.alpha,
        beta=config.beta,
        epsilon=config.epsilon,
        kept=config.kept,
    )

    def loss(model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        return objective(batch.images, model(batch.images))

    def validate() -> float:
        quality = judge_maps(maps, classifier, val, learning.fabric, brief=True)
        maps.train()
        classifier.eval()
        return quality.mean_kl

    learned = [parameter for parameter in maps.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    history = fit(
        maps,
        train,
        loss,
        optimizer,
        learning,
        what="varsal",
        epochs=config.epochs,
        schedule=one_cycle,
        validate=validate,
        patience=config.patience,
    )
    maps.eval().requires_grad_(False)
    return history
