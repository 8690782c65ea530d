"""What an ONNX file says about itself, in its ``metadata_props``: where it came from, what it takes, gives and costs.

``json.loads(session.get_modelmeta().custom_metadata_map["classes"])`` gives the class names in ONNX Runtime.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import printable
from slimsight.compress.macs import count_macs
from slimsight.compress.models.normalize import Normalize

from .graph import read_onnx

VERSION, RECIPE, MACS, MACS_MEAN = "slimsight_version", "recipe_hash", "macs", "macs_mean"
NORMALISATION, MEAN, STD = "normalisation", "mean", "std"
CLASSES, CLASS_COUNT = "classes", "class_count"
INPUT_LAYOUT, INPUT_SIZE, INPUT_RANGE, PRECISION = "input_layout", "input_size", "input_range", "precision"

METADATA = 1
"""Raised when files of the same model would say something else: runs then export theirs again."""

_STANDARD = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_0_1"}
"""The keys that ONNX itself has for images (MetadataProps.md)."""


@dataclass(frozen=True)
class About:
    """What no graph shows: where a model came from, and what its logits are called.

    Args:
        recipe: hash of the recipe that made it.
        classes: names of the logits, in their order.
        macs: multiply-accumulates of one image; None: they are counted. Of a routed file: the most that a route costs.
        macs_mean: of a routed file: the mean over real images.
    """

    recipe: str | None = None
    classes: tuple[str, ...] = ()
    macs: int | None = None
    macs_mean: float | None = None


NOTHING = About()


@dataclass(frozen=True)
class Described:
    """What ``read_metadata`` found; ``all`` holds every key as it is stored."""

    version: str
    macs: int
    classes: tuple[str, ...]
    class_count: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    recipe: str | None = None
    macs_mean: float | None = None
    precision: str = "fp32"
    all: Mapping[str, str] = field(default_factory=dict, repr=False)


def describe(model: nn.Module, example: Tensor, class_count: int, about: About = NOTHING) -> dict[str, str]:
    """The metadata of ``model``'s file; equal for equal models, recipes and versions.

    Args:
        model: raw images -> logits; its ``Normalize``, where it has one, says what it subtracts and divides by.
        example: (N, 3, H, W), any N; one image of zeros in its size is used where MACs are counted.
        class_count: logits of one image.

    Raises:
        ExportError: there are class names, and not one for every logit.
    """
    if about.classes and len(about.classes) != class_count:
        raise ExportError(
            f"{len(about.classes)} class names for {class_count} logits: give one name per logit, in their order"
        )
    macs = about.macs
    if macs is None:
        device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), example.device)
        macs = count_macs(model, example.new_zeros(1, *example.shape[1:]).to(device)).total
    found = {
        VERSION: metadata.version("slimsight"),
        RECIPE: about.recipe,
        MACS: str(macs),
        MACS_MEAN: None if about.macs_mean is None else repr(round(about.macs_mean, 3)),
        CLASSES: json.dumps(about.classes) if about.classes else None,
        CLASS_COUNT: str(class_count),
        INPUT_LAYOUT: "NCHW",
        INPUT_SIZE: "x".join(map(str, example.shape[1:])),
        PRECISION: "fp32",
        **_input(model),
    }
    return {key: value for key, value in found.items() if value is not None}


def _input(model: nn.Module) -> dict[str, str]:
    layer = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    if layer is None:
        return {NORMALISATION: "as the model was given: its file takes what the model takes"}
    values = {MEAN: layer.mean.flatten().tolist(), STD: layer.std.flatten().tolist()}
    # Seven digits say which float32 it is, and 0.49139997... reads as what somebody wrote.
    rounded = {key: json.dumps([float(f"{value:.7g}") for value in numbers]) for key, numbers in values.items()}
    return {NORMALISATION: "inside the file", **rounded, INPUT_RANGE: "[0, 1]", **_STANDARD}


def write_metadata_(proto: Any, found: Mapping[str, str]) -> None:
    """Put ``found`` in the place of a model's ``metadata_props``, in the order of its keys."""
    del proto.metadata_props[:]
    for key in sorted(found):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, found[key]


def to_metadata(proto: Any) -> dict[str, str]:
    """The ``metadata_props`` of a model."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def read_metadata(path: Path) -> Described:
    """What the ONNX file at ``path`` says about itself.

    Raises:
        ExportError: the file is missing or is no ONNX file, or slimsight did not write it.
    """
    found = to_metadata(read_onnx(path, external=False))
    try:
        return Described(
            version=found[VERSION],
            macs=int(found[MACS]),
            classes=tuple(json.loads(found.get(CLASSES, "[]"))),
            class_count=int(found[CLASS_COUNT]),
            mean=_numbers(found.get(MEAN)),
            std=_numbers(found.get(STD)),
            recipe=found.get(RECIPE),
            macs_mean=float(found[MACS_MEAN]) if MACS_MEAN in found else None,
            precision=found[PRECISION],
            all=found,
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"{path} has no metadata of slimsight ({error}): export the model again") from error


def stated_macs(path: Path) -> float | None:
    """MACs of one image as the ONNX file at ``path`` states them, the mean of a routed file; None where it does not.

    Raises:
        ExportError: the file is missing or is no ONNX file, or what it states is no number.
    """
    found = to_metadata(read_onnx(path, external=False))
    text = found.get(MACS_MEAN, found.get(MACS))
    try:
        macs = None if text is None else float(text)
    except ValueError:
        macs = math.nan
    if macs is not None and not 0 <= macs < math.inf:
        raise ExportError(f"{path} states '{printable(str(text))}' MACs, which is no number: export the model again")
    return macs


def _numbers(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(json.loads(text))
