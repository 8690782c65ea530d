"""Epochs, steps and batch size of each stage, from the number of training images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slimsight.compress.config import ON_BACKBONE, TrainConfig

FEW = 200
"""Fewest training images for which an explainer is trained."""

_ON_BACKBONE = TrainConfig.model_validate(ON_BACKBONE)
_BACKBONE_STEPS = 600
_GATE_IMAGES = 10_000
_MEMORY_SHARE = 0.25


@dataclass(frozen=True)
class Schedule:
    """Epochs and steps of each stage; ``batch`` images a step; ``explained``: whether an explainer is trained."""

    batch: int
    train_epochs: int
    explainer_epochs: int
    gate_images: int | None
    gate_steps: int
    finetune_epochs: int
    explained: bool
    backbone_epochs: int
    backbone_batch: int

    @classmethod
    def of(cls, train: int, batch_bytes: int, memory: int | None) -> Schedule:
        """Small sets of images get smaller batches and more epochs, so that there are steps to learn in."""
        batch = 128
        while batch > 8 and (batch > train // 32 or (memory and 3 * batch * batch_bytes > _MEMORY_SHARE * memory)):
            batch //= 2
        epoch = max(1, train // batch)
        small = min(batch, _ON_BACKBONE.batch_size)

        def epochs(steps: int, fewest: int, most: int) -> int:
            return min(most, max(fewest, math.ceil(steps / epoch)))

        return cls(
            batch=batch,
            train_epochs=epochs(3000, 10, 60),
            explainer_epochs=epochs(1000, 4, 30),
            gate_images=_GATE_IMAGES if train > _GATE_IMAGES else None,
            gate_steps=1000 if train >= 2000 else 400,
            finetune_epochs=epochs(1500, 5, 30),
            explained=train >= FEW,
            backbone_epochs=min(30, max(_ON_BACKBONE.epochs, math.ceil(_BACKBONE_STEPS / (train // small or 1)))),
            backbone_batch=small,
        )
