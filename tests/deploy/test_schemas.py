"""JSON Schemas: what is shipped is what the code says; what is right passes both, what is wrong is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
from packaging.version import Version

from slimsight.compress.errors import ConfigError
from slimsight.deploy.budget import load_budget
from slimsight.deploy.schemas import NAMES, schema_file
from slimsight.deploy.schemas.generate import schema_text
from slimsight.deploy.settings.recipe import load_recipe
from slimsight.deploy.settings.yaml_text import parse_yaml

from .conftest import Said

PROJECT = Path(__file__).resolve().parents[2]
RECIPES = sorted((PROJECT / "configs").glob("*.yaml"))
BUDGETS = sorted((PROJECT / "configs" / "budgets").glob("*.yaml"))
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```yaml (recipe|budget)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(match[1], match[2], id=f"{page.stem}-{number}")
    for page in PAGES
    for number, match in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")))
]


def is_valid(kind: str, text: str) -> bool:
    schema = json.loads(schema_file(kind).read_text(encoding="utf-8"))
    value, _ = parse_yaml(text)
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def load(kind: str, path: Path) -> Any:
    return load_recipe(path) if kind == "recipe" else load_budget(path)


@pytest.mark.skipif(
    Version(pydantic.VERSION) < Version("2.14"), reason="older pydantic writes the same schemas in other words"
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_what_the_code_says(name: str) -> None:
    shipped = schema_file(name).read_text(encoding="utf-8")
    assert shipped == schema_text(name), "run: python -m slimsight.deploy.schemas.generate"
    jsonschema.Draft202012Validator.check_schema(json.loads(shipped))


def test_the_command_prints_it(say: Callable[..., Said]) -> None:
    said = say("schema", "budget")
    assert (said.code, said.out) == (0, schema_file("budget").read_text(encoding="utf-8"))
    said = say("schema", "buget")
    assert said.error == (
        "error: there is no schema of 'buget'; did you mean 'budget'? (choose from: recipe, budget)\n"
    )


def test_every_key_is_described() -> None:
    for name in NAMES:
        schema = json.loads(schema_file(name).read_text(encoding="utf-8"))
        for part in (schema, *schema["$defs"].values()):
            for key, item in part["properties"].items():
                refers = "$ref" in json.dumps(item)
                assert refers or item.get("description"), f"{name}: '{key}' has no description"


@pytest.mark.parametrize("path", [*RECIPES, *BUDGETS], ids=lambda path: path.stem)
def test_files_of_the_project_pass(path: Path) -> None:
    kind = "budget" if path in BUDGETS else "recipe"
    assert is_valid(kind, path.read_text(encoding="utf-8"))
    load(kind, path)


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_examples_of_the_docs_pass(kind: str, text: str, tmp_path: Path) -> None:
    assert is_valid(kind, text)
    (tmp_path / "example.yaml").write_text(text, encoding="utf-8")
    load(kind, tmp_path / "example.yaml")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("recipe", "gates:\nbudget: {macs: 20 MMACs, size: 2 MB, latency: 3 ms}"),
        ("recipe", "model: {name: 'my.py:build', weights: null}\nthreads: null"),
        ("budget", "macs: 60M\nsize: 2 MB\nlatency: 3 ms\naccuracy_drop: 50 %\nparams: 1_000k"),
        ("budget", "macs: {fail: 0.5 GMACs, warn: 60 MMACs}\nparity: {fail: true, warn: 1e-4}\nspeedup: {warn: 1.2x}"),
        ("budget", "layers: {'net.layer1.*': {macs: 5M, growth: 0}}\ngrowth: 2%\nbaseline: original.onnx"),
        ("budget", "latency: 60%\nmeasure: {threads: 2, rounds: 40}"),
    ],
)
def test_what_is_right_passes_both(kind: str, text: str, tmp_path: Path) -> None:
    assert is_valid(kind, text)
    (tmp_path / "file.yaml").write_text(text, encoding="utf-8")
    load(kind, tmp_path / "file.yaml")


# kind, text, line of the mistake, what the message says: the key, what was given, what is allowed.
BROKEN = [
    ("recipe", "seed: one", 1, ["seed", "'one'", "a whole number"]),
    ("recipe", "seed: -1", 1, ["seed", "-1", "at least 0"]),
    ("recipe", "seed: 0.5", 1, ["seed", "0.5", "a whole number"]),
    ("recipe", "seed:", 1, ["seed", "null", "a whole number"]),
    ("recipe", "threads: 0", 1, ["threads", "0", "at least 1"]),
    ("recipe", "precision: 16", 1, ["precision", "16", "32-true or bf16-mixed"]),
    ("recipe", "seed: 1\n\nmodle: {name: vgg16}", 3, ["modle", "allowed: seed, precision", "did you mean 'model'?"]),
    ("recipe", "gates:\n  steer: rgb", 2, ["gates.steer", "'rgb'", "rbf, realx, varsal, none", "did you mean 'rbf'?"]),
    ("recipe", "gates:\n  stpes: 200", 2, ["gates.stpes", "allowed: steer, scope", "did you mean 'steps'?"]),
    ("recipe", "gates: {steps: 5}", 1, ["gates.steps", "5", "at least 20"]),
    ("recipe", "gates: [rbf]", 1, ["gates", "['rbf']", "a mapping with the keys steer"]),
    ("recipe", "gates: {lr: .nan}", 1, ["gates.lr", "nan", "above 0"]),
    ("recipe", "gates: {steps: true}", 1, ["gates.steps", "true", "a whole number"]),
    ("recipe", "target_area: 0.3", 1, ["target_area", "unknown key", "did you mean explainer.target_area?"]),
    ("recipe", "explainer:\n  target_area: 1.5", 2, ["explainer.target_area", "1.5", "above 0 and below 1"]),
    ("recipe", "budget:\n  macs: 40", 2, ["budget.macs", "40", "0.5 or 50%", "20M"]),
    ("recipe", "budget:\n  align: 8\n  size: 2 XB", 3, ["budget.size", "'2 XB'", "2MB"]),
    ("recipe", "budget: {macs: 20 GFLOPs}", 1, ["budget.macs", "'20 GFLOPs'", "twice as many as MACs"]),
    ("recipe", "budget: {latency: 3}", 1, ["budget.latency", "3 has no unit", "3ms"]),
    ("recipe", "data: {source: imagenet}", 1, ["data.source", "'imagenet'", "digits, image_tree"]),
    ("recipe", "data:\n  source: image_folder", 1, ["data", "'image_folder'", "needs 'path'"]),
    ("recipe", "model: {std: [1, 1]}", 1, ["model.std", "[1, 1]", "a list of 3"]),
    ("recipe", "export:\n  formats: [onnx, tflite]", 2, ["export.formats.1", "'tflite'", "onnx or pt2"]),
    ("recipe", "finetune: {lr: 0.1}\nfinetune: {lr: 0.2}", 2, ["finetune", "written twice", "keep one"]),
    ("recipe", "latency: {rounds: 10}", 1, ["latency.rounds", "10", "at least 20"]),
    ("budget", "mac: 60M", 1, ["mac", "allowed: macs, params", "did you mean 'macs'?"]),
    ("budget", "parity: true\nmacs: 20 MB", 2, ["macs", "'20 MB'", "20M, 500k"]),
    ("budget", "macs: 40", 1, ["macs", "40", "0.5 or 50%"]),
    ("budget", "macs: 140%", 1, ["macs", "'140%' would let MACs grow", "0.5 or 50%"]),
    ("budget", "macs: -60M", 1, ["macs", "'-60M'", "20M, 500k"]),
    ("budget", "macs: .nan", 1, ["macs", "nan", "20M, 500k"]),
    ("budget", "macs: [60M]", 1, ["macs", "['60M']", "20M, 500k"]),
    ("budget", "macs:\nparams: 3k", 1, ["macs", "has no value", "give one or remove"]),
    ("budget", "macs: {}", 1, ["macs", "{} gives no limit", "{fail: ..., warn: ...}"]),
    ("budget", "macs:\n  fail: 60M\n  wran: 55M", 3, ["macs.wran", "fail and warn", "did you mean 'warn'?"]),
    ("budget", "macs:\n  fail: 60M\n  warn: 70M", 3, ["macs.warn", "'70M'", "'60M'", "give a level below"]),
    ("budget", "accuracy:\n  fail: 88%\n  warn: 80%", 3, ["accuracy.warn", "'80%'", "'88%'", "give a level above"]),
    ("budget", "size: {fail: 2 MB, warn: }", 1, ["size.warn", "has no value"]),
    ("budget", "accuracy: 88", 1, ["accuracy", "88", "0.88 or '88%'"]),
    ("budget", "accuracy_drop: 1", 1, ["accuracy_drop", "1 is a drop by 100 points", "'1%'"]),
    ("budget", "parity: false", 1, ["parity", "False", "give true"]),
    ("budget", "speedup: 20%", 1, ["speedup", "'20%'", "1.3 or 1.3x"]),
    ("budget", "latency: 3", 1, ["latency", "3 has no unit", "3ms, 800us"]),
    ("budget", "latency: 3 fs", 1, ["latency", "'3 fs'", "3ms, 800us"]),
    ("budget", "growth: 2", 1, ["growth", "2", "0.02 or '2%'"]),
    ("budget", "saliency_drift: 3", 1, ["saliency_drift", "3", "a mapping with the keys center_px, iou"]),
    ("budget", "saliency_drift:\n  iou: 0.5\n  center: 3", 3, ["saliency_drift.center", "center_px"]),
    ("budget", "layers:\n  net.*: 5M", 2, ["layers.net.*", "'5M'", "a mapping with the keys macs, params, growth"]),
    ("budget", "layers:\n  net.*:\n    macs: 50%", 3, ["layers.net.*.macs", "'50%'", "give an amount (5M"]),
    ("budget", "layers:\n  net.*: {marcs: 5M}", 2, ["layers.net.*.marcs", "macs, params, growth", "'macs'?"]),
    ("budget", "macs: 5M\nmeasure: {threads: 0}", 2, ["measure.threads", "0", "at least 1"]),
    ("budget", "macs: 5M\nmeasure: {threads: true}", 2, ["measure.threads", "true", "a whole number"]),
    ("budget", "macs: 5M\nmacs: 6M", 2, ["macs", "written twice, in line 1 and line 2"]),
]


@pytest.mark.parametrize(("kind", "text", "line", "words"), BROKEN, ids=[f"{kind}-{text}" for kind, text, *_ in BROKEN])
def test_what_is_broken_is_named(kind: str, text: str, line: int, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(kind, path)
    head, *lines = str(caught.value).splitlines()
    assert str(path) in head
    (said,) = lines
    assert said.startswith(f"  line {line}: {words[0]}: ")
    for word in words[1:]:
        assert word in said


# What no schema can say: order of levels, plausible amounts, keys written twice, what one key needs of another.
BEYOND = ("written twice", "give a level", "0.5 or 50%", "needs 'path'", "100 points")


def test_editors_see_most_of_it() -> None:
    seen = [text for kind, text, _, words in BROKEN if not any(rule in " ".join(words) for rule in BEYOND)]
    seen = [text for text in seen if ".nan" not in text]  # which compares as neither above nor below
    missed = [text for kind, text, *_ in BROKEN if text in seen and is_valid(kind, text)]
    assert len(seen) >= 40
    assert missed == []
