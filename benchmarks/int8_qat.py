"""Quantisation-aware training of a network that calibration alone makes bad on purpose: ResNet-20 with unlike channels.

    .venv/bin/python benchmarks/int8_qat.py [--cifar FOLDER] [--weights FOLDER]

Channel c of the first convolution of every block is multiplied by s_c and divided by it again where the second
convolution reads it (ReLU lets factors pass): FP32 computes the same logits as before, but one scale for all of these
activations no longer fits (Nagel et al. 2019, section 3). s_c is 2^u, u uniform within the row's ``spread``; 0: the
network as it was trained.

4096 training images train, 1000 others choose the epoch, 256 calibrate, and 2000 test images, spread over the classes,
say what came of it. Rows go to results/int8_qat.json; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8 import SHARED, resnet20
from torch import nn

from slimsight.compress.config import DataConfig
from slimsight.compress.data import TensorBatches, open_splits
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.training import Learning, make_fabric
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import describe_machine, versions
from slimsight.export.config import QatConfig
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.fidelity import compare_accuracy, compare_fidelity
from slimsight.export.int8.make import Int8Model, make_int8
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.qat import Qat
from slimsight.export.int8.quantise import Scheme
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "int8_qat.json"
SPREADS = (4, 5, 0)
TRAINED, VALIDATED, CALIBRATED, TESTED = 4096, 1000, 256, 2000
TRAINING = QatConfig(epochs=2)

Row = dict[str, Any]


class Images:
    """Images (N, 3, 32, 32) uint8: training, validation, calibration and test, drawn by a seed."""

    def __init__(self, given: argparse.Namespace) -> None:
        lists = given.cifar.with_name("cifar10-jpeg.val.txt")
        config = DataConfig(source="image_tree", path=given.cifar, val_list=lists)
        splits = open_splits(config, cache_dir=default_cache(), seed=0)
        rows = np.random.default_rng(0).permutation(len(splits.train))[: TRAINED + VALIDATED + CALIBRATED]
        drawn = np.stack([splits.train.images[row] for row in rows])
        self.train, self.validation, self.calibration = np.split(drawn, [TRAINED, TRAINED + VALIDATED])
        test = splits.test()
        chosen = np.linspace(0, len(test) - 1, TESTED).round().astype(np.int64)
        self.test, self.labels = np.asarray(test.images[chosen]), test.labels[chosen]


@torch.no_grad()
def spread_(net: nn.Module, spread: float) -> None:
    """Multiply channels between the two convolutions of each block by 2^u, and divide them again."""
    draw = torch.Generator().manual_seed(0)
    for block in net.modules():
        if isinstance(getattr(block, "conv2", None), nn.Conv2d):
            factors = 2 ** ((2 * torch.rand(block.bn1.num_features, generator=draw) - 1) * spread)
            block.bn1.weight.mul_(factors)
            block.bn1.bias.mul_(factors)
            block.conv2.weight.div_(factors.reshape(1, -1, 1, 1))


def batches(images: np.ndarray[Any, Any], size: int, *, shuffle: bool) -> TensorBatches:
    """Without labels: the loss is distillation from the FP32 file alone."""
    pixels = torch.from_numpy(images).float() / 255
    return TensorBatches(pixels, torch.zeros(len(pixels), dtype=torch.int64), size, shuffle=shuffle)


def measure(spread: int, given: argparse.Namespace, images: Images, progress: ConsoleProgress) -> Row:
    net = resnet20(given)
    spread_(net, spread)
    fp32 = given.work / f"spread{spread}.onnx"
    export_onnx(net, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), fp32)
    calibration = Calibration(images.calibration, "training images")
    exact = onnx_logits(fp32, images.test)
    row: Row = {"spread": spread, "fp32_accuracy": float((exact.argmax(1) == images.labels).mean())}
    qat = Qat(
        TRAINING,
        batches(images.train, TRAINING.batch_size, shuffle=True),
        batches(images.validation, 100, shuffle=False),
        Learning(make_fabric(), progress=progress),
        labelled=False,
    )
    for name, asked in (("calibrated", None), ("trained", qat)):
        start = time.perf_counter()
        made = make_int8(
            fp32, given.work / f"spread{spread}.{name}.onnx", calibration, images.test[:64], scheme=Scheme(), qat=asked
        )
        seconds = time.perf_counter() - start
        row[name] = described(made, exact, images) | {"seconds": round(seconds)}
    return row


def described(made: Int8Model, exact: np.ndarray[Any, Any], images: Images) -> Row:
    found = onnx_logits(made.path, images.test)
    accuracy = compare_accuracy(exact, found, images.labels)
    row = compare_fidelity(exact, found).to_dict() | {"accuracy": accuracy.int8, "drop": accuracy.drop}
    row |= {
        "drop_low": accuracy.low,
        "drop_high": accuracy.high,
        "proof": [one.to_dict() for one in made.proof.runtimes],
    }
    return row | ({} if made.qat is None else {"qat": made.qat.to_dict()})


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, default=SHARED / "data" / "cifar10-jpeg.tar.xz", help="the images")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights", help="folder of trained weights")
    parser.add_argument("--work", type=Path, default=Path("runs/int8_qat"), help="folder for files")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    given.work.mkdir(parents=True, exist_ok=True)
    missing = [spread for spread in SPREADS if not any(row["spread"] == spread for row in rows)]
    images = Images(given) if missing else None
    for spread in missing:
        assert images is not None
        with ConsoleProgress() as progress:
            rows.append(measure(spread, given, images, progress))
        head = {"schema": 1, "versions": versions(), "machine": describe_machine()}
        sizes = {"train": TRAINED, "validation": VALIDATED, "calibration": CALIBRATED, "test": TESTED}
        write_json(RESULTS, {**head, "images": sizes, "qat": TRAINING.model_dump(), "rows": rows})
        print({name: value for name, value in rows[-1].items() if name != "proof"}, flush=True)


if __name__ == "__main__":
    main()
