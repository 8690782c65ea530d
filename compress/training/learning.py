"""The context that every training runs in: devices, checkpoints, progress."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric

from ..data import Flow
from ..progress import SILENT, Progress
from .checkpoint import Checkpoints


@dataclass(frozen=True)
class Learning:
    """What every training function takes beside its models, data and configuration.

    Attributes:
        fabric: the devices and the precision (``make_fabric``).
        checkpoints: where a training resumes from and saves to; None: neither.
        progress: told how far the training is.
        flow: where the time of reading images is counted.
    """

    fabric: Fabric
    checkpoints: Checkpoints | None = None
    progress: Progress = SILENT
    flow: Flow = field(default_factory=Flow)

    @property
    def device(self) -> torch.device:
        return self.fabric.device
