"""A finished short run with all its files, and the commands that read them."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from short_run import write_recipe

from slimsight.compress.data import open_splits
from slimsight.compress.errors import SlimError
from slimsight.compress.gates.latency import TimedLayer
from slimsight.compress.models import build_classifier
from slimsight.compress.progress import Silent
from slimsight.compress.surgery import PrunePlan
from slimsight.deploy.cli.main import main as slimsight
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.deploy.slim_folder import Slimmed, load, save
from slimsight.export.costs.times import cached_times

DYNAMIC = ("dynamic.enabled=true", "dynamic.epochs=2", "dynamic.finetune_epochs=1", "dynamic.verify_images=10")


def run_command(*arguments: object) -> tuple[int, str]:
    """Run a command in this process: its exit code, and its output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            slimsight([str(argument) for argument in arguments])
            code = 0
        except SystemExit as left:
            code = int(left.code or 0)
    return code, out.getvalue()


class NoteCollector(Silent):
    """Collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class FinishedRun:
    """A finished run, the output of commands on it, and its caches, in one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.run, self.cache, self.saved = root, root / "run", root / "cache", root / "saved"
        os.environ["SLIMSIGHT_CACHE"] = str(self.cache)
        self.layer_times = self.cache / "layer_times" / "times.json"

    def make(self) -> None:
        """Everything that there is to be damaged."""
        self.done(self.start())
        self.done(run_command("export", self.run, "--to", "onnx,pt2,tensorrt-rtx"))
        self.done(self.trust())
        (self.root / "budget.yaml").write_text("macs: 90%\n")
        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(self.root / "image.png")
        self.times()
        model = self.original()
        plan = PrunePlan.load(read_run(self.run).plan)
        save(Slimmed(load(self.run / "slim", model), plan, torch.rand(2, 3, 16, 16), 0, 0.0), self.saved)

    def done(self, found: tuple[int, str]) -> None:
        assert found[0] in (0, 1), found[1]

    def start(self) -> tuple[int, str]:
        words = [word for setting in DYNAMIC for word in ("--set", setting)]
        return run_command("run", write_recipe(self.root), "--out", self.run, *words)

    def trust(self) -> tuple[int, str]:
        return run_command("trust", self.run, "--with", "gradient", "--images", 8, "--tests", "perturbation")

    def original(self) -> Any:
        config = load_recipe(self.run / "recipe.yaml").model.model_copy(update={"weights": None})
        return build_classifier(config, 10)

    def times(self) -> tuple[int, str]:
        """What a run with a latency budget reads first."""
        notes = NoteCollector()
        layer = TimedLayer((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), (8, 8), 1, 8, 8)
        cached_times([layer], self.layer_times, threads=1, batch=1, progress=notes)
        return 0, "\n".join(notes.notes)

    def load(self) -> tuple[int, str]:
        try:
            load(self.saved, self.original())
        except SlimError as error:
            return error.exit_code, str(error)
        return 0, ""

    def images(self) -> tuple[int, str]:
        """What every run reads first."""
        notes, config = NoteCollector(), load_recipe(self.run / "recipe.yaml")
        open_splits(config.data, cache_dir=self.cache, seed=config.seed, progress=notes).test()
        return 0, "\n".join(notes.notes)

    def finder(self, name: str) -> tuple[str, Callable[[], tuple[int, str]]]:
        """The command that has to find damage in a file."""
        if name.startswith("cache/layer_times"):
            return "run, with a latency budget", self.times
        if name.startswith("cache/"):
            return "run", self.images
        if name.startswith("saved/"):
            return "api.load", self.load
        if name.startswith("run/trust/"):
            return "trust", self.trust
        return "status", lambda: run_command("status", self.run)

    def others(self) -> dict[str, Callable[[], tuple[int, str]]]:
        """The other commands that read a run; each is shown one damaged file of every kind of record."""
        return {
            "check": lambda: run_command("check", self.run, "--budget", self.root / "budget.yaml"),
            "bench": lambda: run_command("bench", self.run),
            "export": lambda: run_command("export", self.run, "--to", "onnx"),
            "explain": lambda: run_command("explain", self.run, self.root / "image.png"),
            "report": lambda: run_command("report", self.run),
            "trust": self.trust,
        }
