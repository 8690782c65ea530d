"""INT8 alone, pruning alone, and both: speed-up over the original in FP32, size, fidelity, and accuracy.

    .venv/bin/python benchmarks/int8.py [--only resnet18] [--no-timing] [--slim resnet20=runs/a/slim/model.onnx]

For each network four ONNX files of the form for ONNX Runtime: the original, it in INT8, the slim model (half of the
MACs, widths in 16s), and that in INT8; timed in turn, one thread, batch 1. ResNet-18, ResNet-50 and MobileNetV2 have
random weights: only their speed, size and proof mean something. EfficientNet-Lite0 (photographs of clothing) and
ResNet-20 (CIFAR-10) are trained: their originals are also evaluated on the test images. Slim models are ranked by
magnitude and not finetuned, so that nothing is said of their accuracy, unless --slim names the file of a finished run.

Calibration: 256 training images (of random weights: random images). `faults` are planted ones that the proof must find:
a layer that is left in FP32 and quantised again by ONNX Runtime, and MobileNetV2 in the form for TensorRT.

Files stay in --work, and rows in results/int8.json: a row that is there is not measured again; with --no-timing rows
have no speed-up, and a later call without it adds it. INT8 needs integer instructions (VNNI on x86): `vnni` says
whether this processor has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from clothing import read_part
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_static
from safetensors.torch import load_file
from torch import nn
from torchvision import models

import slimsight
from slimsight.compress.config import DataConfig, ModelConfig
from slimsight.compress.data import open_splits
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.models import Classifier, build_classifier
from slimsight.deploy.host import default_cache
from slimsight.deploy.machine import describe_machine, versions
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import to_speedup
from slimsight.export.int8.calibration import BatchReader, Calibration, spread_rows
from slimsight.export.int8.fidelity import compare_accuracy, compare_fidelity
from slimsight.export.int8.prove import Int8Proof, onnx_logits, prove_int8
from slimsight.export.int8.quantise import quantise
from slimsight.export.onnx_files.metadata import read_metadata, stored_metadata, write_metadata_
from slimsight.export.runners import OnnxRunner
from slimsight.export.to_onnx import export_onnx

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
RESULTS = ROOT / "benchmarks" / "results" / "int8.json"
FORMS = ("fp32", "int8", "slim", "slim_int8")
KEPT, ALIGN, CALIBRATION, PROOF = 0.5, 16, 256, 500
RUNTIME, METHOD = "onnxruntime-cpu", "minmax"

Row = dict[str, Any]


@dataclass(frozen=True)
class Images:
    """Training and test images (N, 3, H, W) uint8, and the labels of the latter; None: random images."""

    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Network:
    """How a network and its images are made. ``side``: of the images, pixels."""

    side: int
    build: Callable[[argparse.Namespace], nn.Module]
    images: Callable[[argparse.Namespace], Images]


def noise(_given: argparse.Namespace) -> Images:
    """Random images with a level of their own."""
    draw = np.random.default_rng(0)
    level = draw.integers(0, 256, (CALIBRATION + 64, 3, 1, 1))
    pixels = np.clip(level + draw.integers(-80, 80, (len(level), 3, 224, 224)), 0, 255).astype(np.uint8)
    return Images(pixels[:CALIBRATION], pixels[CALIBRATION:])


def clothing_images(given: argparse.Namespace) -> Images:
    train, test = (read_part(given.clothing / part) for part in ("train", "test"))
    return Images(train[0].numpy(), test[0].numpy(), test[1].numpy())


def cifar_images(given: argparse.Namespace) -> Images:
    config = DataConfig(source="image_tree", path=given.cifar, val_list=given.cifar.with_name("cifar10-jpeg.val.txt"))
    splits = open_splits(config, cache_dir=default_cache(), seed=0)
    test = splits.test()
    train = splits.train.images
    rows = np.asarray(spread_rows(len(train), 10_000))  # they are sorted by class
    return Images(np.asarray(train[rows]), np.asarray(test.images), test.labels)


def torchvision_network(name: str) -> Callable[[argparse.Namespace], nn.Module]:
    def build(_given: argparse.Namespace) -> nn.Module:
        torch.manual_seed(0)
        return models.get_model(name).eval()

    return build


def lite0(given: argparse.Namespace) -> nn.Module:
    net = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    net.load_state_dict(load_file(given.weights / "efficientnet_lite0_clothing.safetensors"))
    return Classifier(net.eval(), (127 / 255,) * 3, (128 / 255,) * 3).eval()


def resnet20(given: argparse.Namespace) -> nn.Module:
    weights = given.weights / "resnet20_cifar10_jpeg.safetensors"
    return build_classifier(ModelConfig(name="resnet20", weights=weights), 10).eval()


NETWORKS = {
    "resnet18": Network(224, torchvision_network("resnet18"), noise),
    "resnet50": Network(224, torchvision_network("resnet50"), noise),
    "mobilenet_v2": Network(224, torchvision_network("mobilenet_v2"), noise),
    "efficientnet_lite0": Network(224, lite0, clothing_images),
    "resnet20": Network(32, resnet20, cifar_images),
}


class Study:
    """Rows by network, form and file; written whenever one is added."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        stored = read_json(RESULTS) if RESULTS.exists() else {}
        self.rows: list[Row] = stored.get("rows", [])
        self.faults: list[Row] = stored.get("faults", [])

    def row(self, model: str, form: str) -> Row | None:
        return next((row for row in self.rows if (row["model"], row["form"]) == (model, form)), None)

    def write(self) -> None:
        machine = describe_machine()
        head = {"schema": 1, "versions": versions(), "machine": machine, "vnni": has_vnni()}
        write_json(RESULTS, {**head, "rows": self.rows, "faults": self.faults})

    def measure(self, name: str) -> None:
        """The rows of a network that are not there, and the speed-ups that are not."""
        network = NETWORKS[name]
        done = all((row := self.row(name, form)) and (row["speedup"] or self.given.no_timing) for form in FORMS)
        if done:
            return
        files, images = self.files(name, network), network.images(self.given)
        for form, path in files.items():
            if self.row(name, form) is None:
                self.rows.append(self.described(name, network, form, files, images))
                self.write()
                print(name, form, path.stat().st_size, flush=True)
        if not self.given.no_timing:
            self.time(name, files, images)

    def files(self, name: str, network: Network) -> dict[str, Path]:
        """The four files, made where they are not there."""
        work = self.given.work
        work.mkdir(parents=True, exist_ok=True)
        files = {form: work / f"{name}.{form}.onnx" for form in FORMS}
        given_slim = dict(text.split("=", 1) for text in self.given.slim).get(name)
        example = torch.rand(2, 3, network.side, network.side, generator=torch.Generator().manual_seed(0))
        if given_slim:
            files["slim"].write_bytes(Path(given_slim).read_bytes())
        missing = [form for form in ("fp32", "slim") if not files[form].exists()]
        if missing:
            net = network.build(self.given)
            if "fp32" in missing:
                export_onnx(net, example, files["fp32"])
            if "slim" in missing:
                export_onnx(magnitude_slim(net, example), example, files["slim"])
        calibration: Calibration | None = None
        for fp32, form in (("fp32", "int8"), ("slim", "slim_int8")):
            if not files[form].exists():
                calibration = calibration or training_calibration(network.images(self.given))
                quantise(files[fp32], files[form], calibration, method=METHOD)
        return files

    def described(self, name: str, network: Network, form: str, files: dict[str, Path], images: Images) -> Row:
        """All of a row but its speed-up: fidelity is against the FP32 file of the same network."""
        row: Row = {
            "model": name,
            "image_size": network.side,
            "form": form,
            "file": "u8" if "int8" in form else None,
            "runtime": RUNTIME,
            "method": METHOD if "int8" in form else None,
            "images": CALIBRATION if "int8" in form else None,
            "speedup": None,
            "size_bytes": files[form].stat().st_size,
        }
        if "int8" in form:
            fp32 = files["fp32" if form == "int8" else "slim"]
            row |= proof_figures(prove_int8(files[form], fp32, images.test[:PROOF], artifact=name))
        if images.labels is not None and (form in ("fp32", "int8") or name in " ".join(self.given.slim)):
            exact, found = (onnx_logits(files[kind], images.test) for kind in ("fp32", form))
            accuracy = compare_accuracy(exact, found, images.labels)
            row |= {"test_accuracy": accuracy.int8, "original_test_accuracy": accuracy.fp32}
            row |= {"accuracy_drop": {key: getattr(accuracy, key) for key in ("drop", "low", "high", "images")}}
            row["agreement_with_original"] = compare_fidelity(exact, found).agreement
        return row

    def time(self, name: str, files: dict[str, Path], images: Images) -> None:
        """All four files in turn; speed-ups over the original in FP32."""
        runners = {form: OnnxRunner(path, 1) for form, path in files.items()}
        settings = {"sessions": self.given.sessions, "rounds": self.given.rounds, "warmup": 2, "seed": 0}
        timings = time_sessions(runners, images.test[:64], **settings).timings
        for form in FORMS:
            row, found = self.row(name, form), to_speedup(timings["fp32"].host, timings[form].host, seed=0)
            assert row is not None
            row["speedup"] = {key: round(getattr(found, key), 3) for key in ("median", "low", "high")}
            print(name, form, row["speedup"], flush=True)
        self.write()

    def plant(self) -> None:
        """The planted faults that have no row yet."""
        for fault, plant in (("kept_in_fp32", self.kept_in_fp32), ("s8_on_x86", self.s8_on_x86)):
            if not any(row["fault"] == fault for row in self.faults):
                proof = plant()
                self.faults.append({"fault": fault, "found": not proof.passed, **proof.to_dict()})
                self.write()
                print(fault, "found" if not proof.passed else "NOT FOUND", flush=True)

    def kept_in_fp32(self) -> Int8Proof:
        """EfficientNet-Lite0 with its first depthwise convolution left in FP32."""
        network, name = NETWORKS["efficientnet_lite0"], "efficientnet_lite0"
        fp32, path = self.files(name, network)["fp32"], self.given.work / "kept.onnx"
        images = network.images(self.given)
        groups = ("group", lambda node: next((a.i for a in node.attribute if a.name == "group"), 1))
        depthwise = next(
            node.name for node in onnx.load(fp32).graph.node if node.op_type == "Conv" and groups[1](node) > 1
        )
        reader = BatchReader(training_calibration(images), "images", batch=None)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(fp32, path, reader, per_channel=True, nodes_to_exclude=[depthwise], **kinds)
        return prove_int8(path, fp32, images.test[:PROOF], artifact=f"{name} without {depthwise}")

    def s8_on_x86(self) -> Int8Proof:
        """The form for TensorRT of MobileNetV2, which says that it is for ONNX Runtime."""
        network = NETWORKS["mobilenet_v2"]
        fp32, path = self.files("mobilenet_v2", network)["fp32"], self.given.work / "s8.onnx"
        images = network.images(self.given)
        quantise(fp32, path, training_calibration(images), form="s8")
        proto = onnx.load(path)
        write_metadata_(proto, stored_metadata(proto) | {"int8_form": "u8"})
        onnx.save(proto, path)
        assert read_metadata(path).all["int8_form"] == "u8"
        return prove_int8(path, fp32, images.test, artifact="mobilenet_v2 in the form s8")


def training_calibration(images: Images) -> Calibration:
    rows = spread_rows(len(images.train), CALIBRATION)
    return Calibration(images.train[rows], "training images", tuple(map(int, rows)))


def magnitude_slim(net: nn.Module, example: torch.Tensor) -> nn.Module:
    """Half of the MACs, ranked by magnitude, widths in 16s; not finetuned."""
    traced = slimsight.trace(net, example)
    config = slimsight.GatesConfig(steer="magnitude")
    scores = slimsight.learn_gates(traced, [], macs=KEPT, config=config)
    return slimsight.slim(traced, slimsight.select(traced, scores, macs=KEPT, align=ALIGN)).model


def proof_figures(proof: Int8Proof) -> Row:
    """What a row says of fidelity and layers."""
    runtime = next(row for row in proof.runtimes if row.runtime == RUNTIME)
    assert runtime.layers is not None
    found = proof.fidelity.to_dict()
    row: Row = {name: found[name] for name in ("agreement", "sqnr_db", "p99")}
    row |= {"runtime_p99": runtime.p99, "runtime_agreement": runtime.agreement, "passed": runtime.passed}
    row |= {"integer_layers": len(runtime.layers.integer), "float_layers": list(runtime.layers.floating)}
    return row


def has_vnni() -> bool | None:
    """Whether the processor has VNNI; None where it cannot be read."""
    info = Path("/proc/cpuinfo")
    return ("vnni" in info.read_text(encoding="utf-8")) if info.exists() else None


def main() -> None:
    """Measure what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--no-timing", action="store_true", help="leave speed-ups to a later call")
    parser.add_argument("--no-faults", action="store_true", help="leave out the planted faults")
    parser.add_argument("--slim", nargs="*", default=[], metavar="NAME=FILE", help="FP32 slim models of finished runs")
    parser.add_argument("--clothing", type=Path, default=SHARED / "data" / "clothing", help="folder of the photographs")
    parser.add_argument("--cifar", type=Path, default=SHARED / "data" / "cifar10-jpeg.tar.xz")
    parser.add_argument("--weights", type=Path, default=SHARED / "weights", help="folder of trained weights")
    parser.add_argument("--work", type=Path, default=Path("runs/int8"), help="folder for files")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=10)
    given = parser.parse_args()
    if has_vnni() is False:
        print("this processor has no VNNI: INT8 gains little on it", flush=True)
    torch.set_num_threads(1)
    study = Study(given)
    for name in given.only:
        study.measure(name)
    if not given.no_faults:
        study.plant()


if __name__ == "__main__":
    main()
