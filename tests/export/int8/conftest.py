"""A small network with what quantisation has to get right, and its INT8 files, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_static
from torch import nn

from slimsight.export.int8.calibration import BatchReader, Calibration
from slimsight.export.int8.quantise import QuantisedFile, quantise
from slimsight.export.onnx_files.quantised import Form
from slimsight.export.to_onnx import export_onnx

SIDE = 16


def images(count: int, *, seed: int = 1) -> NDArray[np.uint8]:
    """Blobs of brightness, so that values differ more than those of noise do."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 256, (count, 3, 1, 1))
    noise = generator.integers(-60, 60, (count, 3, SIDE, SIDE))
    return np.clip(levels + noise, 0, 255).astype(np.uint8)


def keep_in_fp32(source: Path, path: Path, calibration: Calibration, layer: str) -> Path:
    """As a user excludes a layer by onnxruntime.quantization."""
    quantize_static(
        source,
        path,
        BatchReader(calibration, "images", batch=None),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[layer],
    )
    return path


class Quantised(NamedTuple):
    """The FP32 file, and the INT8 file of each form."""

    model: nn.Module
    fp32: Path
    made: dict[Form, QuantisedFile]


@pytest.fixture(scope="session")
def calibration() -> Calibration:
    return Calibration(images(32), "training images", tuple(range(0, 64, 2)))


@pytest.fixture(scope="session")
def mixed(
    to_mixed: Callable[[int], nn.Module], calibration: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> Quantised:
    """Normalisation, a pad shortcut, depthwise (clipped) and grouped convolutions, a linear layer."""
    folder = tmp_path_factory.mktemp("int8")
    model, fp32 = to_mixed(10), folder / "model.onnx"
    export_onnx(model, torch.rand(1, 3, SIDE, SIDE), fp32)
    forms: tuple[Form, ...] = ("u8", "s8")
    return Quantised(
        model, fp32, {form: quantise(fp32, folder / f"model.{form}.onnx", calibration, form=form) for form in forms}
    )
