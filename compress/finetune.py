"""Bring a slim model back: recalibrate batch normalisation, then SGD, optionally taught by the original."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import FinetuneConfig, TrainConfig
from .data import Batch, BatchSource, round_robin
from .explain import ExplainedClassifier, RbfHead, squared_distance
from .parallel.processes import all_reduce_sum, rank, world_size
from .training import History, Learning, fit, one_cycle, to_device


@torch.no_grad()
def recalibrate_bn(model: nn.Module, batches: BatchSource, count: int) -> None:
    """Replace the running statistics of every batch normalisation by exact averages over ``count`` batches.

    Everything else is in eval mode meanwhile: with dropout the averages would be of a network that nobody deploys.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.track_running_stats]
    if not norms or count == 0:
        return
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    device = next(model.parameters()).device
    processes = world_size()
    own = batches.epoch(0, sharding=round_robin(rank(), processes))
    # Every statistic is that of a whole batch, which one process sees: only the averages are of all.
    for batch in itertools.islice(own, len(range(rank(), count, processes))):
        model(to_device(batch, device).images)
    for norm in norms if processes > 1 else ():
        _average_(norm)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training


def _average_(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Make the cumulative averages of all processes one; each counts as often as the batches it is of."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    count = norm.num_batches_tracked.double()
    total = all_reduce_sum(count.clone())
    for running in (norm.running_mean, norm.running_var):
        running.copy_(all_reduce_sum(running.double() * count) / total)
    norm.num_batches_tracked.copy_(total)


@dataclass(frozen=True)
class Steering:
    """Keeps a slim model's explanations where the original's are, while its weights change.

    ISP steers the choice of channels only, and finetuning moves explanations as far as surgery does. This is the
    interpretation term of ISP Eq. 10 again, on weights: ``weight`` x |C_x - f_sel(x)|^2, C_x the original's explanation
    of the same (augmented) image. The decoder of ``slim`` stays as surgery left it: only features can move.

    Args:
        original: the network before surgery.
        slim: the network after it; its classifier is what is trained.
        weight: per squared pixel of a 32-pixel side.
        unit: what a squared distance is worth, of ``Targets``; None for ``rbf``, whose unit no image decides.
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

    def distance(self, batch: Batch, found: Tensor) -> Tensor:
        """Mean squared distance (scalar) of what is ``found`` of the slim model (N, ...), in its unit."""
        with torch.no_grad():
            _, wanted = self.original(batch.images, batch.labels)
        head = self.original.selector.head
        unit = head.unit(wanted) if self.unit is None else self.unit
        return unit * squared_distance(head.steers(found), head.steers(wanted))


def train_classifier(
    model: nn.Module,
    train: BatchSource,
    learning: Learning,
    *,
    config: TrainConfig,
    teacher: nn.Module | None = None,
    steering: Steering | None = None,
    what: str = "classifier",
) -> History:
    """SGD with Nesterov momentum under a one-cycle rate; the last epoch's weights stay.

    With a ``teacher`` and a FinetuneConfig that asks for it, part of the loss is the distillation loss
    T^2 KL(teacher / T || model / T) (Hinton et al. 2015, section 2). ``steering`` adds its interpretation term;
    ``model`` is then the classifier of its slim network.
    """
    share = config.distill if isinstance(config, FinetuneConfig) and teacher is not None else 0.0
    temperature = config.distill_temperature if isinstance(config, FinetuneConfig) else 1.0
    if teacher is not None:
        teacher.eval().requires_grad_(False)
    assert steering is None or steering.slim.classifier is model

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, found = (wrapped(batch.images), None) if steering is None else wrapped(batch.images, batch.labels)
        logits = logits.float()
        ce = F.cross_entropy(logits, batch.labels)
        figures = {"loss": ce, "accuracy": (logits.argmax(1) == batch.labels).float().mean()}
        if share and teacher is not None:
            with torch.no_grad():
                wanted = (teacher(batch.images).float() / temperature).softmax(1)
            distilled = F.kl_div((logits / temperature).log_softmax(1), wanted, reduction="batchmean")
            figures["loss"] = (1 - share) * ce + share * temperature**2 * distilled
        if steering is not None and found is not None:
            figures["steer"] = steering.distance(batch, found)
            figures["loss"] = figures["loss"] + steering.weight * figures["steer"]
        return figures

    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]  # biases and norms are not decayed
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
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
    )
    model.eval()
    return history
