"""``slimsight package``: a folder or zip of a run's model for the person who puts it on a device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.data import Preprocessing
from slimsight.compress.data.decode import FORMATS
from slimsight.compress.errors import RunError
from slimsight.compress.files.untrusted import printable
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.onnx_files.metadata import OnnxMetadata, read_metadata

from ..device import LIMITS
from ..report import Report, read_report
from ..run.images import RunImages
from ..run.session import writable_cache
from ..run_dir import RunDir, read_run
from ..settings.recipe import Recipe, load_recipe
from .card import render_card
from .golden import GOLDEN_IMAGES, GoldenImage, golden_images
from .model_file import ModelFile, choose_file
from .scripts import to_scripts
from .targets import PackageTarget, find_target
from .write import PACKAGE_MARK, SUMS, check_package_destination, write_package

PACKAGE_SCHEMA = 1


@dataclass(frozen=True)
class PackageRequest:
    """A package's inputs.

    Args:
        run: the folder of a finished run.
        target: of ``TARGETS``; ``precision``: of its file.
        out: folder or ``.zip``; None: ``package/TARGET-PRECISION`` in the run.
        original: the run's original in place of its slim model.
        latency_ms: the most that a call may take on the device; None: verify.py only reports it.
        force: replace an earlier package.
    """

    run: Path
    target: str
    precision: str = "fp32"
    out: Path | None = None
    original: bool = False
    latency_ms: float | None = None
    force: bool = False


@dataclass(frozen=True)
class Packaged:
    """What was written: ``out``, the names of its files, and the run's file that is in it. ``passed``: the run did."""

    out: Path
    files: tuple[str, ...]
    artifact: str
    passed: bool


def package_run(request: PackageRequest, *, cache: Path | None = None, progress: Progress = SILENT) -> Packaged:
    """Package a model of a finished run; nothing of the run's own code is run.

    Raises:
        ConfigError: there is no such package, the run lacks the file for it, or the place is taken.
        RunError: there is no finished run, or it is being written.
        Damaged: a file of the run is not what was written.
        ExportError: the file failed its comparison in that runtime.
        DataError: the run's images are not there any more.
    """
    target = find_target(request.target, request.precision)
    run = read_run(request.run)
    if (writer := run.writer()) is not None:
        raise RunError(f"process {writer} is working on {request.run}: wait until it ends, then package")
    out = request.out or _default_place(run, request)
    check_package_destination(out, force=request.force)
    report, recipe = read_report(run.report_json), load_recipe(run.recipe)
    chosen = choose_file(run, report, target, request.precision, original=request.original)
    images = RunImages(recipe, progress, cache or writable_cache())
    pixels, preprocessing = images.some_pixels(GOLDEN_IMAGES), images.preprocessing
    golden = golden_images(pixels, preprocessing, chosen.reference)
    content = _content(request, report, recipe, chosen, target, preprocessing, golden)
    write_package(out, content, force=request.force)
    return Packaged(out, (*content, SUMS), chosen.artifact, report.verdict.passed)


def _default_place(run: RunDir, request: PackageRequest) -> Path:
    original = "original-" if request.original else ""
    return run.root / "package" / f"{original}{request.target}-{request.precision}"


def _content(
    request: PackageRequest,
    report: Report,
    recipe: Recipe,
    chosen: ModelFile,
    target: PackageTarget,
    preprocessing: Preprocessing,
    golden: list[GoldenImage],
) -> dict[str, bytes | Path]:
    """All files but SHA256SUMS, by name."""
    stated = read_metadata(chosen.reference)
    model = target.names[request.precision]
    models = chosen.named(model)
    labels, known = _labels(stated, report)
    content: dict[str, bytes | Path] = {
        **models,
        "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
        "preprocess.json": _to_json(_preprocess_json(preprocessing, stated, known)),
        PACKAGE_MARK: _to_json(_golden_json(request, target, list(models), golden)),
        **{image.name: image.png for image in golden},
        **to_scripts(target, model, preprocessing.side),
        "requirements.txt": "".join(f"{line}\n" for line in target.requirements).encode(),
    }
    card = render_card(
        report,
        recipe,
        chosen,
        target,
        request.precision,
        original=request.original,
        files=_described(content, models),
        labels_known=known,
        latency_ms=request.latency_ms,
        golden=len(golden),
    )
    return content | {"README.md": card.encode()}


def _labels(stated: OnnxMetadata, report: Report) -> tuple[list[str], bool]:
    """The names of the outputs, and whether they are names: of images without labels there are only numbers."""
    names = stated.classes or tuple(map(str, range(stated.class_count)))
    return [printable(name, 1000) for name in names], bool(stated.classes) and report.labelled


def _preprocess_json(made: Preprocessing, stated: OnnxMetadata, labels_known: bool) -> dict[str, Any]:
    """What ``predict.py`` follows; the same as in the metadata of the ONNX file."""
    return {
        "schema": PACKAGE_SCHEMA,
        "resize": made.resize,
        "stretch": made.stretch,
        "crop": made.side,
        "interpolation": made.interpolation,
        "antialias": made.interpolation != "nearest",
        "words": made.words,
        "formats": list(FORMATS),
        "exif_rotation": False,
        "most_bits_per_channel": 8,
        "channels": "RGB",
        "layout": "NCHW",
        "dtype": "float32",
        "range": [0, 1],
        "normalisation": "inside the file" if stated.mean is not None else "none",
        "mean": stated.mean,
        "std": stated.std,
        "labels": "names" if labels_known else "numbers",
    }


def _golden_json(
    request: PackageRequest, target: PackageTarget, models: list[str], golden: list[GoldenImage]
) -> dict[str, Any]:
    limits = LIMITS[request.precision]
    return {
        "schema": PACKAGE_SCHEMA,
        "target": target.name,
        "runtime": target.module,
        "precision": request.precision,
        "threads": target.threads,
        "model_files": models,
        "limits": {
            "difference": limits.difference,
            "agreement": limits.agreement,
            "latency_ms": request.latency_ms,
        },
        "images": [image.to_dict() for image in golden],
    }


def _to_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


_DESCRIPTIONS = {
    "labels.txt": "the outputs, in their order",
    "preprocess.json": "how an image file becomes the input",
    PACKAGE_MARK: "expected inputs and logits of the images beside it, and the limits",
    "predict.py": "classifies an image file",
    "verify.py": "checks the package on the device",
    "engine.py": "builds and runs the TensorRT engine",
    "requirements.txt": "what to install",
    SUMS: "checksums (`sha256sum -c SHA256SUMS`)",
}


def _described(content: dict[str, bytes | Path], models: dict[str, Path]) -> dict[str, str]:
    """Each file, with what it is; golden images in one line."""
    first, *beside = models
    described = {first: "the model", **dict.fromkeys(beside, "its weights")}
    described |= {name: _DESCRIPTIONS[name] for name in content if name in _DESCRIPTIONS}
    return described | {"golden/*.png": "golden images", SUMS: _DESCRIPTIONS[SUMS]}
