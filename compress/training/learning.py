"""What every training runs with: ``Learning`` (devices, checkpoints, progress) and the Lightning Fabric in it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from torch.nn.parallel import DistributedDataParallel

from ..data import Flow
from ..progress import SILENT, Progress
from .checkpoint import Checkpoints

Precision = Literal["32-true", "bf16-mixed"]

PROCESS_TIMEOUT = timedelta(days=2)
"""How long processes wait for each other, for instance while the leader exports or times a model."""

_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the latter is its name in older versions of torch
    if name in signature(DistributedDataParallel.__init__).parameters
)


class LearningFabric(Fabric):
    """A Fabric with gradient accumulation: the number of parts of each batch (see ``SharedStep``)."""

    accumulate: int = 1


def make_fabric(
    precision: Precision = "32-true", accelerator: str = "auto", *, accumulate: int = 1, together: bool = False
) -> LearningFabric:
    """A launched Fabric; ``precision`` applies to training only, never to evaluation.

    Args:
        accumulate: parts of each batch whose gradients are accumulated.
        together: join all processes that torchrun has started, one device each (waits for them); else one device.
    """
    if together:
        local_size = int(os.environ["LOCAL_WORLD_SIZE"])
        on_gpus = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        no_sync: dict[str, Any] = {_SYNC_BUFFERS: False}  # buffers are equal already: batch statistics are global
        strategy = DDPStrategy(
            # Values are gathered on the CPU, gradients on their device.
            process_group_backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            timeout=PROCESS_TIMEOUT,
            find_unused_parameters=True,
            **no_sync,
        )
        fabric = LearningFabric(
            accelerator="cuda" if on_gpus else "cpu",
            strategy=strategy,
            devices=local_size,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local_size,
            precision=precision,
        )
    else:
        fabric = LearningFabric(accelerator=accelerator, devices=1, precision=precision)
    fabric.accumulate = accumulate
    fabric.launch()
    return fabric


def one_device_fabric(device: torch.device) -> LearningFabric:
    """A launched Fabric of this process alone, whatever others torchrun has started; trains in float32."""
    fabric = LearningFabric(accelerator=device.type, strategy=SingleDeviceStrategy(device))
    fabric.launch()
    return fabric


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
