"""Training of a classifier, as a slim model is finetuned: SGD or AdamW, with distillation and steering if asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import FinetuneConfig, TrainConfig
from .data import Batch, BatchSource
from .explain import ExplainedClassifier, RbfHead, squared_distance
from .models.fold import to_fast
from .training import History, Learning, Validation, fit, one_cycle, to_device


@dataclass(frozen=True)
class Steering:
    """Loss term that keeps a slim model's explanations close to the original's during finetuning.

    ISP steers the choice of channels only, but finetuning moves explanations as far as surgery does. This applies the
    interpretation term of ISP Eq. 10 to weights: ``weight`` x |C_x - f_sel(x)|^2, C_x the original's explanation of
    the same (augmented) image. The decoder of ``slim`` stays as surgery left it: only features can change.

    Args:
        original: the network before surgery.
        slim: the network after it; only its classifier is trained.
        weight: per squared pixel of a 32-pixel side.
        unit: scale of a squared distance, ``Targets.unit``; None for ``rbf``, where it does not depend on images.
    """

    original: ExplainedClassifier
    slim: ExplainedClassifier
    weight: float
    unit: float | None = None

    def __post_init__(self) -> None:
        assert self.unit is not None or isinstance(self.original.selector.head, RbfHead)

    def prepare_(self) -> None:
        """Freeze all but the slim classifier."""
        for module in (self.original, self.slim.selector):
            module.eval().requires_grad_(False)

    def distance(self, batch: Batch, numbers: Tensor) -> Tensor:
        """Mean scaled squared distance (scalar) of the slim model's explanations ``numbers`` (N, ...) of ``batch``."""
        with torch.no_grad():
            _, original = self.original(batch.images, batch.labels)
        head = self.original.selector.head
        unit = head.unit(original) if self.unit is None else self.unit
        return unit * squared_distance(head.steered_part(numbers), head.steered_part(original))


@dataclass(frozen=True)
class MixedBatch:
    """A batch of mixed images; ``labels`` (N,) of the second image of each pair, which has 1 - ``share`` of it."""

    batch: Batch
    labels: Tensor
    share: float


def mix_pairs(batch: Batch, alpha: float) -> MixedBatch:
    """Mix every image with another of the batch (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").

    The share is one draw of Beta(``alpha``, ``alpha``) for the batch, and at least a half: the label in ``batch`` is
    that of the larger part. Draws come from torch's global generator, which checkpoints hold; each of several processes
    mixes its own part of a batch.

    Args:
        batch: images (N, 3, H, W) and labels (N,).
        alpha: above 0.
    """
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(drawn, 1 - drawn)
    other = torch.randperm(len(batch.labels)).to(batch.labels.device)
    images = share * batch.images + (1 - share) * batch.images[other]
    return MixedBatch(batch._replace(images=images), batch.labels[other], share)


def train_classifier(
    model: nn.Module,
    train: BatchSource,
    learning: Learning,
    *,
    config: TrainConfig,
    teacher: nn.Module | None = None,
    steering: Steering | None = None,
    what: str = "classifier",
    score: str = "accuracy",
    validate: Callable[[], Validation] | None = None,
) -> History:
    """Train ``model`` with a one-cycle learning rate, by SGD with Nesterov momentum or AdamW; the last weights stay.

    With ``validate``, which is called after each epoch, the best ones stay.

    With ``config.mixup`` images and labels are mixed in pairs (``mix_pairs``). With a ``teacher`` and a FinetuneConfig
    that asks for it, part of the loss is the distillation loss T^2 KL(teacher / T || model / T) (Hinton et al. 2015,
    section 2). ``steering`` adds its interpretation term; ``model`` is then the classifier of its slim network.
    ``score``: what the share of predictions that are the labels is called while training is shown: ``agreement`` where
    labels are the teacher's predictions.
    """
    share = config.distill if isinstance(config, FinetuneConfig) and teacher is not None else 0.0
    temperature = config.distill_temperature if isinstance(config, FinetuneConfig) else 1.0
    if share and teacher is not None:
        teacher = _fast_teacher(teacher, train, learning.device)
    assert steering is None or steering.slim.classifier is model

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        mixed = mix_pairs(batch, config.mixup) if config.mixup else None
        batch = batch if mixed is None else mixed.batch
        logits, numbers = (wrapped(batch.images), None) if steering is None else wrapped(batch.images, batch.labels)
        logits = logits.float()
        ce = F.cross_entropy(logits, batch.labels, label_smoothing=config.label_smoothing)
        if mixed is not None:
            other = F.cross_entropy(logits, mixed.labels, label_smoothing=config.label_smoothing)
            ce = mixed.share * ce + (1 - mixed.share) * other
        figures = {"loss": ce, score: (logits.argmax(1) == batch.labels).float().mean()}
        if share and teacher is not None:
            with torch.no_grad():
                soft_labels = (teacher(batch.images).float() / temperature).softmax(1)
            distilled = F.kl_div((logits / temperature).log_softmax(1), soft_labels, reduction="batchmean")
            figures["loss"] = (1 - share) * ce + share * temperature**2 * distilled
        if steering is not None and numbers is not None:
            figures["steer"] = steering.distance(batch, numbers)
            figures["loss"] = figures["loss"] + steering.weight * figures["steer"]
        return figures

    optimizer = _optimizer(model, config)
    model.requires_grad_(True).train()
    if steering is not None:
        steering.prepare_()

    history = fit(
        model if steering is None else steering.slim,
        train,
        loss,
        optimizer,
        learning,
        what=what,
        epochs=config.epochs,
        schedule=one_cycle,
        validate=validate,
    )
    model.eval()
    return history


def _fast_teacher(teacher: nn.Module, train: BatchSource, device: torch.device) -> nn.Module:
    """A copy on ``device`` that computes the same in less time."""
    with torch.random.fork_rng():  # a user's loader may draw its order here
        batch = to_device(next(train.epoch(0)), device)
    return to_fast(teacher.eval().to(device), batch.images[:1]).requires_grad_(False)


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Of all parameters; biases and normalisations are not decayed."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
