"""README.md of a package: a model card with the Hub's front matter, and how to use and check the package."""

from __future__ import annotations

from typing import Any

import yaml

from slimsight.compress.files.untrusted import escape_hidden
from slimsight.export.costs.of_onnx import onnx_bytes

from ..report import Report, rows, rows_explained
from ..report.schema import ModelFigures
from ..report.table import code, plain, to_markdown
from ..report.units import as_bytes, as_count, as_macs, as_percent
from ..settings.recipe import Recipe
from .model_file import ModelFile
from .scripts import render, trtexec_line
from .targets import PackageTarget

_TIMM = "timm:"


def render_card(
    report: Report,
    recipe: Recipe,
    chosen: ModelFile,
    target: PackageTarget,
    precision: str,
    *,
    original: bool,
    files: dict[str, str],
    labels_known: bool,
    latency_ms: float | None,
    golden: int,
) -> str:
    """The text of README.md.

    Args:
        files: of the package, with the model's first: names, and what each is.
        golden: number of golden images.
    """
    figures = report.original if original else report.slim
    accuracies = _accuracies(report, figures, chosen.artifact, precision)
    name = report.model.name if report.model else "classifier"
    model = target.names[precision]
    side = report.data.preprocessing.crop if report.data and report.data.preprocessing else None
    text = render(
        "README.md.j2",
        front=yaml.safe_dump(
            _front_matter(report, recipe, accuracies, target, name), sort_keys=False, allow_unicode=True
        ),
        report=report,
        figures=figures,
        accuracies=accuracies,
        name=plain(name),
        original=original,
        target=target,
        precision=precision,
        model=model,
        artifact=chosen.artifact,
        reference=chosen.reference.name,
        proof=[plain(line) for line in chosen.proof],
        compared=any(line.startswith(target.name) for line in chosen.proof),
        size=as_bytes(onnx_bytes(chosen.path) if chosen.path.suffix == ".onnx" else chosen.path.stat().st_size),
        files=files,
        labels_known=labels_known,
        latency_ms=latency_ms,
        golden=golden,
        trtexec=None if target.name != "tensorrt" or side is None else trtexec_line(model, side),
        verdict=plain(rows.verdict(report)),
        steer=plain(rows.steer(report)),
        as_macs=as_macs,
        as_count=as_count,
        as_percent=as_percent,
        plain=plain,
        code=code,
        summary=to_markdown(rows.summary(report)),
        checks=to_markdown(rows.checks(report)),
        drift=None if report.saliency is None else to_markdown(rows_explained.saliency(report)),
    )
    return escape_hidden(text)


def _accuracies(report: Report, figures: ModelFigures, artifact: str, precision: str) -> dict[str, float]:
    """Accuracies of the file by the split that they are of; none where only those of its FP32 form are known."""
    found = {"test": figures.test_accuracy, "validation": figures.val_accuracy}
    if precision != "fp32":
        files = () if report.int8 is None or not report.labelled else report.int8.files
        made = next((file for file in files if file.artifact == artifact), None)
        measured = {} if made is None else {"test": made.test, "validation": made.val}
        found = {split: None if row is None else row.int8 for split, row in measured.items()}
    return {split: value for split, value in found.items() if value is not None}


def _front_matter(
    report: Report, recipe: Recipe, accuracies: dict[str, float], target: PackageTarget, name: str
) -> dict[str, Any]:
    """Metadata of a model card in the Hub's form; ``license`` is for the user to fill in."""
    front: dict[str, Any] = {
        "license": "unknown",
        "library_name": target.library,
        "pipeline_tag": "image-classification",
        "tags": ["slimsight", "pruning", target.name],
    }
    pretrained = recipe.model.name.removeprefix(_TIMM)
    if recipe.model.name.startswith(_TIMM) and "." in pretrained:  # timm names pretrained weights NAME.TAG
        front["base_model"] = f"timm/{pretrained}"
    if accuracies:
        source = report.data.source if report.data else "images"
        results = [
            {
                "task": {"type": "image-classification", "name": "Image Classification"},
                "dataset": {"type": source, "name": f"images of the run ({source})", "split": split},
                "metrics": [{"type": "accuracy", "value": round(value, 4), "name": f"{split} accuracy"}],
            }
            for split, value in accuracies.items()
        ]
        front["model-index"] = [{"name": name, "results": results}]
    return front
