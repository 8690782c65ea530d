"""Predictor q_pred: the classifier's output on masked images, learned by distillation (ISP Eq. 7)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...config import MaskConfig, PredictorConfig
from ...data import Batch, BatchSource, one_pass
from ...models import Classifier
from ...modules import copy_of
from ...training import History, Learning, fit, one_cycle, to_device
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
        logits: Tensor = self.classifier.net(self.classifier.normalize(images) * mask)
        return logits


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
    """Minimise E_x,m KL(Q_class(x) || q_pred(m * x)) over masks m from ``draw``; the best epoch's weights stay."""
    classifier.eval().requires_grad_(False)
    device = learning.device

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            reference = classifier(batch.images)
        return {"loss": divergence(reference, model(batch.images, draw(batch.images))).mean()}

    @torch.inference_mode()
    def validate() -> float:
        predictor.eval()

        def work(number: int, batch: Batch) -> tuple[Tensor, int]:
            batch = to_device(batch, device)
            # The same masks in every epoch, so that epochs can be compared.
            with fixed_draws(device, number), learning.fabric.autocast():
                kl = divergence(classifier(batch.images), predictor(batch.images, draw(batch.images)))
            return kl.sum().cpu(), len(kl)

        totals, counts = zip(*one_pass(val, work), strict=True)
        predictor.train()
        return sum(map(float, totals)) / float(sum(counts))

    optimizer = torch.optim.Adam(predictor.parameters(), lr=config.lr, weight_decay=config.weight_decay)
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
    )
    predictor.eval().requires_grad_(False)
    return history
