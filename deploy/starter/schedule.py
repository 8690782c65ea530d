"""Rankings, epochs, steps and batch size of each stage, from the number of training images and the time to spend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from slimsight.compress.config import ON_BACKBONE, TrainConfig

FEW: Final = 200
"""Fewest training images for which an explainer is trained."""

Effort = Literal["quick", "default", "thorough"]
"""quick: channels are ranked by gradients, and finetuning is half as long. default: they are ranked by learned gates.
thorough: gates are steered by an explainer and learn longer, and finetuning is twice as long."""

_ON_BACKBONE = TrainConfig.model_validate(ON_BACKBONE)
_BACKBONE_STEPS = 600
_FINETUNE_STEPS = {"quick": 800, "default": 1700, "thorough": 3400}
_FINETUNE_EPOCHS = {"quick": (4, 15), "default": (8, 30), "thorough": (12, 60)}
_GATE_STEPS = {"quick": 0, "default": 300, "thorough": 1000}
MORE_GATE_STEPS: Final = _GATE_STEPS["thorough"] - _GATE_STEPS["default"]
_GATE_IMAGES = 10_000
_GATE_BATCH = 32
_STEPS_A_SHARE = 100
"""Batches of at most a hundredth of the images, so that an epoch has a hundred steps or more."""

_LR, _LR_BATCH, _LARGEST_LR = 0.02, 16, 0.05
_MEMORY_SHARE = 0.35
_STEP_BYTES = 1.5
"""What a training step takes, in outputs of all layers for its images."""


@dataclass(frozen=True)
class Schedule:
    """What each stage does; ``batch`` images a step; ``explained``: whether an explainer is trained and steers.

    ``steer``: how channels are ranked; ``gate_batch``: images per step of the gates; ``finetune_lr``: the highest rate.
    """

    effort: Effort
    batch: int
    train_epochs: int
    explainer_epochs: int
    steer: Literal["rbf", "none", "taylor"]
    gate_images: int | None
    gate_steps: int
    gate_batch: int
    finetune_epochs: int
    finetune_lr: float
    explained: bool
    backbone_epochs: int
    backbone_batch: int

    @classmethod
    def of(cls, train: int, batch_bytes: int, memory: int | None, effort: Effort = "default") -> Schedule:
        """Small sets of images get smaller batches and more epochs, so that there are steps to learn in.

        Args:
            train: training images.
            batch_bytes: outputs of all layers for one image.
            memory: bytes that a run may allocate; None: unknown.
        """
        fitting = 128
        while fitting > 8 and memory and _STEP_BYTES * fitting * batch_bytes > _MEMORY_SHARE * memory:
            fitting //= 2
        batch = min(fitting, 128)
        while batch > 8 and batch > train // _STEPS_A_SHARE:
            batch //= 2
        epoch = max(1, train // batch)
        small = min(batch, _ON_BACKBONE.batch_size)

        def epochs(steps: int, fewest: int, most: int) -> int:
            return min(most, max(fewest, math.ceil(steps / epoch)))

        gate_batch = max(batch, min(_GATE_BATCH, fitting))  # smaller where memory is short: more steps, as many images
        explained = effort == "thorough" and train >= FEW
        return cls(
            effort=effort,
            batch=batch,
            train_epochs=epochs(3000, 10, 60),
            explainer_epochs=epochs(1000, 4, 30),
            steer="rbf" if explained else "taylor" if effort == "quick" else "none",
            gate_images=_GATE_IMAGES if train > _GATE_IMAGES else None,
            gate_steps=_GATE_STEPS[effort] * max(1, _GATE_BATCH // gate_batch),
            gate_batch=gate_batch,
            finetune_epochs=epochs(_FINETUNE_STEPS[effort], *_FINETUNE_EPOCHS[effort]),
            finetune_lr=min(_LARGEST_LR, round(_LR * math.sqrt(batch / _LR_BATCH), 3)),
            explained=explained,
            backbone_epochs=min(30, max(_ON_BACKBONE.epochs, math.ceil(_BACKBONE_STEPS / (train // small or 1)))),
            backbone_batch=small,
        )
