"""Train a network of saliency maps for a frozen classifier."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ...config import VarSalConfig
from ...data import Batch, BatchSource
from ...progress import SILENT, Progress
from ...training import Checkpoints, History, fit, one_cycle
from .judge import judge_maps
from .objective import VarSalObjective


def train_maps(
    maps: nn.Module,
    classifier: nn.Module,
    train: BatchSource,
    val: BatchSource,
    fabric: Fabric,
    *,
    config: VarSalConfig,
    checkpoints: Checkpoints | None = None,
    progress: Progress = SILENT,
) -> History:
    """Minimise ``VarSalObjective``; the epoch whose maps keep the prediction best (``MapQuality.mean_kl``) stays.

    The learning rate rises to ``config.lr`` and falls again, as for the other explainers: short trainings end settled.

    Ask ``judge_maps`` and ``refuse_flat`` before the maps are used.

    Args:
        maps: any network, images (N, 3, H, W) -> (N, 2, H, W) mu and log nu: an ``Encoder``, or a head on the
            classifier's own features. The classifier may be a part of it: it stays frozen and in eval mode.
        classifier: on the fabric's device.

    Raises:
        ConfigError, DataError: see ``VarSalObjective``.
        PruningError: the loss is not finite.
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
        quality = judge_maps(maps, classifier, val, fabric, brief=True)
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
        fabric,
        what="varsal",
        epochs=config.epochs,
        schedule=one_cycle,
        validate=validate,
        patience=config.patience,
        checkpoints=checkpoints,
        progress=progress,
    )
    maps.eval().requires_grad_(False)
    return history
