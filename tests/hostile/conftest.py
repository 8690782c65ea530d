"""Files of somebody who wishes us ill, and a command line that has to say no in one sentence."""

import io
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from slimsight.compress.config import DataConfig, ExplainerConfig, GatesConfig, ModelConfig
from slimsight.compress.models import build_classifier
from slimsight.compress.surgery import PrunePlan, slim_
from slimsight.deploy.cli.main import main
from slimsight.deploy.settings.recipe import Recipe, dump_recipe

SIDE = 16
PLAN = {"net.layers.0.conv1": (16, tuple(range(8)))}


def saved(value: object, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


class Place:
    """Where one hostile file lies. ``canary`` is there once its code has run; ``victim`` is not to be touched."""

    def __init__(self, root: Path, template: Path) -> None:
        self.folder = root / "work"
        self.folder.mkdir()
        self.canary = root / "canary"
        self.outside = root / "outside"
        (self.outside / "gates").mkdir(parents=True)
        self.victim = self.outside / "victim.txt"
        self.victim.write_text("precious", encoding="utf-8")
        (self.outside / "gates" / "also.txt").write_text("precious", encoding="utf-8")
        self._template = template

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def pipe(self, name: str) -> Path:
        os.mkfifo(self.folder / name)
        return self.folder / name

    def run(self, **recipe: Any) -> Path:
        """A copy of a finished run, as somebody would send it; ``recipe``: sections that differ."""
        place = self.folder / "run"
        shutil.copytree(self._template, place)
        if recipe:
            (place / "recipe.yaml").write_text(dump_recipe(base_recipe().model_copy(update=recipe)), encoding="utf-8")
        return place

    @property
    def code(self) -> str:
        """Python that leaves the canary."""
        return f"open({str(self.canary)!r}, 'w').close()"

    @property
    def bomb(self) -> object:
        """What runs ``code`` when it is unpickled."""
        return Bomb(self.code)

    def touched(self) -> list[str]:
        """What happened outside of the folder that commands work in."""
        found = ["the canary ran"] if self.canary.exists() else []
        there = {path.relative_to(self.outside).as_posix() for path in self.outside.rglob("*")}
        if there != {"gates", "victim.txt", "gates/also.txt"} or self.victim.read_text(encoding="utf-8") != "precious":
            found.append(f"outside was changed: {sorted(there)}")
        return found


class Bomb:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self.code,)


def base_recipe() -> Recipe:
    return Recipe(
        threads=1,
        data=DataConfig(source="digits", image_size=SIDE, flip=False),
        model=ModelConfig(name="resnet20"),
        explainer=ExplainerConfig(enabled=False),
        gates=GatesConfig(steer="magnitude"),
    )


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with what ``explain``, ``bench`` and ``report`` read: made by hand, nothing is learned."""
    root = tmp_path_factory.mktemp("template") / "run"
    for folder in ("stages/classifier", "stages/finetune", "slim"):
        (root / folder).mkdir(parents=True)
    recipe = base_recipe()
    (root / ".slimsight").touch()
    (root / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    torch.manual_seed(0)
    model = build_classifier(recipe.model, 10).eval()
    save_file(model.state_dict(), root / "stages" / "classifier" / "model.safetensors")
    name = next(name for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d) and "conv1" in name)
    plan = PrunePlan({name: tuple(range(8))}, {name: 16})
    slim_(model, plan, torch.rand(1, 3, SIDE, SIDE))
    plan.save(root / "slim" / "plan.json")
    save_file(model.state_dict(), root / "slim" / "model.safetensors")
    onnx.save(network(), root / "slim" / "model.onnx")
    (root / "report.json").write_text(json.dumps(REPORT), encoding="utf-8")
    done = {"fingerprint": "0" * 64, "seconds": 1.0, "metrics": {}, "files": {}}
    for stage in ("classifier", "finetune"):
        (root / "stages" / stage / "done.json").write_text(json.dumps(done), encoding="utf-8")
    return root


@pytest.fixture
def place(tmp_path: Path, template: Path) -> Place:
    return Place(tmp_path, template)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def refused(
    place: Place, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """``refused("check", path, ...)``: the sentence; exit code 2, no traceback, nothing run or touched outside."""
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(place.folder)

    def call(*arguments: object) -> str:
        started = time.monotonic()
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        seconds = time.monotonic() - started
        found = capsys.readouterr()
        assert place.touched() == []
        assert left.value.code == 2, found
        assert "Traceback" not in found.out + found.err
        assert seconds < 60, f"it took {seconds:.0f} s"
        sentence = found.err[found.err.index("error: ") :].strip()
        # A recipe or a budget lists its mistakes below the sentence.
        assert len([line for line in sentence.splitlines() if not line.startswith("  ")]) == 1, sentence
        assert len(sentence) < 1500
        assert all(c.isprintable() or c == "\n" for c in sentence), repr(sentence)
        return sentence

    return call


def network(**changes: Any) -> onnx.ModelProto:
    """A small classifier of 16 x 16 images, which ``changes`` make hostile."""
    weight = helper.make_tensor("conv.weight", TensorProto.FLOAT, [4, 3, 3, 3], np.ones(108, np.float32).tolist())
    linear = helper.make_tensor("linear.weight", TensorProto.FLOAT, [4, 10], np.ones(40, np.float32).tolist())
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight"], ["maps"], "conv"),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "linear.weight"], ["logits"], "linear"),
    ]
    shape = changes.get("shape", ["batch", 3, SIDE, SIDE])
    graph = helper.make_graph(
        changes.get("nodes", nodes),
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, changes.get("logits", ["batch", 10]))],
        [weight, linear],
    )
    functions = changes.get("functions", [])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)


def pickled(value: object) -> bytes:
    return pickle.dumps(value)


REPORT: dict[str, Any] = {
    "schema": 1,
    "recipe": "theirs.yaml",
    "created": "2026-03-04T05:06:00Z",
    "versions": {"torch": "2.15.0"},
    "device": "cpu",
    "seed": 0,
    "data": {"source": "digits", "train": 10, "val": 10, "classes": 10, "image_size": SIDE},
    "original": {"macs": 100, "params": 10, "size_bytes": 40, "val_accuracy": 0.5, "test_accuracy": 0.5},
    "slim": {"macs": 50, "params": 5, "size_bytes": 20, "val_accuracy": 0.5, "test_accuracy": 0.5},
    "budget": {"macs_max": 50, "macs_used": 1.0},
    "exactness": {"gated_vs_slim_max_rel": 1e-7, "cost_model_macs": 50, "fvcore_macs": 50, "groups": 3},
    "verdict": {
        "passed": True,
        "checks": [{"name": "MACs", "limit": 50, "value": 50, "passed": True, "unit": "MACs"}],
    },
}
