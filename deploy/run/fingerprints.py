"""What a stage is made of, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slimsight.export.onnx_files.metadata import METADATA_VERSION

from ..settings.recipe import Recipe
from .images import augmentation, judged
from .session import Session


def fingerprint(parts: Mapping[str, Any]) -> str:
    """sha256 of ``parts`` as canonical JSON: equal for equal content, whatever the order of keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a fingerprint cannot be made of {type(value).__name__}")


Parts = Mapping[str, Any]


def _learning(recipe: Recipe) -> dict[str, Any]:
    """How many processes there are is none of it: they compute the same, but for rounding."""
    parts: dict[str, Any] = {"seed": recipe.seed, "precision": recipe.precision, "threads": recipe.threads}
    return parts if recipe.accumulate == 1 else {**parts, "accumulate": recipe.accumulate}


def classifier_parts(session: Session) -> Parts:
    """Files count by their content: a moved file changes nothing, an edited one everything."""
    model, data = session.recipe.model, session.recipe.data
    file, _, factory = model.name.rpartition(":")
    parts: dict[str, Any] = {
        "name": f"{_digest(Path(file))}:{factory}" if file.endswith(".py") else model.name,
        "shortcut": model.shortcut,
        "normalisation": [model.mean, model.std],
        "weights": _digest(model.weights) if isinstance(model.weights, Path) else model.weights,
        "data": session.data_key,
    }
    if model.weights is None:
        parts |= {"train": model.train, "augment": augmentation(data), **_learning(session.recipe)}
    return parts


def _digest(path: Path) -> str | None:
    """None where there is no such file: building the model will say so."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def predictor_parts(session: Session) -> Parts:
    recipe, explainer = session.recipe, session.recipe.explainer
    parts = {"predictor": explainer.predictor, "flip": recipe.data.flip}
    return {**parts, **_explainer_parts(session, {"masks": explainer.masks}), **_learning(recipe)}


def selector_parts(session: Session) -> Parts:
    recipe, explainer = session.recipe, session.recipe.explainer
    parts: dict[str, Any] = {"flip": recipe.data.flip}
    if session.explainer.masks is not None:
        parts |= {"selector": explainer.selector, "area": explainer.target_area}
    return {**parts, **_explainer_parts(session, {}), **_learning(recipe)}


def _explainer_parts(session: Session, of_rbf: Parts) -> Parts:
    """What it learns on, if not everything, and what only one of the explainers reads."""
    kind, explainer = session.explainer.head.kind, session.recipe.explainer
    seen = {} if explainer.images is None else {"images": explainer.images}
    if kind == "rbf":
        return {**of_rbf, **seen}
    sections = {"realx": explainer.realx, "varsal": explainer.varsal}
    return {"kind": kind, kind: sections[kind], **seen}


def gate_parts(session: Session) -> Parts:
    recipe = session.recipe
    if recipe.gates.steer in ("magnitude", "uniform"):
        return {"steer": recipe.gates.steer}
    gates = recipe.gates.model_dump(mode="json", exclude={"compile"})  # how fast, not what
    if recipe.gates.class_weight == 1:  # gates that were learned before there was a choice still hold
        del gates["class_weight"]
    parts = {"gates": gates, "budget": _target(recipe), **_learning(recipe)}
    if recipe.budget.macs is None and recipe.budget.latency is not None:  # the target then comes from layer times
        parts["latency"] = recipe.latency
    return parts


def surgery_parts(session: Session) -> Parts:
    """How models are timed matters only to a budget that time decides."""
    budget = session.recipe.budget
    timed = budget.latency is not None or budget.align == "auto"
    return {"budget": budget, "latency": session.recipe.latency if timed else None}


def _target(recipe: Recipe) -> Any:
    """What decides how many MACs the gates aim for."""
    return recipe.budget if recipe.budget.macs is None else recipe.budget.model_dump(mode="json")["macs"]


def finetune_parts(session: Session) -> Parts:
    recipe = session.recipe
    return {"finetune": recipe.finetune, "augment": augmentation(recipe.data), **_learning(recipe)}


def dynamic_parts(session: Session) -> Parts:
    recipe = session.recipe
    learned = recipe.dynamic.model_dump(mode="json", exclude={"route"})
    return {"dynamic": learned, "augment": augmentation(recipe.data), **_learning(recipe)}


def export_parts(session: Session) -> Parts:
    return {"export": session.recipe.export, "metadata": METADATA_VERSION}


def dynamic_export_parts(session: Session) -> Parts:
    export = session.recipe.export
    parts = {"opset": export.opset, "tolerance": export.tolerance, "metadata": METADATA_VERSION}
    return {"route": session.recipe.dynamic.route, **parts}


def judgement_parts(session: Session) -> Parts:
    """What is measured is part of it: an earlier version's judgement lacks the drift of maps."""
    return {"data": judged(session.recipe.data), "figures": ["accuracy", "drift", "maps"]}
