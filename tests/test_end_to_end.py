"""What a user does, as a user does it: the command, in processes of its own, on a residual network and real digits."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from slimsight.compress.config import ModelConfig
from slimsight.compress.data import open_splits
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.models import build_classifier
from slimsight.compress.surgery import PrunePlan, slim_
from slimsight.deploy.settings.recipe import load_recipe

RECIPE = """
threads: 1
data: {source: digits, image_size: 16, flip: false, crop_padding: 0}
model: {name: resnet20, shortcut: conv, train: {epochs: 1, lr: 0.05, batch_size: 64}}
explainer: {enabled: false}
gates: {steer: magnitude}
budget: {macs: 0.5}
checks: {accuracy_drop: null}
finetune: {epochs: 1, lr: 0.02, batch_size: 64}
latency: {rounds: 20, warmup_seconds: 0.1}
"""
KILLS = 1
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "digits.yaml").write_text(RECIPE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def start(folder: Path) -> Start:
    """``start("run", ...)``: a slimsight process in the user's folder, with a cache of its own."""
    environment = {**os.environ, "SLIMSIGHT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from slimsight.deploy.cli.main import main; main()"]

    def interruptible() -> None:
        """What a shell starts in the background ignores interrupts, and so would its children."""
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def process(*arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env=environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=interruptible,
        )

    return process


@pytest.fixture(scope="module")
def whole(folder: Path, start: Start) -> tuple[Path, float]:
    """A run that nobody interrupted, and its seconds."""
    begun = time.monotonic()
    process = start("run", "digits.yaml", "--out", "whole")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.endswith("\nreport: whole/report.html\n")
    return folder / "whole", time.monotonic() - begun


def seconds_of_children() -> float:
    """Of the processor: what else runs on the machine counts for little."""
    found = os.times()
    return found.children_user + found.children_system


def report_of(root: Path) -> dict[str, Any]:
    """report.json without times."""
    report: dict[str, Any] = json.loads((root / "report.json").read_text())
    del report["created"], report["latency"]
    report["stages"] = [stage["name"] for stage in report["stages"]]
    return report


def test_the_report_proves_what_it_claims(whole: tuple[Path, float]) -> None:
    report = json.loads((whole[0] / "report.json").read_text())
    original, slim, exact = report["original"], report["slim"], report["exactness"]
    assert 0.485 <= slim["macs"] / original["macs"] <= 0.5
    assert slim["params"] < 0.75 * original["params"]
    assert slim["size_bytes"] < 0.75 * original["size_bytes"]
    assert exact["gated_vs_slim_max_rel"] <= 1e-5
    assert exact["cost_model_macs"] == exact["fvcore_macs"] == slim["macs"]
    assert exact["groups"] == 12
    assert len(report["parity"]) == (10 if find_spec("openvino") else 6)
    assert all(row["max_abs"] <= 1e-4 and row["top1_agreement"] == 1 for row in report["parity"])
    (row,) = report["latency"]
    assert row["speedup"]["low"] <= row["speedup"]["median"] <= row["speedup"]["high"]
    assert report["verdict"]["passed"]


def test_every_artefact_is_the_same_slim_model(whole: tuple[Path, float], folder: Path) -> None:
    """The weights with the plan, the ONNX file and the pt2 file, on the test images, without a stage's code."""
    root, _ = whole
    recipe = load_recipe(folder / "digits.yaml")
    images = open_splits(recipe.data, cache_dir=folder / "cache", seed=recipe.seed).test()
    pixels = np.asarray(images.images).astype(np.float32) / 255
    network = build_classifier(ModelConfig(name="resnet20", shortcut="conv"), 10).eval()
    slim_(network, PrunePlan.load(root / "slim/plan.json"), torch.from_numpy(pixels[:1]))
    network.load_state_dict(read_tensors(root / "slim/model.safetensors"))
    program = torch.export.load(root / "slim/model.pt2").module()
    with torch.no_grad():
        expected, exported = network(torch.from_numpy(pixels)).numpy(), program(torch.from_numpy(pixels)).numpy()
    session = onnxruntime.InferenceSession(str(root / "slim/model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": pixels})
    np.testing.assert_allclose(exported, expected, atol=1e-4)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    accuracy = float((logits.argmax(1) == images.labels).mean())
    assert accuracy == pytest.approx(report_of(root)["slim"]["test_accuracy"], abs=1e-6)


def test_a_run_interrupted_and_killed_at_any_point_ends_as_one_that_was_not(
    whole: tuple[Path, float], folder: Path, start: Start
) -> None:
    expected, seconds = whole
    process = start("run", "digits.yaml", "--out", "killed")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("stage 2 of 7"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.endswith("error: interrupted; the same command again goes on where it stopped\n")
    assert (folder / "killed/stages/classifier/done.json").is_file()

    draw = random.Random()
    for _ in range(KILLS):
        process = start("run", "digits.yaml", "--out", "killed")
        time.sleep(draw.uniform(0.2, 0.8) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start("run", "digits.yaml", "--out", "killed")
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert report_of(folder / "killed") == report_of(expected)
    for file in ("slim/model.safetensors", "slim/plan.json", "recipe.yaml"):
        assert (folder / "killed" / file).read_bytes() == (expected / file).read_bytes()
    assert not list((folder / "killed").rglob("*.part"))


def test_a_finished_run_is_checked_in_seconds_and_not_redone(
    whole: tuple[Path, float], folder: Path, start: Start
) -> None:
    (folder / "budget.yaml").write_text("macs: 50%\nparity: 1e-4\naccuracy_drop: 50%\n")
    process = start("check", "whole", "--budget", "budget.yaml")
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert re.search(r"^ok +MACs +[0-9.]+ M +at most ", out, re.MULTILINE)
    begun = seconds_of_children()
    process = start("run", "digits.yaml", "--out", "whole")
    _, err = process.communicate()
    assert process.returncode == 0
    assert seconds_of_children() - begun < 15
    assert err.startswith("done before: classifier, gates, surgery, finetune, export, latency, judgement\n")
