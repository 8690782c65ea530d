"""Facts about a model: image size, weights, normalisation, channel groups that can shrink, seconds of a step."""

from __future__ import annotations

import math
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
from slimsight.compress.models.libraries import timm_normalisation
from slimsight.compress.models.user_code import is_file_name
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.surgery import ProofCache

from ..host import proof_folder
from ..inspection import Inspection, inspect_model
from .images import SIZES, ImageFacts, statistics

_FAMILIES = ("torchvision:", "timm:")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CONVENTIONS = {
    "ImageNet's": IMAGENET,
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_PROOF_SECONDS = 120.0
_TIMED = 3
_SMALL = 64


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation, and where they come from."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    why: str
    guessed: bool = True


@dataclass(frozen=True)
class ModelFacts:
    """Facts about a model. ``accuracy``: of given weights on ``accuracy_images`` training images.

    ``refused_sizes``: image sizes that it does not take; ``weights_beside``: a file beside the model's;
    ``classes``: logits; ``trained_classes``: of weights whose head is replaced, None if they come without one.

    ``forward`` and ``step``: seconds per image, forward alone and with backward.
    """

    config: ModelConfig
    size: int
    refused_sizes: tuple[str, ...]
    inspection: Inspection
    normalisation: Normalisation
    forward: float
    step: float
    batch_bytes: int
    accuracy: float | None = None
    accuracy_images: int = 0
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
    model = build_classifier(config, classes)
    size, refused_sizes = _fitting_size(model, images, classes)
    pixels, labels = images.sample(size)
    normalisation, accuracy = _normalisation(config, model, pixels, labels if images.labelled else None)
    forward, step, taken = _time_steps(model, pixels)
    proofs = ProofCache(proof_folder())
    inspection = inspect_model(chosen, model, (3, size, size), limit=_PROOF_SECONDS, proofs=proofs, progress=progress)
    return ModelFacts(
        config=config.model_copy(update={"mean": normalisation.mean, "std": normalisation.std}),
        size=size,
        refused_sizes=tuple(refused_sizes),
        inspection=inspection,
        normalisation=normalisation,
        forward=forward,
        step=step,
        batch_bytes=taken,
        accuracy=accuracy,
        accuracy_images=len(pixels),
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


def _normalisation(
    config: ModelConfig, model: Classifier, images: np.ndarray, labels: np.ndarray | None
) -> tuple[Normalisation, float | None]:
    """The normalisation, and the accuracy with it of given weights that know the classes; ``labels`` None: unknown."""
    mean, std = statistics(images)
    own = Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]), f"statistics of {len(images)} images")
    if config.weights is None or config.head == "new":
        labels = None
    if config.weights is None and not config.name.startswith(_FAMILIES):
        return own, None
    if config.weights == "pretrained":
        known = Normalisation(*IMAGENET, "ImageNet's: these weights were trained with it", guessed=False)
        return known, _accuracy(model, images, labels, known) if labels is not None else None
    stored = Normalisation(
        _triple(model.normalize.mean), _triple(model.normalize.std), "stored in the weights file", False
    )
    if (stored.mean, stored.std) != (config.mean, config.std):
        return stored, _accuracy(model, images, labels, stored) if labels is not None else None
    if labels is None:
        return _usual_normalisation(config), None
    candidates = [Normalisation(*values, f"{name} convention") for name, values in _CONVENTIONS.items()]
    scored = [(each, _accuracy(model, images, labels, each)) for each in (*candidates, own)]
    first, usual = scored[0]
    best, accuracy = max(scored, key=lambda pair: pair[1])
    # A few images more are chance: then the usual convention is the better guess.
    if accuracy - usual <= 2 * math.sqrt(max(usual * (1 - usual), 1 / len(images)) / len(images)):
        best, accuracy = first, usual
    others = ", ".join(
        f"{each.why.removesuffix(' convention')} {right:.0%}" for each, right in scored if each is not best
    )
    why = f"{best.why}: the weights get {accuracy:.0%} of {len(images)} images right with it ({others})"
    return Normalisation(best.mean, best.std, why.replace("%", " %")), accuracy


def _usual_normalisation(config: ModelConfig) -> Normalisation:
    """The normalisation that a library trained its weights of this network with, else ImageNet's."""
    if config.name.startswith("timm:"):
        mean, std = timm_normalisation(config.name.removeprefix("timm:"))
        return Normalisation(mean, std, "timm's for its own weights of this network")
    return Normalisation(*IMAGENET, "ImageNet's, as this family is used everywhere")


def _triple(values: torch.Tensor) -> tuple[float, float, float]:
    first, second, third = (round(float(value), 6) for value in values.flatten())
    return first, second, third


def _accuracy(model: Classifier, images: np.ndarray, labels: np.ndarray, by: Normalisation) -> float:
    """Share of the images that ``model`` gets right when it normalises ``by``."""
    before = {name: buffer.clone() for name, buffer in model.normalize.state_dict().items()}
    training = model.training
    model.eval()
    for buffer, values in ((model.normalize.mean, by.mean), (model.normalize.std, by.std)):
        buffer.copy_(torch.tensor(values).reshape(buffer.shape))
    with torch.no_grad():
        batches = torch.split(torch.from_numpy(images).float() / 255, 32)
        right = torch.cat([model(batch).argmax(1) for batch in batches]) == torch.from_numpy(labels)
    model.normalize.load_state_dict(before)
    model.train(training)
    return float(right.float().mean())


def _time_steps(model: Classifier, images: np.ndarray) -> tuple[float, float, int]:
    """Seconds per image (forward, forward and backward), and bytes that a step keeps per image."""
    batch = torch.from_numpy(images[:16]).float() / 255
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
