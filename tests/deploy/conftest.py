"""A whole run in seconds: a network of five convolutions on digits of 16 pixels, made once for all tests.

Smaller ones need luck: gates converge to 2 % of the MACs only where a single channel costs less than that.
"""

import copy
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slimsight.compress.progress import Silent
from slimsight.deploy.cli.main import main
from slimsight.deploy.report import Report
from slimsight.deploy.run.pipeline import run_recipe
from slimsight.deploy.run_dir import REPORT, open_run
from slimsight.deploy.settings.recipe import Recipe, load_recipe

from .content import CONTENT

FACTORY = """
from torch import nn


def block(inputs, outputs, stride):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def tiny(classes):
    return nn.Sequential(
        block(3, 16, 2), block(16, 24, 2), block(24, 24, 1), block(24, 24, 1), block(24, 32, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes),
    )


def nothing_to_prune(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, classes))


def no_feature_maps(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 20), nn.ReLU(), nn.Linear(20, classes))
"""
RECIPE = """
threads: 1
data: {source: digits, image_size: 16, flip: false, crop_padding: 0}
model: {name: "tiny.py:tiny", train: {epochs: 6, lr: 0.1, batch_size: 64}}
explainer:
  predictor: {epochs: 3, lr: 1e-3, batch_size: 64}
  selector: {epochs: 4, batch_size: 64}
gates: {steer: rbf, steps: 200, lr: 0.12, batch_size: 64}
checks: {accuracy_drop: null}
finetune: {epochs: 2, lr: 0.02, batch_size: 64}
latency: {rounds: 20, warmup_seconds: 0.1}
"""


@dataclass(frozen=True)
class Finished:
    """A run that nobody changes; ``copy`` it."""

    root: Path
    recipe: Recipe
    report: Report

    def copy(self, to: Path) -> Path:
        return Path(shutil.copytree(self.root, to))

    def unfinished(self, to: Path, *without: str) -> Path:
        """A copy as a run leaves it that ended before the stages ``without`` were done."""
        with open_run(self.copy(to)) as run:
            run.forget(REPORT)
            for stage in without:
                run.forget(stage)
        return to


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images lie."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a recipe that steers gates by an explainer, with its model beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.py").write_text(FACTORY, encoding="utf-8")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    return folder / "tiny.yaml"


@pytest.fixture(scope="session")
def finished(tiny: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """That recipe's run."""
    root, recipe = tmp_path_factory.mktemp("runs") / "finished", load_recipe(tiny)
    return Finished(root, recipe, run_recipe(recipe, root, name=tiny.name, cache=cache))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no pictures, which takes longer than all else of a run whose stages are reused."""
    for draw in ("draw_pictures", "draw_worst"):
        monkeypatch.setattr(f"slimsight.deploy.run.pipeline.{draw}", lambda *_arguments: None)


@pytest.fixture(scope="session")
def plain() -> tuple[str, ...]:
    """Overrides for a run without an explainer, whose accuracy does not matter."""
    quick = ("model.train.epochs=2", "finetune.epochs=1")
    return "explainer.enabled=false", "gates.steer=magnitude", *quick


@pytest.fixture
def rerun(tiny: Path, cache: Path) -> Callable[..., Report]:
    """``rerun(out, "a.b=c", ...)``: the recipe with overrides."""

    def again(out: Path, *overrides: str, **options: Any) -> Report:
        return run_recipe(load_recipe(tiny, overrides), out, name=tiny.name, cache=cache, **options)

    return again


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """What it complained about; nothing may follow."""
        return self.err[self.err.index("error: ") :]


@pytest.fixture(autouse=True)
def one_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was run in one test was run here in all of them: see ``slimsight.deploy.run_dir.allowed_code``."""
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))


Cost = Callable[[int], float]


class FakeClock:
    """A clock that only fake runners advance; records their calls."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[tuple[str, int, float]] = []  # runner, batch, first pixel
        self.opened: list[str] = []

    def __call__(self) -> int:
        return self.ns


class FakeRunner:
    """A runner whose calls take ``costs`` ms of the fake clock; ``device_ms`` is half of that, with a device."""

    precision = "fp32"

    def __init__(
        self, name: str, clock: FakeClock, costs: Cost, runtime: str = "fake", *, device: bool = False
    ) -> None:
        self.name, self.clock, self.costs, self.runtime = name, clock, costs, runtime
        self.device = device
        self.device_ms: float | None = None
        self.count = 0
        self.opened = 0

    def __enter__(self) -> "FakeRunner":
        self.opened += 1
        self.clock.opened.append(self.name)
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.opened -= 1

    def run(self, images):
        import gc

        assert not gc.isenabled()
        cost = self.costs(self.count)
        self.clock.ns += round(cost * 1e6)
        self.device_ms = cost / 2 if self.device else None
        self.clock.calls.append((self.name, len(images), float(images[0, 0, 0, 0]) * 255))
        self.count += 1
        return np.zeros((len(images), 2), np.float32)


class Notes(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def fake(clock: FakeClock) -> Callable[..., FakeRunner]:
    """``fake("a", cost)``: a runner on the fake clock; ``cost`` in ms, or a function of the call's number."""

    def make(name: str, cost: float | Cost = 1.0, **options) -> FakeRunner:
        return FakeRunner(name, clock, cost if callable(cost) else lambda _: cost, **options)

    return make


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., Said]:
    """``say("run", recipe, ...)``: a command as a user would give it."""
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))
    for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE"):  # where these tests may be running
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        found = capsys.readouterr()
        assert "Traceback" not in found.out + found.err
        assert isinstance(left.value.code, int)
        return Said(left.value.code, found.out, found.err)

    return call


@pytest.fixture
def overrides(plain: tuple[str, ...]) -> list[str]:
    """Options of a quick run."""
    return [word for override in plain for word in ("--set", override)]


@pytest.fixture
def content() -> dict[str, Any]:
    """A whole report as plain data; each test may change its copy."""
    return copy.deepcopy(CONTENT)
