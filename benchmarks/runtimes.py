"""ONNX files in every runtime here, on real images: parity, and speed against ONNX Runtime in FP32 of the original.

    .venv/bin/python benchmarks/runtimes.py [--models resnet20] [--only parity|timing] [--runtimes openvino]

For each network its original and a slim model (half of the MACs by magnitude, widths in 16s, not finetuned: parity asks
only whether a file computes what its model does), each in FP32 and in INT8 (form u8, 256 training images). FP32 rows
compare a runtime with the model in PyTorch, INT8 rows with the file's own arithmetic; `p99` and `largest` are
differences of logits over the largest logit. All files of a network are timed in turn, one thread, batch 1.

`resnet20_conv` is ResNet-20 whose shortcuts are 1x1 convolutions that pick channels as the padded ones do: the same
trained function by other operators. Rows lie in results/runtimes.json; one of the same version is not measured again.
Timings, `convert_seconds` among them, mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from int8 import Images, cifar_images, clothing_images, lite0, magnitude_slim, resnet20, training_calibration
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.models import Classifier, build_classifier
from slimsight.deploy.machine import describe_machine, versions
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import to_quantiles, to_speedup
from slimsight.export.int8.fidelity import compare_fidelity
from slimsight.export.int8.prove import onnx_logits, runtime_logits
from slimsight.export.int8.quantise import quantise
from slimsight.export.runners import Runtime, TorchRunner, to_input
from slimsight.export.runners.choose import open_runner, runtimes_for
from slimsight.export.to_onnx import export_onnx

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "runtimes.json"
FORMS, PRECISIONS = ("original", "slim"), ("fp32", "int8")
REFERENCE, IMAGES, SEED = "onnxruntime-cpu", 500, 0

Row = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """How a network and its images are made. ``side``: of the images, pixels."""

    side: int
    build: Callable[[argparse.Namespace], nn.Module]
    images: Callable[[argparse.Namespace], Images]


def resnet20_conv(given: argparse.Namespace) -> Classifier:
    """ResNet-20 with convolutions as shortcuts, that compute what its padded ones do."""
    model = build_classifier(ModelConfig(name="resnet20", shortcut="conv"), 10)
    stored = load_file(given.weights / "resnet20_cifar10_jpeg.safetensors")
    missing, unexpected = model.net.load_state_dict(stored, strict=False)
    assert not unexpected
    assert all(".shortcut." in name for name in missing)
    for block in model.net.modules():
        if isinstance(shortcut := getattr(block, "shortcut", None), nn.Sequential) and len(shortcut):
            _pick_channels_(shortcut)
    return model.eval()


@torch.no_grad()
def _pick_channels_(shortcut: nn.Sequential) -> None:
    """Make a 1x1 convolution and its BatchNorm copy channels, with as many zero channels on both sides."""
    conv, norm = shortcut[0], shortcut[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    first = (conv.out_channels - conv.in_channels) // 2
    conv.weight.zero_()
    conv.weight[first : first + conv.in_channels, :, 0, 0] = torch.eye(conv.in_channels)
    norm.running_var.fill_(1 - norm.eps)  # so that it divides by one


NETWORKS = {
    "resnet20": Network(32, resnet20, cifar_images),
    "resnet20_conv": Network(32, resnet20_conv, cifar_images),
    "efficientnet_lite0": Network(224, lite0, clothing_images),
}


class Study:
    """Rows by model, form, precision and runtime; written whenever some are added."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.rows: list[Row] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
        found = [runtime for runtime in runtimes_for(".onnx") if runtime.available() is None]
        self.runtimes = [one for one in found if not given.runtimes or one.name in given.runtimes]

    def write(self) -> None:
        write_json(RESULTS, {"schema": 1, "versions": versions(), "machine": describe_machine(), "rows": self.rows})

    def row(self, model: str, form: str, precision: str, runtime: Runtime) -> Row:
        """The row of these; a new one where it was measured with another version of the runtime."""
        key = {"model": model, "form": form, "precision": precision, "runtime": runtime.name}
        found = next((row for row in self.rows if key.items() <= row.items()), None)
        if found is not None and found["version"] == runtime.version:
            return found
        made = {**key, "version": runtime.version, **dict.fromkeys(_FIGURES)}
        self.rows = [row for row in self.rows if row is not found] + [made]
        return made

    def measure(self, name: str) -> None:
        """What is wanted of a network and not there."""
        cells = [(form, precision, runtime) for form in FORMS for precision in PRECISIONS for runtime in self.runtimes]
        rows = [(self.row(name, *cell), cell[2]) for cell in cells]
        prove = "parity" in self.given.only and any(row["p99"] is row["refused"] is None for row, _ in rows)
        clock = "timing" in self.given.only and any(row["speedup"] is row["refused"] is None for row, _ in rows)
        if not prove and not clock:
            return
        images, models = NETWORKS[name].images(self.given), self.models(name)
        files = self.files(name, models, images)
        pixels = images.test[np.linspace(0, len(images.test) - 1, IMAGES).astype(int)]
        if prove:
            self.prove(rows, models, files, pixels)
        if clock:
            self.time(rows, files, pixels)

    def models(self, name: str) -> dict[str, nn.Module]:
        """The original and the slim model."""
        network = NETWORKS[name]
        net, example = network.build(self.given), torch.rand(2, 3, network.side, network.side)
        return {"original": net, "slim": magnitude_slim(net, example).eval()}

    def files(self, name: str, models: dict[str, nn.Module], images: Images) -> dict[tuple[str, str], Path]:
        """ONNX files by form and precision, made where they are not there."""
        self.given.work.mkdir(parents=True, exist_ok=True)
        side = NETWORKS[name].side
        found: dict[tuple[str, str], Path] = {}
        for form, model in models.items():
            fp32, int8 = (self.given.work / f"{name}.{form}.{precision}.onnx" for precision in PRECISIONS)
            if not fp32.exists():
                export_onnx(model, torch.rand(2, 3, side, side), fp32)
            if not int8.exists():
                quantise(fp32, int8, training_calibration(images))
            found |= {(form, "fp32"): fp32, (form, "int8"): int8}
        return found

    def prove(
        self,
        rows: list[tuple[Row, Runtime]],
        models: dict[str, nn.Module],
        files: dict[tuple[str, str], Path],
        pixels: NDArray[np.uint8],
    ) -> None:
        """Differences of every runtime from what each file should compute."""
        exact = {(form, "fp32"): torch_logits(model, pixels) for form, model in models.items()}
        exact |= {(form, "int8"): onnx_logits(files[form, "int8"], pixels, optimised=False) for form in FORMS}
        for row, runtime in rows:
            cell = row["form"], row["precision"]
            try:
                found = runtime_logits(runtime, files[cell], pixels)
            except ExportError as error:
                row["refused"] = str(error)
            else:
                fidelity = compare_fidelity(exact[cell], found)
                row |= {"p99": fidelity.p99, "agreement": fidelity.agreement, "images": len(pixels)}
                row["largest"] = float(np.abs(exact[cell] - found).max() / np.abs(exact[cell]).max())
                if row["precision"] == "int8" and (read := runtime.precision_readback) is not None:
                    layers = read(files[cell])
                    row |= {"integer_layers": len(layers.integer), "float_layers": list(layers.floating)}
            print(*(row[key] for key in ("model", *_SHOWN)), flush=True)
        self.write()

    def time(
        self, rows: list[tuple[Row, Runtime]], files: dict[tuple[str, str], Path], pixels: NDArray[np.uint8]
    ) -> None:
        """All files in all runtimes in turn, and how long each takes to open."""
        timed = [(row, runtime) for row, runtime in rows if row["refused"] is None]
        runners = {"reference": open_runner(files["original", "fp32"], REFERENCE)}
        for number, (row, runtime) in enumerate(timed):
            path = files[row["form"], row["precision"]]
            began = time.perf_counter()
            with runtime.open(path, runtime.device, 1):
                row["convert_seconds"] = round(time.perf_counter() - began, 3)
            runners[str(number)] = runtime.open(path, runtime.device, 1)
        settings = {"sessions": self.given.sessions, "rounds": self.given.rounds, "warmup": 2, "seed": SEED}
        timings = time_sessions(runners, pixels[:64], **settings).timings
        for number, (row, _) in enumerate(timed):
            ms = timings[str(number)].host
            speedup = to_speedup(timings["reference"].host, ms, seed=SEED)
            row["median_ms"] = round(to_quantiles(ms).median, 4)
            row["speedup"] = {key: round(getattr(speedup, key), 3) for key in ("median", "low", "high")}
            print(*(row[key] for key in ("model", *_KEY, "median_ms", "speedup")), flush=True)
        self.write()


_KEY = ("form", "precision", "runtime")
_FIGURES = ("p99", "largest", "agreement", "images", "median_ms", "speedup", "convert_seconds", "refused")
_SHOWN = (*_KEY, "p99", "largest", "agreement", "refused")


@torch.inference_mode()
def torch_logits(model: nn.Module, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, classes) of a model in PyTorch."""
    with TorchRunner(model) as runner:
        return np.concatenate([runner.run(to_input(pixels[start : start + 16])) for start in range(0, len(pixels), 16)])


def main() -> None:
    """Measure what has no figures yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--only", nargs="+", default=["parity", "timing"], choices=["parity", "timing"])
    parser.add_argument("--runtimes", nargs="*", default=[], help="names; none: all that run here")
    parser.add_argument("--clothing", type=Path, default=SHARED / "data" / "clothing", help="folder of the photographs")
    parser.add_argument("--cifar", type=Path, default=SHARED / "data" / "cifar10-jpeg.tar.xz")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights", help="folder of trained weights")
    parser.add_argument("--work", type=Path, default=Path("runs/runtimes"), help="folder for files")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(given)
    for name in given.models:
        study.measure(name)


if __name__ == "__main__":
    main()
