"""Metadata of exported files: origin, preprocessing, input, classes and MACs; in ONNX files ``metadata_props``.

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

import torch
from torch import Tensor, nn

from slimsight.compress.data.preprocessing import Preprocessing
from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import printable
from slimsight.compress.inputs import Example, Packing
from slimsight.compress.macs import count_macs
from slimsight.compress.models.classifier import Normalize
from slimsight.compress.modules import copy_of

from .graph import read_onnx
from .quantised import INT8

VERSION, RECIPE, MACS, MACS_MEAN = "slimsight_version", "recipe_hash", "macs", "macs_mean"
NORMALISATION, MEAN, STD = "normalisation", "mean", "std"
CLASSES, CLASS_COUNT = "classes", "class_count"
INPUT_LAYOUT, INPUT_SIZE, INPUT_RANGE, PRECISION = "input_layout", "input_size", "input_range", "precision"

PREPROCESSING, RESIZE, CROP, INTERPOLATION = "preprocessing", "resize", "crop", "interpolation"
CHANNELS = "input_channels"

NORMALISED_INSIDE = "inside the file"
"""What ``normalisation`` says of a file that takes images in [0, 1]."""

METADATA_VERSION = 2
"""Version of this metadata. Increase it when the same model would get other metadata: runs then export again."""

_PRECISIONS = ("fp32", "fp16", INT8)

_ONNX_IMAGE_KEYS = {"Image.BitmapPixelFormat": "Rgb8", "Image.NominalPixelRange": "Normalized_0_1"}
"""ONNX's own keys for images (MetadataProps.md)."""


@dataclass(frozen=True)
class About:
    """Metadata that cannot be read off the model: its recipe, class names, and MACs that depend on routes.

    Args:
        recipe: hash of the recipe that made it.
        classes: names of the logits, in their order.
        macs: multiply-accumulates of one image; None: they are counted. Of a routed file: those of its dearest route.
        macs_mean: of a routed file: the mean over real images.
        preprocessing: how an image of any size becomes the model's input; None: the file does not say.
    """

    recipe: str | None = None
    classes: tuple[str, ...] = ()
    macs: int | None = None
    macs_mean: float | None = None
    preprocessing: Preprocessing | None = None


EMPTY_ABOUT = About()


@dataclass(frozen=True)
class OnnxMetadata:
    """The metadata of a file that slimsight wrote; ``all`` holds the stored text of each key."""

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


def model_metadata(
    model: nn.Module, example: Example, class_count: int | None, about: About = EMPTY_ABOUT
) -> dict[str, str]:
    """The metadata of ``model``'s file; equal for equal models, recipes and versions.

    Args:
        model: raw images -> logits; mean and std come from its ``Normalize``, where it has one.
        example: (N, C, H, W), any N, or several inputs; one row of zeros in its size is used where MACs are counted.
        class_count: logits of one image; None of a model that gives something else.

    Raises:
        ExportError: there are class names, but not one per logit.
    """
    if about.classes and len(about.classes) != class_count:
        raise ExportError(
            f"{len(about.classes)} class names for {class_count} logits: give one name per logit, in their order"
        )
    macs = _count(model, example) if about.macs is None else about.macs
    single = isinstance(example, Tensor)
    values = {
        VERSION: metadata.version("slimsight"),
        RECIPE: about.recipe,
        MACS: str(macs),
        MACS_MEAN: None if about.macs_mean is None else repr(round(about.macs_mean, 3)),
        CLASSES: json.dumps(about.classes) if about.classes else None,
        CLASS_COUNT: None if class_count is None else str(class_count),
        INPUT_LAYOUT: "NCHW" if single else None,
        INPUT_SIZE: "x".join(map(str, example.shape[1:])) if isinstance(example, Tensor) else None,
        PRECISION: "fp32",
        **_normalisation(model),
        **_preprocessing(about.preprocessing),
    }
    return {key: value for key, value in values.items() if value is not None}


def _count(model: nn.Module, example: Example) -> int:
    """MACs of one row of ``example``."""
    if not isinstance(example, Tensor):
        packing = Packing.of(example)
        return count_macs(packing.attach_(copy_of(model)), torch.zeros_like(packing.pack(example)[:1])).total
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), example.device)
    return count_macs(model, example.new_zeros(1, *example.shape[1:]).to(device)).total


def _normalisation(model: nn.Module) -> dict[str, str]:
    layer = next((module for module in model.modules() if isinstance(module, Normalize)), None)
    if layer is None:
        return {NORMALISATION: "as the model was given: its file takes what the model takes"}
    values = {MEAN: layer.mean.flatten().tolist(), STD: layer.std.flatten().tolist()}
    # Seven digits identify a float32, and write 0.4914 rather than 0.49139997.
    rounded = {key: json.dumps([float(f"{value:.7g}") for value in numbers]) for key, numbers in values.items()}
    return {NORMALISATION: NORMALISED_INSIDE, **rounded, INPUT_RANGE: "[0, 1]", **_ONNX_IMAGE_KEYS}


def _preprocessing(made: Preprocessing | None) -> dict[str, str]:
    """``resize`` is the short side in pixels, or HxW where the aspect ratio is not kept; ``crop`` is HxW, centred."""
    if made is None:
        return {}
    return {
        PREPROCESSING: made.words,
        RESIZE: f"{made.resize}x{made.resize}" if made.stretch else str(made.resize),
        CROP: f"{made.side}x{made.side}",
        INTERPOLATION: made.interpolation,
        CHANNELS: "RGB",
    }


def write_metadata_(proto: Any, values: Mapping[str, str]) -> None:
    """Replace a model's ``metadata_props`` by ``values``, sorted by key."""
    del proto.metadata_props[:]
    for key in sorted(values):
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, values[key]


def stored_metadata(proto: Any) -> dict[str, str]:
    """The ``metadata_props`` of a model as a dictionary."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def read_metadata(path: Path) -> OnnxMetadata:
    """The metadata that slimsight stored in the ONNX file at ``path``.

    Raises:
        ExportError: the file is missing or is not an ONNX file, or slimsight did not write it.
    """
    stored = stored_metadata(read_onnx(path, external=False))
    try:
        return OnnxMetadata(
            version=stored[VERSION],
            macs=int(stored[MACS]),
            classes=tuple(json.loads(stored.get(CLASSES, "[]"))),
            class_count=int(stored[CLASS_COUNT]),
            mean=_float_tuple(stored.get(MEAN)),
            std=_float_tuple(stored.get(STD)),
            recipe=stored.get(RECIPE),
            macs_mean=float(stored[MACS_MEAN]) if MACS_MEAN in stored else None,
            precision=stored[PRECISION],
            all=stored,
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"{path} has no metadata of slimsight ({error}): export the model again") from error


def stated_macs(path: Path) -> float | None:
    """MACs of one image as the metadata of an ONNX file state them, of a routed file the mean; None if they do not.

    Raises:
        ExportError: the file is missing or is not an ONNX file, or the stated MACs are not a valid number.
    """
    stored = stored_metadata(read_onnx(path, external=False))
    text = stored.get(MACS_MEAN, stored.get(MACS))
    try:
        macs = None if text is None else float(text)
    except ValueError:
        macs = math.nan
    if macs is not None and not 0 <= macs < math.inf:
        raise ExportError(
            f"{path} states '{printable(str(text))}' MACs, which is not a valid number: export the model again"
        )
    return macs


def stated_precision(metadata: Mapping[str, str]) -> str:
    """What a file's metadata say that it computes in; ``fp32`` where they say nothing that is believed."""
    stated = metadata.get(PRECISION, "fp32")
    return stated if stated in _PRECISIONS else "fp32"


def _float_tuple(text: str | None) -> tuple[float, ...] | None:
    return None if text is None else tuple(json.loads(text))
