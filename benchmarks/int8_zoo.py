"""INT8 files of torchvision's classifiers: which are written, and what runtimes here compute of them.

    .venv/bin/python benchmarks/int8_zoo.py [--only resnet18]

Random weights (seeded), 224 px (inception_v3: 299), 32 random images calibrate and 16 others prove. For each network
the u8 file in ONNX Runtime and, where it is installed, OpenVINO: 0.99 quantile of the differences from the file's own
arithmetic, agreement, layers in integers, and whether it passed; or the sentence with which the network is refused.
Random weights tell nothing of accuracy. An engine of TensorRT for RTX is built from the s8 file where that can be done;
else the row says why not. `trains`: whether quantisation-aware training knows all of the operators.

Rows go to results/int8_zoo.json, smallest networks first; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from zoo import MODELS, SEED, SIDES

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import RuntimeMissing, SlimError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.models import build_net
from slimsight.deploy.machine import describe_machine, versions
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.prove import prove_int8
from slimsight.export.int8.qat import check_trainable
from slimsight.export.int8.quantise import quantise
from slimsight.export.tensorrt_build.export import export_engine
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "int8_zoo.json"
CALIBRATED, PROVEN, STATISTICS = 32, 16, 8
FIRST = ("squeezenet1_1", "shufflenet_v2_x1_0", "mobilenet_v3_small", "mnasnet1_0", "mobilenet_v2", "regnet_x_400mf")

Row = dict[str, Any]


def images(count: int, side: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random images with a level of their own."""
    draw = np.random.default_rng(seed)
    levels = draw.integers(0, 256, (count, 3, 1, 1))
    return np.clip(levels + draw.integers(-80, 80, (count, 3, side, side)), 0, 255).astype(np.uint8)


def measure(name: str) -> Row:
    """The row of one network."""
    side = SIDES.get(name, 224)
    row: Row = {"model": f"torchvision:{name}", "input": f"3x{side}x{side}"}
    start = time.perf_counter()
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        fp32 = Path(folder) / "model.onnx"
        try:
            net = build_net(ModelConfig(name=f"torchvision:{name}"), 1000).eval()
            take_statistics_(net, images(STATISTICS, side, 2))
            export_onnx(net, torch.rand(2, 3, side, side), fp32)
            row |= measure_files(
                fp32, Calibration(images(CALIBRATED, side, 0), "random images"), images(PROVEN, side, 1)
            )
        except SlimError as error:
            row["error"] = str(error)
    return row | {"seconds": round(time.perf_counter() - start)}


def take_statistics_(net: nn.Module, pixels: np.ndarray[Any, Any]) -> None:
    """Normalisations get the statistics of random images: with those of a new network its logits would be constant."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches
            module.reset_running_stats()
            module.train()
    with torch.inference_mode():
        net(torch.from_numpy(pixels).float() / 255)
    net.eval()


def measure_files(fp32: Path, calibration: Calibration, proven_on: np.ndarray[Any, Any]) -> Row:
    made = quantise(fp32, fp32.with_name("u8.onnx"), calibration)
    proof = prove_int8(made.path, fp32, proven_on, artifact="u8")
    row: Row = {"of_fp32": made.size_bytes / fp32.stat().st_size, **proof.to_dict()}
    engine = quantise(fp32, fp32.with_name("s8.onnx"), calibration, form="s8")
    try:
        built = export_engine(engine.path, fp32.with_name("s8.engine"), flavour="tensorrt-rtx", precision="int8")
        row["engine"] = {"layers_in_integers": len(built.to_dict()["integer_layers"])}
    except (RuntimeMissing, SlimError) as missing:
        row["engine"] = {"not_built": str(missing)}
    try:
        check_trainable(fp32, "it")
        row["trains"] = True
    except SlimError as error:
        row |= {"trains": False, "why_not_trained": str(error)}
    return row


def to_line(row: Row) -> str:
    """What the terminal shows of a row."""
    if "error" in row:
        return f"{row['model']}: {row['error']}"
    ran = [f"{one['runtime']} p99 {one['p99']:.4f}, {one['agreement']:.0%}, {one['passed']}" for one in row["runtimes"]]
    return f"{row['model']}: {'; '.join(ran)}; SQNR {row['fidelity']['sqnr_db']}; {row['seconds']} s"


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MODELS, help="may be given more than once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    wanted = given.only or [*FIRST, *(name for name in MODELS if name not in FIRST)]
    for name in wanted:
        if any(row["model"] == f"torchvision:{name}" for row in rows):
            continue
        rows.append(measure(name))
        write_json(RESULTS, {"schema": 1, "versions": versions(), "machine": describe_machine(), "rows": rows})
        print(to_line(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
