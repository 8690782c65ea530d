"""Fingerprints of stages: a hash of everything that decides a stage's result. A stage whose hash changed runs again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slimsight.compress.config import BudgetConfig, TrainConfig
from slimsight.compress.data import Preprocessing
from slimsight.compress.explain import RbfHead
from slimsight.compress.explain.amortized.rbf import SIGMA_SHARE
from slimsight.compress.gates.importance import needs_gradients
from slimsight.export.config import ExportConfig, Int8Config
from slimsight.export.onnx_files.metadata import METADATA_VERSION

from ..settings.latency import DEFAULT_RUNTIME, LatencyConfig
from ..settings.recipe import Recipe
from .images import augmentation
from .model_code import sha256_of_content
from .session import Session


def fingerprint(parts: Mapping[str, Any]) -> str:
    """sha256 of ``parts`` as canonical JSON: equal for equal content, whatever the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_to_jsonable)
    return hashlib.sha256(text.encode()).hexdigest()


def _to_jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no fingerprint of a {type(value).__name__}")


Parts = Mapping[str, Any]


def _training_parts(recipe: Recipe) -> dict[str, Any]:
    """The number of processes is left out: it changes results by rounding only."""
    parts: dict[str, Any] = {"seed": recipe.seed, "precision": recipe.precision, "threads": recipe.threads}
    return parts if recipe.accumulate == 1 else {**parts, "accumulate": recipe.accumulate}


def classifier_parts(session: Session) -> Parts:
    """Model and weights files, and the user's files that the model's imports or reads, are identified by content."""
    model, data = session.recipe.model, session.recipe.data
    factory = model.name.rpartition(":")[2]
    parts: dict[str, Any] = {
        "name": f"{session.code.file}:{factory}" if session.code.file else model.name,
        "shortcut": model.shortcut,
        "normalisation": [model.mean, model.std],
        "weights": sha256_of_content(model.weights) if isinstance(model.weights, Path) else model.weights,
        "data": session.data_key,
    }
    # Of images that stay files, ``data_key`` holds the files as they are.
    if session.preprocessing != Preprocessing.square(session.preprocessing.side):
        parts["preprocessing"] = session.preprocessing.cache_key
    if session.code.needed:
        parts["imports"] = session.code.digests
    if data.labels == "none":
        parts["labels"] = data.labels
    if model.head == "new":
        parts["head"] = model.head
    if model.trained:
        parts |= {
            "train": training_settings(model.train),
            "augment": augmentation(data),
            **_training_parts(session.recipe),
        }
    return parts


def training_settings(config: TrainConfig) -> dict[str, Any]:
    """Settings of a training, without those added after the first release where they have their defaults."""
    settings = config.model_dump(mode="json")
    added = ("optimizer", "label_smoothing", "mixup")
    unused = {name for name in added if settings[name] == type(config).model_fields[name].default}
    return {name: value for name, value in settings.items() if name not in unused}


def predictor_parts(session: Session) -> Parts:
    recipe, explainer = session.recipe, session.recipe.explainer
    parts = {"predictor": explainer.predictor, "flip": recipe.data.flip}
    return {**parts, **_explainer_parts(session, {"masks": explainer.masks}), **_training_parts(recipe)}


def selector_parts(session: Session) -> Parts:
    recipe, explainer = session.recipe, session.recipe.explainer
    parts: dict[str, Any] = {"flip": recipe.data.flip}
    if session.explainer.masks is not None:
        parts |= {"selector": explainer.selector, "area": explainer.target_area}
    if session.explainer.head is RbfHead:
        parts["sigma"] = SIGMA_SHARE  # earlier versions did not bound it
    return {**parts, **_explainer_parts(session, {}), **_training_parts(recipe)}


def _explainer_parts(session: Session, of_rbf: Parts) -> Parts:
    """The share of images it learns on, and settings that only one kind of explainer reads."""
    kind, explainer = session.explainer.head.kind, session.recipe.explainer
    seen = {} if explainer.images is None else {"images": explainer.images}
    if kind == "rbf":
        return {**of_rbf, **seen}
    sections = {"realx": explainer.realx, "varsal": explainer.varsal}
    return {"kind": kind, kind: sections[kind], **seen}


def gate_parts(session: Session) -> Parts:
    recipe = session.recipe
    scope: dict[str, Any] = {}  # for "all", as before this key existed
    if recipe.gates.scope != "all":
        scope["scope"] = recipe.gates.scope
    if recipe.gates.scope == "auto":
        scope["budget"] = _budget(recipe.budget)
    if not recipe.gates.learned:
        return {"steer": recipe.gates.steer, **scope, **_ranking_parts(recipe)}
    gates = recipe.gates.model_dump(mode="json", exclude={"compile", "scope"}) | scope  # compile: the speed only
    if recipe.gates.class_weight == 1:  # as before this key existed
        del gates["class_weight"]
    parts = {"gates": gates, "budget": _gate_budget(recipe), **_training_parts(recipe)}
    if (
        recipe.budget.macs is None and recipe.budget.latency is not None
    ):  # then the MACs target comes from measured layer times
        parts["latency"] = timing_parts(recipe.latency)
    return parts


def _ranking_parts(recipe: Recipe) -> dict[str, Any]:
    """What decides a ranking beside the weights."""
    if recipe.gates.steer == "random":
        return {"seed": recipe.seed}
    if needs_gradients(recipe.gates.steer):
        return {"images": recipe.gates.images, "batch_size": recipe.gates.batch_size, **_training_parts(recipe)}
    return {}


def surgery_parts(session: Session) -> Parts:
    """Timing settings count only where the budget or the alignment depends on measured times."""
    budget = session.recipe.budget
    return {"budget": _budget(budget), "latency": timing_parts(session.recipe.latency) if budget.timed else None}


def timing_parts(latency: LatencyConfig) -> dict[str, Any]:
    """All of it; as before ``runtime`` existed where it is the default."""
    return latency.model_dump(mode="json", exclude={"runtime"} if latency.runtime == DEFAULT_RUNTIME else None)


def _budget(budget: BudgetConfig) -> dict[str, Any]:
    """All of it; as before ``latency_aware`` and ``precision`` existed where they have their defaults."""
    unused = set() if budget.latency_aware else {"latency_aware"}
    unused |= {"precision"} if budget.precision == "fp32" else set()
    return budget.model_dump(mode="json", exclude=unused)


def _gate_budget(recipe: Recipe) -> Any:
    """The part of the budget that decides the gates' MACs target."""
    if recipe.budget.macs is None and recipe.budget.precision == "fp32":
        return recipe.budget.model_dump(mode="json", exclude={"precision"})
    return recipe.budget if recipe.budget.macs is None else recipe.budget.model_dump(mode="json")["macs"]


def finetune_parts(session: Session) -> Parts:
    """``recalibrated``: earlier versions recalibrated before finetuning only."""
    recipe = session.recipe
    parts = {"finetune": training_settings(recipe.finetune), "recalibrated": ["before", "after"]}
    return {**parts, "augment": augmentation(recipe.data), **_training_parts(recipe)}


def dynamic_parts(session: Session) -> Parts:
    recipe = session.recipe
    learned = recipe.dynamic.model_dump(mode="json", exclude={"route"})
    return {"dynamic": learned, "augment": augmentation(recipe.data), **_training_parts(recipe)}


def export_parts(session: Session) -> Parts:
    recipe = session.recipe
    parts = {"export": _export(recipe.export), "metadata": METADATA_VERSION}
    if recipe.export.quantised and recipe.export.int8.qat.epochs:
        parts |= {"augment": augmentation(recipe.data), **_training_parts(recipe)}
    return parts


def _export(export: ExportConfig) -> dict[str, Any]:
    """As before ``precision`` and ``int8`` existed where no INT8 file is asked for, and as before a part of the latter
    existed where it is left out."""
    parts = export.model_dump(mode="json", exclude=None if export.quantised else {"precision", "int8"})
    if export.quantised:
        parts["int8"] = _int8(export.int8)
    return parts


def _int8(settings: Int8Config) -> dict[str, Any]:
    """``biases``, ``explained``: earlier versions did not correct them, and explained no INT8 file."""
    parts = settings.model_dump(mode="json") | {"biases": "corrected", "explained": "occlusion"}
    if not settings.accuracy_control.limits:
        del parts["accuracy_control"]
    if not settings.qat.epochs:
        del parts["qat"]
    if settings.weights == "per_channel":
        del parts["weights"]
    return parts


def dynamic_export_parts(session: Session) -> Parts:
    export = session.recipe.export
    parts = {"opset": export.opset, "tolerance": export.tolerance, "metadata": METADATA_VERSION}
    return {"route": session.recipe.dynamic.route, **parts}


def judgement_parts(session: Session) -> Parts:
    """The test images, which no other stage reads.

    The list of measured figures is included: earlier versions measured no drift of maps, no agreement and nothing by
    Grad-CAM.
    """
    figures = ["accuracy", "drift", "maps", "agreement", "attribution"]
    figures += ["int8"] if session.recipe.export.quantised else []
    return {"test": session.test_key, "figures": figures}
