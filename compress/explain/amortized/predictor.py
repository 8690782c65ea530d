"""Predictor q_pred: the classifier's output on masked images, learned by distillation (ISP Eq. 7)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ...config import MaskConfig, PredictorConfig
from ...data import Batch, BatchSource, Subsample, one_pass
from ...errors import ExplainerRefused
from ...models import Classifier
from ...modules import copy_of
from ...training import History, Learning, Validation, fit, one_cycle, to_device
from ..fidelity.estimate import Estimate
from .early import EARLY_IMAGES, EarlyChecks
from .rbf import fixed_draws, random_rbf, rbf_map, relaxed_bernoulli

DrawMasks = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) -> random masks (N, 1, H, W) on their device, to train a predictor on."""


def rbf_masks(config: MaskConfig) -> DrawMasks:
    """Draws relaxed samples of random radial basis masks (ISP)."""

    def draw(images: Tensor) -> Tensor:
        side = images.shape[-1]
        params = random_rbf(len(images), side, centre=config.centre, sigma=config.sigma, device=images.device)
        return relaxed_bernoulli(rbf_map(params, side), config.temperature)

    return draw


class Predictor(nn.Module):
    """A classifier of masked images: the mask multiplies AFTER normalisation, so removed pixels are mean grey."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """(N, classes) logits of images (N, 3, H, W) in [0, 1] seen through mask (N, 1, H, W)."""
        return self.classifier.logits(self.classifier.normalize(images) * mask)


def divergence(reference: Tensor, logits: Tensor) -> Tensor:
    """(N,) KL(softmax(reference) || softmax(logits)) in nats."""
    log_p, log_q = reference.float().log_softmax(1), logits.float().log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def new_predictor(classifier: Classifier, config: PredictorConfig) -> Predictor:
    """A predictor with the classifier's architecture; its weights too, unless ``config.init`` is scratch."""
    net = copy_of(classifier).requires_grad_(True)
    if config.init == "scratch":
        for module in net.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return Predictor(net)


@dataclass(frozen=True)
class PredictorQuality:
    """KL of a predictor through random masks, nats, against the best constant prediction: the mean softmax.

    ``gain``: mean over images of the constant's KL minus the predictor's, with its standard error (None of one image).
    """

    kl: float
    kl_constant: float
    gain: float
    gain_error: float | None
    images: int

    @property
    def beats_constant(self) -> bool:
        """Whether it is better than the constant by more than the standard error."""
        return self.gain_error is not None and self.gain > self.gain_error

    def in_words(self) -> str:
        """One line."""
        error = "" if self.gain_error is None else f" \N{PLUS-MINUS SIGN} {self.gain_error:.3f}"
        return (
            f"KL {self.kl:.3f} through random masks (a constant prediction {self.kl_constant:.3f}), better by "
            f"{self.gain:.3f}{error} over {self.images:,} images"
        )


@torch.inference_mode()
def judge_predictor(
    predictor: Predictor, classifier: Classifier, val: BatchSource, fabric: Fabric, draw: DrawMasks
) -> PredictorQuality:
    """Measure a predictor on validation images, in float32. Leaves it in eval mode."""
    predictor.eval()

    def work(number: int, batch: Batch) -> tuple[Tensor, Tensor]:
        batch = to_device(batch, fabric.device)
        with fixed_draws(fabric.device, number):
            reference = classifier(batch.images).float()
            kl = divergence(reference, predictor(batch.images, draw(batch.images)))
        return kl.double().cpu(), reference.double().log_softmax(1).cpu()

    kls, logs = (torch.cat(parts) for parts in zip(*one_pass(val, work), strict=True))
    constant = (logs.exp() * (logs - logs.exp().mean(0).log())).nansum(1)  # 0 log 0 = 0
    gain = Estimate.of(constant - kls)
    mean = math.nan if gain.mean is None else gain.mean
    return PredictorQuality(float(kls.mean()), float(constant.mean()), mean, gain.standard_error, len(kls))


def refuse_constant(quality: PredictorQuality) -> None:
    """Refuse a predictor that says nothing of the images that it sees.

    Raises:
        ExplainerRefused: it is no better than a constant prediction, by more than the standard error.
    """
    if not quality.beats_constant:
        raise ExplainerRefused(_no_better_than_constant(quality))


def _no_better_than_constant(quality: PredictorQuality) -> str:
    return (
        f"the predictor is no better than a constant prediction: {quality.in_words()}, more than the standard error is "
        "needed; train it for longer (explainer.predictor.epochs) or with another explainer.predictor.lr"
    )


class _Start:
    """KL of a predictor before its first step; kept in checkpoints."""

    def __init__(self) -> None:
        self.kl = math.nan

    def state_dict(self) -> dict[str, float]:
        return {"kl": self.kl}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        self.kl = state["kl"]


def train_predictor(
    predictor: Predictor,
    classifier: Classifier,
    train: BatchSource,
    val: BatchSource,
    learning: Learning,
    *,
    config: PredictorConfig,
    draw: DrawMasks,
) -> History:
    """Minimise E_x,m KL(Q_class(x) || q_pred(m * x)) over masks m from ``draw``; the best epoch's weights stay.

    Raises:
        ExplainerRefused: an early check found it no better than a constant prediction: after a tenth of the steps and
            no better than it began, or after half of them.
    """
    classifier.eval().requires_grad_(False)
    device = learning.device
    steps, few, start = config.epochs * len(train), Subsample(val, EARLY_IMAGES), _Start()

    def look(step: int, *, late: bool) -> str | None:
        quality = judge_predictor(predictor, classifier, few, learning.fabric, draw)
        predictor.train()
        learning.progress.note(f"predictor after step {step:,} of {steps:,}: {quality.in_words()}")
        stuck = late or not quality.kl < start.kl
        return _no_better_than_constant(quality) if stuck and not quality.beats_constant else None

    early = EarlyChecks("predictor", steps, look)

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            reference = classifier(batch.images)
        return {"loss": divergence(reference, model(batch.images, draw(batch.images))).mean()}

    @torch.inference_mode()
    def validate() -> Validation:
        predictor.eval()

        def work(number: int, batch: Batch) -> tuple[Tensor, int]:
            batch = to_device(batch, device)
            # The same masks in every epoch, so that epochs can be compared.
            with fixed_draws(device, number), learning.fabric.autocast():
                kl = divergence(classifier(batch.images), predictor(batch.images, draw(batch.images)))
            return kl.sum().cpu(), len(kl)

        totals, counts = zip(*one_pass(val, work), strict=True)
        predictor.train()
        kl = sum(map(float, totals)) / float(sum(counts))
        return Validation(kl, {"validation_kl": kl})

    optimizer = torch.optim.Adam(predictor.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    start.kl = judge_predictor(predictor, classifier, few, learning.fabric, draw).kl
    predictor.train()
    history = fit(
        predictor,
        train,
        loss,
        optimizer,
        learning,
        what="predictor",
        epochs=config.epochs,
        schedule=one_cycle,
        validate=validate,
        patience=config.patience,
        after_step=lambda step, _: early.after_step(step),
        keeps={"start": start},
    )
    predictor.eval().requires_grad_(False)
    return history
