"""Accuracy control of a file that is made bad on purpose: EfficientNet-Lite0 with one scale for each weight tensor.

    .venv/bin/python benchmarks/int8_control.py [--clothing FOLDER] [--no-timing]

Photographs of clothing: 256 training images calibrate, 256 others choose the layers that stay in FP32, and all
validation and test images, which choose nothing, say what came of it. Rows, in results/int8_control.json: all layers in
INT8; a limit on agreement; a limit on signal to noise. A row that is there is not measured again; with --no-timing it
has no time ratio.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clothing import read_part
from int8 import SHARED, has_vnni, lite0

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.machine import describe_machine, versions
from slimsight.deploy.timing.file_ratio import time_file_ratio
from slimsight.export.int8.calibration import Calibration, spread_rows
from slimsight.export.int8.control import Control, ControlImages, KeptLimits
from slimsight.export.int8.fidelity import compare_accuracy, compare_fidelity
from slimsight.export.int8.make import make_int8
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.quantise import Scheme
from slimsight.export.onnx_files.quantised import WeightScales
from slimsight.export.runners.onnxruntime_session import layers_in_onnxruntime
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "int8_control.json"
IMAGES, CHOSEN_ON, MOST = 256, 256, 8
ROWS: dict[str, tuple[WeightScales, KeptLimits]] = {
    "per_channel": ("per_channel", KeptLimits()),
    "per_tensor": ("per_tensor", KeptLimits()),
    "sqnr_18": ("per_tensor", KeptLimits(sqnr_db=18)),
    "agreement_97": ("per_tensor", KeptLimits(agreement=0.97)),
}

Row = dict[str, Any]


class Photographs:
    """Images (N, 3, 224, 224) uint8 and labels of the three parts, and the rows of training images that are used."""

    def __init__(self, folder: Path) -> None:
        parts = {part: read_part(folder / part) for part in ("train", "validation", "test")}
        self.pixels = {part: images.numpy() for part, (images, _) in parts.items()}
        self.labels = {part: labels.numpy() for part, (_, labels) in parts.items()}
        total = len(self.labels["train"])
        self.calibrated = spread_rows(total, IMAGES)
        others = np.setdiff1d(np.arange(total), self.calibrated)
        self.chosen_on = others[np.linspace(0, len(others) - 1, CHOSEN_ON).round().astype(np.int64)]


def measure(name: str, given: argparse.Namespace, images: Photographs, fp32: Path) -> Row:
    weights, limits = ROWS[name]
    train = images.pixels["train"]
    calibration = Calibration(train[images.calibrated], "training images")
    control = Control(limits, ControlImages(train[images.chosen_on]), MOST) if limits.any else None
    ratio = None if given.no_timing else partial(time_file_ratio, images=images.pixels["test"])
    path = given.work / f"{name}.int8.onnx"
    validation = images.pixels["validation"]
    scheme = Scheme(weights=weights)
    made = make_int8(fp32, path, calibration, validation, scheme=scheme, control=control, time_ratio=ratio)
    layers = layers_in_onnxruntime(path)
    row: Row = {"row": name, "weights": weights, "proof_passed": made.proof.passed, "size_bytes": made.file.size_bytes}
    row |= {"float_layers_in_optimised_graph": list(layers.floating), "requantised": list(layers.requantised)}
    row |= {} if made.control is None else {"accuracy_control": made.control.to_dict()}
    for part in ("validation", "test"):
        exact, found = (onnx_logits(file, images.pixels[part]) for file in (fp32, path))
        accuracy = compare_accuracy(exact, found, images.labels[part])
        row[part] = compare_fidelity(exact, found).to_dict() | {"accuracy": accuracy.int8, "drop": accuracy.drop}
    return row


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-timing", action="store_true", help="leave the time ratio out")
    parser.add_argument("--clothing", type=Path, default=SHARED / "data" / "clothing", help="folder of the photographs")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights", help="folder of trained weights")
    parser.add_argument("--work", type=Path, default=Path("runs/int8_control"), help="folder for files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    given.work.mkdir(parents=True, exist_ok=True)
    fp32 = given.work / "model.onnx"
    if not fp32.exists():
        export_onnx(lite0(given), torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)), fp32)
    missing = [name for name in ROWS if not any(row["row"] == name for row in rows)]
    images = Photographs(given.clothing) if missing else None
    for name in missing:
        assert images is not None
        rows.append(measure(name, given, images, fp32))
        head = {"schema": 1, "versions": versions(), "machine": describe_machine(), "vnni": has_vnni()}
        write_json(RESULTS, {**head, "images": IMAGES, "max_float_layers": MOST, "rows": rows})
        print(name, rows[-1]["validation"], rows[-1]["test"], rows[-1]["float_layers_in_optimised_graph"], flush=True)


if __name__ == "__main__":
    main()
