"""What an INT8 file looks at, beside its FP32 file: maps by occlusion, of both as ONNX Runtime computes them.

An ONNX file has no gradients, and a copy in PyTorch would say nothing of the runtime's kernels: occlusion needs outputs
only, so that the files that ship are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from slimsight.compress.errors import DataError, ModelError
from slimsight.compress.explain.attribution.occlusion import Occlusion
from slimsight.compress.explain.fidelity.chance import drift_against_chance
from slimsight.compress.training import Learning
from slimsight.export.int8.prove import OnnxLogits

from ...report.units import as_percent
from ..session import Session
from .attribution import drift_figures

EXPLAINED_IMAGES: Final = 32
"""Validation images, spread over the classes, whose maps are compared; at most."""


class OnnxClassifier(nn.Module):
    """An ONNX file as a classifier without gradients: (N, 3, H, W) in [0, 1] -> logits (N, classes)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._logits = OnnxLogits(path)

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self._logits(np.asarray(images.detach().cpu())))


def int8_explained(fp32: Path, int8: Path, session: Session, learning: Learning) -> dict[str, Any]:
    """How far maps by occlusion moved from an FP32 file to its INT8 file, for the class that FP32 predicts.

    The reason, where maps cannot be compared.
    """
    images = session.some_images(EXPLAINED_IMAGES)
    if len(images) < 2:
        return {"explainer": Occlusion.name, "reason": "there is one validation image"}
    before, after = OnnxClassifier(fp32), OnnxClassifier(int8)
    labels = before(images).argmax(1)
    try:
        found = drift_against_chance(Occlusion(before), Occlusion(after), images, labels, progress=learning.progress)
    except (ModelError, DataError) as error:
        return {"explainer": Occlusion.name, "reason": str(error)}
    if found.drift.region_iou.mean is not None:
        learning.progress.note(f"INT8: maps by occlusion overlap by {as_percent(found.drift.region_iou.mean)}")
    return drift_figures(found)
