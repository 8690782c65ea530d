"""The default path on photographs against a short Torch-Pruning script: same weights, images, side and budgets.

    .venv/bin/python benchmarks/clothing.py CLOTHING WEIGHTS [--only default taylor_script] [--keep .5 .25] [--seeds 5]

CLOTHING has train/, validation/ and test/ (a folder a class); WEIGHTS are of timm's tf_efficientnet_lite0 finetuned on
it. `default` is what `slimsight init` writes, run as it is but for the seed and budget.macs. `taylor_script` is what a
practitioner writes with Torch-Pruning: group Taylor, global, channels in eights, statistics recalibrated, nine epochs
of SGD. Both take their images at 224 pixels and end as ONNX files, which ONNX Runtime evaluates on the test set and
times in turn with the original's. Rows go to results/clothing.json; a row that is there is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch_pruning as tp
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.macs import count_macs
from slimsight.compress.models import Classifier
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.timing.rounds import time_sessions
from slimsight.deploy.timing.statistics import to_quantiles, to_speedup
from slimsight.export.runners import OnnxRunner
from slimsight.export.to_onnx import export_onnx

RESULTS = Path(__file__).resolve().parent / "results" / "clothing.json"
SIDE, BATCH, EPOCHS, LR = 224, 16, 9, 0.02
MEAN, STD = 127 / 255, 128 / 255

Images = tuple[Tensor, Tensor]
"""(N, 3, SIDE, SIDE) uint8 and labels (N,)."""


def read_part(folder: Path) -> Images:
    """The images of train/, validation/ or test/: short side to SIDE (bilinear), centre."""
    images, labels = [], []
    for label, of_class in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        for file in sorted(of_class.glob("*.jpg")):
            picture = Image.open(file).convert("RGB")
            scale = SIDE / min(picture.size)
            picture = picture.resize([max(SIDE, round(x * scale)) for x in picture.size], Image.Resampling.BILINEAR)
            left, top = ((x - SIDE) // 2 for x in picture.size)
            images.append(np.asarray(picture.crop((left, top, left + SIDE, top + SIDE))))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def normalised(images: Tensor) -> Tensor:
    return ((images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def original(weights: Path) -> nn.Module:
    """EfficientNet-Lite0 with the given weights, in eval mode."""
    model = timm.create_model("tf_efficientnet_lite0", num_classes=10)
    model.load_state_dict(load_file(weights))
    return model.eval()


def taylor_script(model: nn.Module, train: Images, keep: float, seed: int) -> nn.Module:
    """Torch-Pruning as in its examples, until ``keep`` of the MACs are left; then nine epochs."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    example = torch.randn(1, 3, SIDE, SIDE)
    whole, _ = tp.utils.count_ops_and_params(model, example)
    pruner = tp.pruner.BasePruner(
        model.requires_grad_(True),
        example,
        importance=tp.importance.GroupTaylorImportance(),
        global_pruning=True,
        pruning_ratio=0.7 if keep >= 0.5 else 0.9,
        max_pruning_ratio=0.8 if keep >= 0.5 else 0.95,
        iterative_steps=40,
        ignored_layers=[model.classifier],
        round_to=8,
    )
    for step in range(40):
        if step % 4 == 0:
            _add_gradients(model, train)
        pruner.step()
        if tp.utils.count_ops_and_params(model, example)[0] <= keep * whole:
            break
    model.zero_grad()
    _recalibrate(model, train)
    _finetune(model.to(memory_format=torch.channels_last), train, generator)
    _recalibrate(model, train)
    return model.eval()


def _add_gradients(model: nn.Module, train: Images) -> None:
    model.eval().zero_grad()
    drawn = torch.randperm(len(train[1]))[:256]
    for rows in drawn.split(32):
        (F.cross_entropy(model(normalised(train[0][rows])), train[1][rows]) / 8).backward()


@torch.no_grad()
def _recalibrate(model: nn.Module, train: Images) -> None:
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for _ in range(50):
        model(normalised(train[0][torch.randint(len(train[1]), (32,))]))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _finetune(model: nn.Module, train: Images, generator: np.random.Generator) -> None:
    count = len(train[1])
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, EPOCHS * (count // BATCH), pct_start=0.2)
    for _ in range(EPOCHS):
        model.train()
        order = torch.randperm(count)
        for rows in order[: count // BATCH * BATCH].split(BATCH):
            images = train[0][rows]
            mirrored = torch.rand(BATCH) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
            down, across = generator.integers(-SIDE // 8, SIDE // 8 + 1, 2)
            images = torch.roll(images, (int(down), int(across)), (2, 3))
            loss = F.cross_entropy(model(normalised(images)), train[1][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class Study:
    """Rows of the study, and the files that they are measured on."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.work: Path = given.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
        self._parts: dict[str, Images] = {}

    def part(self, name: str) -> Images:
        if name not in self._parts:
            self._parts[name] = read_part(self.given.clothing / name)
        return self._parts[name]

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.write()
        print({name: value for name, value in row.items() if not name.endswith("right")}, flush=True)

    def write(self) -> None:
        about = {"schema": 1, "device": device_name(), "versions": versions(), "model": "tf_efficientnet_lite0"}
        command = "benchmarks/clothing.py CLOTHING WEIGHTS"
        write_json(RESULTS, {**about, "command": command, "rows": self.rows})

    def has(self, **keys: object) -> bool:
        wanted = {"set": None, **keys}
        return any(all(row.get(key) == value for key, value in wanted.items()) for row in self.rows)

    def file(self, variant: str, keep: float, seed: int) -> Path:
        return self.work / f"{variant}-{keep:g}-{seed}.onnx"

    def evaluated(self, file: Path) -> dict[str, Any]:
        """Accuracies of an ONNX file, and which test images it gets right ("1" or "0" each)."""
        found: dict[str, Any] = {}
        with OnnxRunner(file, threads=self.given.threads) as runner:
            for name in ("validation", "test"):
                images, labels = self.part(name)
                rows = [runner.run(images[k : k + 1].float().numpy() / 255).argmax(1)[0] for k in range(len(labels))]
                right = np.array(rows) == labels.numpy()
                short = "val" if name == "validation" else name
                found[f"{short}_accuracy"] = round(float(right.mean()), 4)
                found[f"{short}_right"] = "".join("1" if one else "0" for one in right)
        return found

    def baseline(self) -> None:
        file = self.work / "original.onnx"
        if not file.exists():
            self._export(original(self.given.weights), file)
        if not self.has(variant="baseline"):
            macs = count_macs(original(self.given.weights), torch.randn(1, 3, SIDE, SIDE)).total
            self.add({"variant": "baseline", "image_size": SIDE, "macs": macs, **self.evaluated(file)})

    def _export(self, model: nn.Module, file: Path) -> None:
        wrapped = Classifier(copy.deepcopy(model).to(memory_format=torch.contiguous_format), (MEAN,) * 3, (STD,) * 3)
        export_onnx(wrapped.eval(), torch.rand(1, 3, SIDE, SIDE), file)

    def run_taylor_script(self, keep: float, seed: int) -> dict[str, Any]:
        started = time.process_time()
        slim = taylor_script(original(self.given.weights), self.part("train"), keep, seed)
        cpu = time.process_time() - started
        self._export(slim, self.file("taylor_script", keep, seed))
        macs = tp.utils.count_ops_and_params(
            slim.to(memory_format=torch.contiguous_format), torch.randn(1, 3, SIDE, SIDE)
        )
        return {"ranking": "taylor (Torch-Pruning)", "epochs": EPOCHS, "macs": int(macs[0]), "cpu_seconds": round(cpu)}

    def run_default(self, keep: float, seed: int) -> dict[str, Any]:
        recipe, root = self.work / "recipe.yaml", self.work / f"default-{keep:g}-{seed}"
        if not recipe.exists():
            self._slimsight("init", "timm:tf_efficientnet_lite0", self.given.clothing, "--weights", self.given.weights,
                            "--out", recipe)  # fmt: skip
        options = [f"seed={seed}", f"budget.macs={keep:.0%}", f"threads={self.given.threads}", *self.given.set]
        started = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = self._slimsight("run", recipe, "--out", root, *(f"--set={option}" for option in options))
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = read_json(root / "report.json")
        Path(self.file("default", keep, seed)).write_bytes((root / "slim" / "model.onnx").read_bytes())
        return {
            "ranking": report["gates"]["steer"],
            "macs": report["slim"]["macs"],
            "cpu_seconds": round(ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime),
            "passed": code == 0,
        }

    def _slimsight(self, *arguments: object) -> int:
        command = [sys.executable, "-m", "slimsight", *map(str, arguments)]
        with (self.work / "log.txt").open("ab") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if code not in (0, 1):
            raise SystemExit(f"{' '.join(command)}: exit code {code}, see {self.work / 'log.txt'}")
        return code

    def learn(self) -> None:
        """Every variant, budget and seed that has no row yet; seeds in turn, so that early rows compare."""
        run = {"taylor_script": self.run_taylor_script, "default": self.run_default}
        for seed in range(self.given.seeds):
            for keep in self.given.keep:
                for variant in self.given.only:
                    key = {"variant": variant, "budget": keep, "seed": seed, "image_size": SIDE}
                    key |= {"set": self.given.set} if self.given.set else {}
                    if not self.has(**key):
                        found = run[variant](keep, seed)
                        file = self.file(variant, keep, seed)
                        self.add({**key, **found, **self.evaluated(file), **self.timed(file)})

    def timed(self, file: Path) -> dict[str, Any]:
        """Latency of an ONNX file and its speed-up over the original, in turn with it in one process."""
        files = {"original": self.work / "original.onnx", "slim": file}
        runners = {name: OnnxRunner(path, threads=self.given.threads) for name, path in files.items()}
        images = self.part("validation")[0][:16].numpy()
        timings = time_sessions(runners, images, sessions=4, rounds=self.given.rounds, warmup=2, seed=0).timings
        speedup = to_speedup(timings["original"].host, timings["slim"].host, seed=0)
        return {
            "latency_ms": round(to_quantiles(timings["slim"].host).median, 3),
            "speedup": {name: round(getattr(speedup, name), 3) for name in ("median", "low", "high")},
        }


def main() -> None:
    """Learn, evaluate and time what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clothing", type=Path, help="folder of the photographs")
    parser.add_argument("weights", type=Path, help=".safetensors of tf_efficientnet_lite0, 10 classes")
    parser.add_argument("--only", nargs="+", default=["default", "taylor_script"], choices=["default", "taylor_script"])
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25], help="shares of the MACs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of learning and of timing")
    parser.add_argument("--rounds", type=int, default=80, help="timed calls of each file")
    parser.add_argument(
        "--set", nargs="*", default=[], help="overrides of the default's recipe, for trials: rows keep them"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/clothing"), help="folder for runs and files")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    study = Study(given)
    study.baseline()
    study.learn()


if __name__ == "__main__":
    main()
