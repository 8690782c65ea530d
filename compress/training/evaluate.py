"""Evaluation of a classifier: logits, top-1 accuracy and cross entropy over one epoch of batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data import Batch, BatchSource, one_pass
from ..modes import eval_mode


@dataclass(frozen=True)
class Score:
    """A classifier's top-1 accuracy (0..1) and mean cross entropy (nats) on a set of images."""

    accuracy: float
    loss: float


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on ``device``, images float32 in [0, 1], channels-last (1.5 times as fast for small ones on a CPU)."""
    images = batch.images.to(device)
    if images.dtype == torch.uint8:  # decoded on the fly
        images = images.float().div_(255)
    return Batch(
        images.contiguous(memory_format=torch.channels_last),
        batch.labels.to(device),
        batch.indices.to(device),
    )


@torch.inference_mode()
def logits_of(model: nn.Module, batches: BatchSource, *, device: torch.device | None = None) -> Tensor:
    """Logits (N, classes) float32 of one epoch, in eval mode."""
    device = device or next(model.parameters()).device
    with eval_mode(model):
        return torch.cat(one_pass(batches, lambda _, batch: model(to_device(batch, device).images).float().cpu()))


def evaluate(model: nn.Module, batches: BatchSource, *, device: torch.device | None = None) -> Score:
    """Top-1 accuracy and cross entropy of ``model`` on ``batches`` (neither shuffled nor augmented), in float32."""
    logits = logits_of(model, batches, device=device)
    labels = torch.cat(one_pass(batches, lambda _, batch: batch.labels))
    hits = (logits.argmax(1) == labels).float().mean()
    return Score(float(hits), float(nn.functional.cross_entropy(logits, labels)))
