"""Quantisation-aware training outside of runs: on images in memory, towards the FP32 file's logits, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.data import TensorBatches
from slimsight.compress.errors import ConfigError, ExportError
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.training import Learning, make_fabric
from slimsight.export.config import LEAST_IMAGES, MOST_EPOCHS, QatConfig
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.qat import Qat, check_trainable

QAT_IMAGES: Final = 4096
"""Most images that are read for a training, beside those that are calibrated on."""

_MOST_VALIDATED: Final = 512
_VALIDATED: Final = 5
"""Every fifth image chooses the epoch, and trains nothing."""


def check_epochs(epochs: int) -> int:
    """``epochs``, if a training may have so many.

    Raises:
        ConfigError: it may not.
    """
    if not 0 <= epochs <= MOST_EPOCHS:
        raise ConfigError(f"qat_epochs is {epochs}: give 0 (no training) to {MOST_EPOCHS} times through the images")
    return epochs


def to_qat(fp32: Path, pixels: NDArray[Any], epochs: int, progress: Progress = SILENT) -> Qat:
    """A training towards an FP32 file on images (N, 3, H, W), of which every fifth, up to 512, chooses the epoch.

    Raises:
        ExportError: there are too few images, or the file cannot be trained.
    """
    check_trainable(fp32, fp32.name)
    if len(pixels) < 2 * LEAST_IMAGES:
        raise ExportError(
            f"{len(pixels)} images are left to train on, beside those that the file is proven on, and training with "
            f"rounding needs at least {2 * LEAST_IMAGES}: give more"
        )
    rows = np.arange(len(pixels))
    count = min(_MOST_VALIDATED, len(pixels) // _VALIDATED)
    validated = np.linspace(0, len(pixels) - 1, count).round().astype(np.int64)
    config = QatConfig(epochs=epochs)
    classes = torch.from_numpy(onnx_logits(fp32, pixels, progress=progress, name="FP32 logits").argmax(1))
    train, validation = (
        TensorBatches(torch.from_numpy(pixels[chosen]), classes[chosen], config.batch_size, shuffle=shuffle)
        for chosen, shuffle in ((np.setdiff1d(rows, validated), True), (validated, False))
    )
    return Qat(config, train, validation, Learning(make_fabric(), progress=progress), labelled=False)
