"""The devices that learning runs on: one, or one for each of the processes that torchrun has started."""

from __future__ import annotations

import os
from datetime import timedelta
from inspect import signature
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

Precision = Literal["32-true", "bf16-mixed"]

PATIENCE = timedelta(days=2)
"""For how long processes wait for each other: for an export, for timings, for anything that one does alone."""


_SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")  # the latter was its name before
    if name in signature(DistributedDataParallel.__init__).parameters
)


class LearningFabric(Fabric):
    """A Fabric that also says in how many parts every batch is learned from (``SharedStep``)."""

    accumulate: int = 1


def make_fabric(
    precision: Precision = "32-true", accelerator: str = "auto", *, accumulate: int = 1, together: bool = False
) -> LearningFabric:
    """A launched Fabric; ``precision`` holds for learning, never for a verdict.

    Args:
        accumulate: parts that every batch is learned from in turn.
        together: with all processes that torchrun has started, a device for each: it waits for them. Otherwise on one
            device, whoever else is there.
    """
    if together:
        each = int(os.environ["LOCAL_WORLD_SIZE"])
        on_gpus = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
        unsynced: dict[str, Any] = {_SYNC_BUFFERS: False}  # they are the same: batch statistics are those of all
        strategy = DDPStrategy(
            # What is gathered lies on the CPU, wherever the gradients are.
            process_group_backend="cpu:gloo,cuda:nccl" if on_gpus else "gloo",
            timeout=PATIENCE,
            find_unused_parameters=True,
            **unsynced,
        )
        fabric = LearningFabric(
            accelerator="cuda" if on_gpus else "cpu",
            strategy=strategy,
            devices=each,
            num_nodes=int(os.environ["WORLD_SIZE"]) // each,
            precision=precision,
        )
    else:
        fabric = LearningFabric(accelerator=accelerator, devices=1, precision=precision)
    fabric.accumulate = accumulate
    fabric.launch()
    return fabric
