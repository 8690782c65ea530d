"""Reruns: after twelve kinds of change a run into the same folder has to report what a run into a new folder does.

    .venv/bin/python benchmarks/reruns.py [--files 50000]

A project of a tiny network on a few images of 8 pixels: a model with a neighbour, a neighbour's neighbour, a settings
file that its factory reads and a weights file, and images in train/, val/ and test/. For each kind of change: run,
change, run again into the same folder, run into another, each as a new process with a cache of its own. The two reports
have to be equal but for times and paths, as have the files of the slim model. Then the fingerprint of an image folder
is timed: --files images, with no change since it was last read. Rows go to results/reruns.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from finished_run import run_command
from PIL import Image
from safetensors.torch import save_file
from short_run import comparable

from slimsight.compress.config import DataConfig
from slimsight.compress.data import content_key, open_splits
from slimsight.compress.files.atomic import write_json
from slimsight.compress.models import build_classifier
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run import pipeline  # noqa: F401 - imported once, before processes are forked
from slimsight.deploy.settings.recipe import load_recipe

RESULTS = Path(__file__).resolve().parent / "results" / "reruns.json"
SIDE = 8
CLASSES = ("ant", "bee")
COUNTS = {"train": 70, "val": 8, "test": 8}  # more than the 64 images that a sample would hold
MODEL = """
import json
from pathlib import Path
from torch import nn
from near import activation


def build(classes):
    width = json.loads(Path(__file__).with_name("config.json").read_text())["width"]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), activation(), nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
"""
NEAR = "from deeper.act import activation\n"
ACT = "from torch import nn\nactivation = nn.ReLU\n"
RECIPE = f"""
threads: 1
data: {{source: image_folder, path: images, image_size: {SIDE}, flip: false, crop_padding: 0}}
model: {{name: "model.py:build", weights: weights.safetensors}}
explainer: {{enabled: false}}
gates: {{steer: taylor, batch_size: 16}}
budget: {{macs: 60%}}
checks: {{accuracy_drop: null}}
finetune: {{epochs: 1, batch_size: 16}}
export: {{formats: [onnx]}}
latency: {{rounds: 20, sessions: 1, warmup_seconds: 0.01}}
"""
PRELOADED = ("captum.attr", "fvcore.nn", "onnx.reference", "onnxruntime", "onnxscript", "torch.export", "torch.onnx")
"""What runs import on the way: once, before processes are forked."""
SAME = ("slim/plan.json", "slim/model.safetensors", "recipe.yaml")
"""Files that are the same, byte by byte."""


def paint(path: Path, seed: int, label: int) -> None:
    """Noise in the colour of a class; all files are of one size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 100, (SIDE, SIDE, 3), dtype=np.uint8)
    pixels[..., 2 * label] += 100
    Image.fromarray(pixels).save(path, compress_level=0)


def write_weights(root: Path, seed: int) -> None:
    """Weights of a network that tells the classes apart."""
    torch.manual_seed(seed)
    config = load_recipe(root / "recipe.yaml").model.model_copy(update={"weights": None})
    model = build_classifier(config, len(CLASSES)).train()
    files = [(path, label) for label in (0, 1) for path in sorted((root / "images/train" / CLASSES[label]).iterdir())]
    images = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path, _ in files]) / 255
    labels = torch.tensor([label for _, label in files])
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    save_file(model.net.state_dict(), root / "weights.safetensors")


def write_project(root: Path) -> None:
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            for number in range(count):
                paint(
                    root / "images" / split / name / f"{number:02d}.png", 1000 * len(split) + 2 * number + label, label
                )
    (root / "deeper").mkdir()
    for name, text in (("model.py", MODEL), ("near.py", NEAR), ("deeper/act.py", ACT), ("recipe.yaml", RECIPE)):
        (root / name).write_text(text, encoding="utf-8")
    (root / "config.json").write_text('{"width": 8}', encoding="utf-8")
    write_weights(root, 0)


def swap_test_classes(root: Path) -> None:
    test = root / "images" / "test"
    for old, new in ((CLASSES[0], "c"), (CLASSES[1], CLASSES[0]), ("c", CLASSES[1])):
        (test / old).rename(test / new)


def touch_content(root: Path) -> None:
    """Another content of the same size under the same modification time."""
    path = root / "images" / "val" / "ant" / "03.png"
    before = path.stat()
    paint(path, 77, 1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def rename_class(root: Path) -> None:
    for split in COUNTS:
        (root / "images" / split / "bee").rename(root / "images" / split / "wasp")


def replace(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def change_width(root: Path) -> None:
    """The factory's settings, and weights that fit the other network."""
    (root / "config.json").write_text('{"width": 12}', encoding="utf-8")
    write_weights(root, 0)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a test image replaced": lambda root: paint(root / "images/test/ant/02.png", 5, 1),
    "a test image deleted": lambda root: (root / "images/test/bee/05.png").unlink(),
    "two class folders of the test images swapped": swap_test_classes,
    "a training image that no sample holds": lambda root: paint(root / "images/train/bee/37.png", 6, 0),
    "a validation image, its size and modification time restored": touch_content,
    "a neighbour of the model's file": replace("near.py", "import activation", "import activation as _; from torch.nn "
                                               "import SiLU as activation"),
    "a neighbour's neighbour": replace("deeper/act.py", "nn.ReLU", "nn.SiLU"),
    "a file that the factory reads": change_width,
    "the weights": lambda root: write_weights(root, 1),
    "a value of the recipe": replace("recipe.yaml", "macs: 60%", "macs: 50%"),
    "an image added": lambda root: paint(root / "images/train/ant/99.png", 8, 1),
    "a class renamed": rename_class,
}  # fmt: skip


def in_new_process(work: Callable[..., object], *arguments: object) -> None:
    """Do ``work`` in a forked process: it has imported what this one has, and has built no model."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode not in (0, 1):  # 1: within a check of the run that does not hold
        sys.exit(f"{work.__name__}{arguments} ended with {process.exitcode}")


def slimsight_run(root: Path, out: str) -> None:
    os.chdir(root)
    os.environ["SLIMSIGHT_CACHE"] = str(root / f"cache-{out}")
    code, said = run_command("run", "recipe.yaml", "--out", out)
    if code not in (0, 1):
        print(said, file=sys.stderr)
    sys.exit(code)


def run(root: Path, out: str) -> list[str]:
    """Run the project into ``out`` in a new process; the stages that were done, not reused."""
    in_new_process(slimsight_run, root, out)
    stages = json.loads((root / out / "report.json").read_text(encoding="utf-8"))["stages"]
    return [stage["name"] for stage in stages if not stage["reused"]]


def differences(root: Path, again: str, fresh: str) -> list[str]:
    """What of the run again is not as in the fresh one: keys of the report, and files."""
    ours, theirs = (json.loads(json.dumps(comparable(root / out))) for out in (again, fresh))
    found = [f"report.json: {key}" for key in theirs if ours.get(key) != theirs[key]]
    return found + [name for name in SAME if (root / again / name).read_bytes() != (root / fresh / name).read_bytes()]


def study(what: str, template: Path) -> dict[str, Any]:
    """A row: the stages done again after a change, and what differs from a fresh run."""
    root = template.with_name("project")
    shutil.copytree(template, root)
    try:
        before = comparable(root / "out")
        time.sleep(0.02)  # a file system's clock has ticks
        in_new_process(CHANGES[what], root)
        redone = run(root, "out")
        run(root, "fresh")
        found = differences(root, "out", "fresh")
        changed = comparable(root / "out") != before
    finally:
        shutil.rmtree(root)
    row = {"change": what, "equal": not found, "differs": found, "redone": redone, "report_changed": changed}
    print(json.dumps(row), flush=True)
    return row


def time_fingerprint(files: int) -> dict[str, Any]:
    """Seconds to open ``files`` images and to have their digest, none of which changed: three times, by form.

    ``processor_s``: of this process, where others share the cores.
    """
    found: dict[str, Any] = {"files": files}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        paint(root / "one.png", 1, 0)
        data = (root / "one.png").read_bytes()
        for number in range(files):
            path = root / "images" / "train" / CLASSES[number % 2] / f"{number:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        time.sleep(2.5)  # as for any folder that was not written a moment ago
        for decode in ("once", "on_the_fly"):
            config = DataConfig(source="image_folder", path=root / "images", image_size=SIDE, decode=decode, workers=0)
            times, processor = [], []
            for _ in range(4):
                started, worked = time.perf_counter(), time.process_time()
                splits = open_splits(config, cache_dir=root / "cache", seed=0)
                content_key(splits.train, splits.val)
                splits.test_key()
                times.append(time.perf_counter() - started)
                processor.append(time.process_time() - worked)
            found[decode] = {
                "first_s": times[0],
                "again_s": times[1:],
                "median_s": statistics.median(times[1:]),
                "processor_s": statistics.median(processor[1:]),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000, help="images whose fingerprint is timed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    with TemporaryDirectory() as folder:
        template = Path(folder) / "template"
        template.mkdir()
        in_new_process(write_project, template)
        run(template, "out")
        rows = [study(what, template) for what in CHANGES]
    equal = sum(row["equal"] for row in rows)
    timed = time_fingerprint(given.files)
    head = {"schema": 1, "device": device_name(), "versions": versions()}
    write_json(RESULTS, {**head, "changes": len(rows), "equal": equal, "rows": rows, "fingerprint": timed})
    again = ", ".join(
        f"{timed[form]['median_s']:.2f} s, {timed[form]['processor_s']:.2f} s of the processor ({form})"
        for form in ("once", "on_the_fly")
    )
    print(f"{equal} of {len(rows)} equal to a fresh run; {given.files:,} unchanged files: {again}; {RESULTS}")


if __name__ == "__main__":
    main()
