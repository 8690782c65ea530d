"""The normalisation and the preprocessing for a recipe: stated by the model, stored in the weights, or decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from slimsight.compress.config import ModelConfig
from slimsight.compress.data import Preprocessing
from slimsight.compress.errors import ModelError
from slimsight.compress.models import Classifier, check_classifier
from slimsight.compress.progress import SILENT, Progress

from .decide import APART, Decision, decide_normalisation, decide_preprocessing
from .images import ImageFacts
from .race import Difference, Pair, Triple, run_race
from .stated import Stated, stated_by

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
USUAL: dict[str, tuple[Triple, Triple]] = {
    "ImageNet's": IMAGENET,
    "0.5 and 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "127 and 128 of 255": ((0.498039,) * 3, (0.501961,) * 3),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "ImageNet's mean alone": (IMAGENET[0], (1.0, 1.0, 1.0)),
    "values from 0 to 255": ((0.0, 0.0, 0.0), (0.003922,) * 3),
    "values from 0 to 255 less ImageNet's mean": (IMAGENET[0], (0.003922,) * 3),
}
"""Normalisations that are tried, as mean and std of images in [0, 1]."""

_CROPPED = 0.875
_STEP = 1.01 / 255
"""In [0, 1]; normalisations that are no further apart count as one: no accuracy tells them apart."""
_NORMALISATION = "model.mean and model.std"
_PREPROCESSING = "data.resize, data.interpolation and data.stretch"
Kind = Literal["stated", "decided", "harmless", "undecided", "guessed"]


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation, and where they come from."""

    mean: Triple
    std: Triple
    why: str
    kind: Kind


@dataclass(frozen=True)
class Choice:
    """What a recipe begins with; ``why`` is of the preprocessing, empty where nothing but the default was possible.

    ``accuracy`` of the weights with both, on ``accuracy_images`` validation images; ``seconds``: of processor time;
    ``sized_by_model``: whether the model states the side of the images.
    """

    normalisation: Normalisation
    preprocessing: Preprocessing
    why: str
    kind: Kind
    accuracy: float | None = None
    accuracy_images: int = 0
    seconds: float = 0.0
    sized_by_model: bool = False

    @property
    def differs(self) -> bool:
        """Whether a recipe has to say it."""
        return self.preprocessing != Preprocessing.square(self.preprocessing.side)


def choose(
    config: ModelConfig,
    model: Classifier,
    images: ImageFacts,
    size: int,
    classes: int,
    *,
    stored: bool,
    judged: bool = True,
    progress: Progress = SILENT,
) -> Choice:
    """Normalisation and preprocessing of ``model`` for ``images``.

    Args:
        size: side in pixels that images would have without a preprocessing of the model's own.
        classes: logits of the model.
        stored: whether the weights brought a normalisation, which a run then takes.
        judged: whether the weights can be judged on these images: not without labels, nor under a new last layer.
    """
    if config.weights is None:
        return _without_weights(config, images, size)
    stated = stated_by(model.net, config.name)
    if not judged:
        return _unjudged(model, images, size, classes, stated, stored)
    if config.weights == "pretrained":
        return _published(stated, model, images, size, progress)
    return _measured(model, images, size, classes, stated, stored, progress)


def _unjudged(
    model: Classifier, images: ImageFacts, size: int, classes: int, stated: Stated | None, stored: bool
) -> Choice:
    """What the weights or the model state, else the default: nothing can be decided on these images."""
    if stored:
        values = _stored(model)
        normalisation = Normalisation(*values.values[0], values.names[0], "stated")
    elif stated is not None and stated.mean is not None and stated.std is not None:
        normalisation = Normalisation(stated.mean, stated.std, f"that of {stated.by} for its own weights", "guessed")
    else:
        normalisation = Normalisation(*IMAGENET, "ImageNet's, as most weights are trained with it", "guessed")
    preprocessings = _preprocessings(model, images, size, classes, stated)
    if preprocessings.own is None:
        return Choice(normalisation, Preprocessing.square(size), "; ".join(preprocessings.notes), "guessed")
    own = preprocessings.own
    return Choice(normalisation, preprocessings.values[own], preprocessings.names[own], "stated", sized_by_model=True)


def _without_weights(config: ModelConfig, images: ImageFacts, size: int) -> Choice:
    if config.name.startswith(("torchvision:", "timm:")):
        normalisation = Normalisation(*IMAGENET, "ImageNet's, as this family is used everywhere", "guessed")
    else:
        pixels, _ = images.sample(size)
        normalisation = Normalisation(*_own_statistics(pixels), f"statistics of {len(pixels)} images", "guessed")
    return Choice(normalisation, Preprocessing.square(size), "", "guessed")


def statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of (N, 3, H, W) bytes, in [0, 1], three digits."""
    pixels: NDArray[Any] = images.astype(np.float64) / 255
    mean, std = pixels.mean(axis=(0, 2, 3)), pixels.std(axis=(0, 2, 3))
    return tuple(round(float(v), 3) for v in mean), tuple(max(0.05, round(float(v), 3)) for v in std)


def _own_statistics(pixels: NDArray[np.uint8]) -> tuple[Triple, Triple]:
    mean, std = statistics(pixels)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _published(stated: Stated | None, model: Classifier, images: ImageFacts, size: int, progress: Progress) -> Choice:
    """Of weights that come with their transforms: those, without a measurement (their last layer may be new)."""
    assert stated is not None, "only torchvision has pretrained weights here"
    mean, std = (stated.mean, stated.std) if stated.mean is not None and stated.std is not None else IMAGENET
    normalisation = Normalisation(mean, std, f"of {stated.by}: these weights were trained with it", "stated")
    made, why = Preprocessing.square(size), "; ".join(stated.notes)
    if stated.preprocessing is not None and images.arrays is None:
        made, why = stated.preprocessing, f"of {stated.by}"
    unseen = images.unseen
    assert unseen is not None, "only labelled images are judged"
    race = run_race(model, unseen, [(mean, std)], [made], progress=progress)
    accuracy, sized = race.accuracy(Pair(0, 0)), made == stated.preprocessing
    return Choice(normalisation, made, why, "stated", accuracy, len(unseen), race.seconds, sized)


def _measured(
    model: Classifier,
    images: ImageFacts,
    size: int,
    classes: int,
    stated: Stated | None,
    stored: bool,
    progress: Progress,
) -> Choice:
    """Of weights from a file: what is decided on images that they have not learned, as far as there are any."""
    normalisations = _stored(model) if stored else _normalisations(stated, _own_statistics(images.sample(size)[0]))
    preprocessings = _preprocessings(model, images, size, classes, stated)
    unseen = images.unseen
    assert unseen is not None, "only labelled images are judged"
    race = run_race(model, unseen, normalisations.values, preprocessings.values, progress=progress)
    by = decide_normalisation(race, normalisations.own)
    made = decide_preprocessing(race, range(len(preprocessings.values)))
    mean, std = normalisations.values[by.chosen]
    if stored:
        normalisation = Normalisation(mean, std, normalisations.names[0], "stated")
    else:
        why, kind = _why(by, normalisations, unseen.words), by.kind
        if (twin := normalisations.twins.get(by.chosen)) is not None:
            why += f"; {twin}, a grey level from it at most, was not tried"
            kind = "harmless" if kind == "decided" else kind
        normalisation = Normalisation(mean, std, why, kind)
    pair = Pair(by.chosen, made.chosen)
    shown = pair if len(race.logits.get(pair, ())) == len(unseen) else race.best()
    return Choice(
        normalisation,
        preprocessings.values[made.chosen],
        "; ".join(part for part in (_why(made, preprocessings, unseen.words), *preprocessings.notes) if part),
        made.kind,
        race.accuracy(shown),
        len(unseen),
        race.seconds,
        made.chosen == preprocessings.own,
    )


T = TypeVar("T")


@dataclass(frozen=True)
class _Candidates(Generic[T]):
    """What is tried for some ``settings`` of a recipe, with names.

    ``own``: the position of what the model states; ``notes``: what it states that cannot be tried; ``twins``: by
    position, the names of those that count as one with it.
    """

    settings: str
    names: Sequence[str]
    values: Sequence[T]
    own: int | None = None
    notes: tuple[str, ...] = ()
    twins: Mapping[int, str] = field(default_factory=dict)


def _stored(model: Classifier) -> _Candidates[tuple[Triple, Triple]]:
    values = _triple(model.normalize.mean), _triple(model.normalize.std)
    return _Candidates(_NORMALISATION, ["stored in the weights file"], [values])


def _triple(values: torch.Tensor) -> Triple:
    first, second, third = (round(float(value), 6) for value in values.flatten())
    return first, second, third


def _normalisations(stated: Stated | None, measured: tuple[Triple, Triple]) -> _Candidates[tuple[Triple, Triple]]:
    """The model's own, the usual ones, and the statistics of the training images."""
    tried = {values: name for name, values in USUAL.items()}
    own = None
    if stated is not None and stated.mean is not None and stated.std is not None:
        own = (stated.mean, stated.std)
        tried[own] = f"{tried[own]}, of {stated.by}" if own in tried else f"that of {stated.by}"
    tried.setdefault(measured, "statistics of the training images")
    order = list(tried) if own is None else [own, *(values for values in tried if values != own)]
    kept: list[tuple[Triple, Triple]] = []
    twins: dict[tuple[Triple, Triple], list[str]] = {}
    for values in order:
        like = next((other for other in kept if _one_step(values, other)), None)
        if like is None:
            kept.append(values)
        else:
            twins.setdefault(like, []).append(tried[values])
    among = [values for values in tried if values in kept]
    listed = {among.index(like): " and ".join(names) for like, names in twins.items()}
    names = [tried[values] for values in among]
    return _Candidates(_NORMALISATION, names, among, None if own is None else among.index(own), twins=listed)


def _one_step(first: tuple[Triple, Triple], second: tuple[Triple, Triple]) -> bool:
    """Whether two normalisations give every pixel the same value but for one of its 255 steps, at most."""
    for mean, std, other_mean, other_std in zip(*first, *second, strict=True):
        apart = [(value - mean) / std - (value - other_mean) / other_std for value in (0.0, 1.0)]
        if max(map(abs, apart)) * min(std, other_std) > _STEP:
            return False
    return True


def _preprocessings(
    model: Classifier, images: ImageFacts, size: int, classes: int, stated: Stated | None
) -> _Candidates[Preprocessing]:
    """The model's own first, then the default and the usual ones; images that have one size are taken as they are."""
    notes = () if stated is None else stated.notes
    tried: dict[Preprocessing, str] = {}
    own = None if stated is None else stated.preprocessing
    if stated is not None and own is not None:
        try:
            check_classifier(model, own.side, classes)
            tried[own] = f"{own.brief} (of {stated.by})"
        except ModelError:
            notes = (*notes, f"{own.brief} of {stated.by} is not tried: the model does not take {own.side} px")
            own = None
    usual = [Preprocessing.square(size)]
    if images.arrays is None:
        cropped = math.floor(size / _CROPPED)
        usual += [Preprocessing(size, cropped), Preprocessing(size, cropped, "bicubic")]
        usual.append(Preprocessing(size, size, stretch=True))
    for each in usual:
        tried.setdefault(each, each.brief)
    return _Candidates(_PREPROCESSING, list(tried.values()), list(tried), None if own is None else 0, notes)


def _why(verdict: Decision, candidates: _Candidates[Any], images: str) -> str:
    """Why this was chosen, in a sentence for the recipe."""
    names = candidates.names
    chosen, others = names[verdict.chosen], " and ".join(names[number] for number in verdict.alike)
    if len(names) == 1:
        return ""
    if verdict.blind:
        return (
            f"{chosen}, unproven: on {images} the weights recognise nothing with any of {len(names)} that were tried; "
            f"set {candidates.settings} to what they were trained with"
        )
    if verdict.kind == "undecided":
        why = f"{chosen} is the most plausible, but on {images} {others} cannot be ruled out: set {candidates.settings}"
        why += " to what the weights were trained with"
    elif verdict.kind == "harmless":
        why = f"{chosen}; {others} cannot be told apart from it by cross entropy on {images}"
    else:
        why = f"{chosen}, decided by cross entropy on {images}"
    if (second := verdict.runner_up) is not None:
        why += f"; next: {names[second]}, {_worse(verdict.worse[second])}"
    own = candidates.own
    if own is not None and own not in (verdict.chosen, second, *verdict.alike):
        why += f"; {names[own]}: {_worse(verdict.worse[own])}"
    return why


def _worse(difference: Difference) -> str:
    return f"{difference.mean:.3f} nats worse (± {APART * difference.error:.3f})"
