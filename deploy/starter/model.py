"""Facts about a model: image size, weights, normalisation, channel groups that can shrink, seconds of a step."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import DataError, ModelError
from slimsight.compress.models import (
    Classifier,
    UnknownHeadError,
    build_classifier,
    check_classifier,
    classes_known,
    classes_of_weights,
)
from slimsight.compress.models.classifier import ClassCountError
from slimsight.compress.models.user_code import is_file_name
from slimsight.compress.models.weights import load_weights
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import ProofCache

from ..host import proof_folder
from ..inspection import Inspection, inspect_model
from .choose import Choice, choose
from .images import SIZES, ImageFacts

_PROOF_SECONDS = 120.0
_TIMED = 3
_BATCH = 16
_SMALL = 64


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model. ``size``: side of the images that it gets, pixels; ``choice``: how they become that.

    ``refused_sizes``: image sizes that it does not take; ``weights_beside``: a file beside the model's;
    ``classes``: logits; ``trained_classes``: of weights whose head is replaced, None if they come without one.

    ``forward`` and ``step``: seconds per image, forward alone and with backward.
    """

    config: ModelConfig
    size: int
    refused_sizes: tuple[str, ...]
    inspection: Inspection
    choice: Choice
    forward: float
    step: float
    batch_bytes: int
    weights_beside: Path | None = None
    trained_classes: int | None = None
    classes: int = 0


def examine_model(
    name: str | None,
    images: ImageFacts,
    *,
    weights: Path | Literal["pretrained"] | None = None,
    progress: Progress = SILENT,
) -> ModelFacts:
    """Build the model for the images' classes and examine what a run needs of it.

    Args:
        name: as in a recipe; None: a ResNet that fits the images' size.
        weights: of the model; they are loaded, and evaluated on images.

    Raises:
        ConfigError, ModelError, PruningError: what a run would refuse too, with its sentence.
    """
    chosen = name or ("resnet20" if images.size <= _SMALL else "torchvision:resnet18")
    shortcut: Literal["pad", "conv"] = "conv" if name is None else "pad"
    config = ModelConfig(name=chosen, shortcut=shortcut, weights=weights)
    if name is not None and weights is None and name.startswith("resnet"):
        config = config.model_copy(update={"shortcut": "conv"})  # nothing was trained with the other yet
    config, trained = _with_head(config, len(images.classes)) if images.labelled else (config, None)
    classes = len(images.classes) if images.labelled else _classes_without_labels(config, images)
    torch.manual_seed(0)
    known = images.labelled and config.head != "new"
    model, stored = _with_weights(config, classes) if known else (build_classifier(config, classes), None)
    if stored is None:
        stored = _brought_normalisation(model, config)
    fitting, refused_sizes = _fitting_size(model, images, classes)
    choice = choose(config, model, images, fitting, classes, stored=stored, judged=known, progress=progress)
    size = choice.preprocessing.side
    forward, step, taken = _time_steps(model, images.sample(size, _BATCH)[0])
    proofs = ProofCache(proof_folder())
    inspection = inspect_model(chosen, model, (3, size, size), limit=_PROOF_SECONDS, proofs=proofs, progress=progress)
    return ModelFacts(
        config=config.model_copy(update={"mean": choice.normalisation.mean, "std": choice.normalisation.std}),
        size=size,
        refused_sizes=tuple(refused_sizes),
        inspection=inspection,
        choice=choice,
        forward=forward,
        step=step,
        batch_bytes=taken,
        weights_beside=_weights_beside(chosen) if weights is None else None,
        trained_classes=trained,
        classes=classes,
    )


def _classes_without_labels(config: ModelConfig, images: ImageFacts) -> int:
    """The number of classes that the weights know: images without labels say nothing of them."""
    remedy = "or put the images of each class into a folder named after it"
    if config.weights is None:
        raise DataError(
            f"{images.config.path} holds images without class folders, and no --weights are given: give the weights of "
            f"a trained classifier, which is then slimmed by what it predicts itself; {remedy}"
        )
    found = classes_known(config, images.size)
    if found is None:
        raise ModelError(
            f"weights {config.weights} hold no last layer, and images without class folders cannot train one: give the "
            f"weights of the whole classifier, {remedy}"
        )
    return found


def _with_head(config: ModelConfig, classes: int) -> tuple[ModelConfig, int | None]:
    """``config`` with a new head if its weights are of another number of classes, or come without a head.

    Returns:
        It, and the number of classes of the replaced head.
    """
    if config.weights is None:
        return config, None
    try:
        trained = classes_of_weights(config)
    except UnknownHeadError:
        return config, None
    if trained == classes:
        return config, None
    given = config.model_dump(include={"name", "shortcut", "weights"})
    return ModelConfig.model_validate({**given, "head": "new"}), trained


def _with_weights(config: ModelConfig, classes: int) -> tuple[Classifier, bool]:
    """The classifier with the weights of the recipe, and whether a file of them brought a normalisation."""
    if not isinstance(config.weights, Path):
        return build_classifier(config, classes), False
    model = build_classifier(config.model_copy(update={"weights": None}), classes)
    return model, "normalize.mean" in load_weights(model, config.weights)


def _brought_normalisation(model: Classifier, config: ModelConfig) -> bool:
    """Whether the normalisation of ``model`` is another than the recipe's."""
    pairs = ((model.normalize.mean, config.mean), (model.normalize.std, config.std))
    return any(not torch.allclose(held.flatten(), held.new_tensor(given), atol=1e-5) for held, given in pairs)


def _fitting_size(model: Classifier, images: ImageFacts, classes: int) -> tuple[int, list[str]]:
    """The images' own side, or the next one that the model takes."""
    if images.config.source != "image_folder":
        check_classifier(model, images.size, classes)
        return images.size, []
    refused_sizes: list[str] = []
    first: ModelError | None = None
    for size in sorted(SIZES, key=lambda side: (side != images.size, side > images.size, abs(side - images.size))):
        try:
            check_classifier(model, size, classes)
        except ClassCountError:  # the same for every side
            raise
        except ModelError as error:
            first = first or error
            refused_sizes.append(f"{size}")
        else:
            return size, refused_sizes
    assert first is not None
    raise first


def _time_steps(model: Classifier, images: np.ndarray) -> tuple[float, float, int]:
    """Seconds per image (forward, forward and backward), and bytes that a step keeps per image."""
    batch = torch.from_numpy(images).float() / 255
    kept = 0

    def count(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        nonlocal kept
        kept += output.numel() * output.element_size() if isinstance(output, torch.Tensor) else 0

    hooks = [m.register_forward_hook(count) for m in model.modules() if not list(m.children())]
    with torch.no_grad():
        model(batch)
    for hook in hooks:
        hook.remove()
    forwards, steps = [], []
    model.train()
    for _ in range(_TIMED):
        started = time.perf_counter()
        with torch.no_grad():
            model(batch)
        forwards.append(time.perf_counter() - started)
        started = time.perf_counter()
        model(batch).sum().backward()
        steps.append(time.perf_counter() - started)
    model.zero_grad(set_to_none=True)
    return min(forwards) / len(batch), min(steps) / len(batch), kept // len(batch)


def _weights_beside(name: str) -> Path | None:
    """A file of weights that lies beside the model's file and has its name."""
    if not is_file_name(name):
        return None
    file = Path(name.rpartition(":")[0])
    return next((p for s in (".safetensors", ".pt", ".pth") if (p := file.with_suffix(s)).is_file()), None)
