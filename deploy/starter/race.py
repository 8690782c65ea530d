"""Cross entropies of a trained model under candidate normalisations and preprocessings, image by image.

Candidates that are worse than the best beyond doubt are dropped early. After some images, of normalisation and
preprocessing at least one has to be among the leading; what is left sees every image.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slimsight.compress.data import Preprocessing
from slimsight.compress.models import Classifier
from slimsight.compress.models.fold import to_fast
from slimsight.compress.progress import SILENT, Progress

from .unseen import UnseenImages

Triple = tuple[float, float, float]
Losses = NDArray[np.float64]

_ROUNDS: Final = (8, 16, 32, 64, 128)
"""Images after which candidates are dropped; the last round goes over the rest."""
_DROPPED: Final = ((64, 3.0), (16, 4.0), (0, 7.0))
"""Images, and the standard errors by which a candidate must be worse to be dropped from then on, before all images are
seen: of a few images their own estimate is loose."""
_CROSS_FROM: Final = 32
_LEADERS: Final = 2
"""Images from which only pairs go on that have one of the leading normalisations, or the best preprocessing so far: the
two hardly depend on each other, and each candidate is still compared beside the best of the other kind."""
_BATCH: Final = 8
"""Images of a forward pass: of 224 pixels, more take three times the processor time, for pages of new memory."""
_SURE: Final = 3.0
_COARSE: Final = np.linspace(0, 6, 7)
_FINE: Final = np.linspace(-0.75, 0.75, 7)


class Pair(NamedTuple):
    """A candidate: positions of its normalisation and of its preprocessing."""

    normalisation: int
    preprocessing: int


@dataclass(frozen=True)
class Difference:
    """Mean over ``images`` of how much more cross entropy one candidate has than another, in nats; its standard error.

    The images are the same, so that what makes some of them hard for both cancels out.
    """

    mean: float
    error: float
    images: int

    @classmethod
    def of(cls, losses: Losses, others: Losses) -> Difference:
        """Of the images that both have seen, of which the first are the same."""
        count = min(len(losses), len(others))
        if not (np.isfinite(losses).all() and np.isfinite(others).all()):
            return cls(float("nan") if not np.isfinite(others).all() else float("inf"), 0.0, count)
        each = losses[:count] - others[:count]
        error = each.std(ddof=1) / np.sqrt(count) if count > 1 else np.inf
        return cls(float(each.mean()), float(error), count)


@dataclass
class Race:
    """What has been measured: the logits (n, classes) of each pair, of the first n images; labels of all.

    ``seconds``: of processor time, as one thread would need.
    """

    labels: Tensor
    logits: dict[Pair, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    _losses: dict[tuple[Pair, int], Losses] = field(default_factory=dict, repr=False)

    def add(self, pair: Pair, logits: Tensor) -> None:
        known = self.logits.get(pair)
        self.logits[pair] = logits if known is None else torch.cat([known, logits])

    def losses(self, pair: Pair, count: int | None = None) -> Losses:
        """Cross entropies of the first ``count`` images; None: of all that it has seen."""
        logits = self.logits[pair][:count]
        key = pair, len(logits)
        if key not in self._losses:
            self._losses[key] = cross_entropies(logits, self.labels[: len(logits)])
        return self._losses[key]

    def compare(self, pair: Pair, other: Pair) -> Difference:
        """How much worse ``pair`` is than ``other``."""
        count = min(len(self.logits[pair]), len(self.logits[other]))
        return Difference.of(self.losses(pair, count), self.losses(other, count))

    def best(self, pairs: Sequence[Pair] | None = None) -> Pair:
        """The pair of least cross entropy among those that have seen most images."""
        among = list(self.logits) if pairs is None else list(pairs)
        most = max(len(self.logits[pair]) for pair in among)
        return min(
            (pair for pair in among if len(self.logits[pair]) == most), key=lambda pair: self.losses(pair).mean()
        )

    def accuracy(self, pair: Pair) -> float:
        """Share of the images that it has seen that it gets right."""
        logits = self.logits[pair]
        return float((logits.argmax(1) == self.labels[: len(logits)]).double().mean())


def cross_entropies(logits: Tensor, labels: Tensor) -> Losses:
    """Cross entropy (n,) of logits (n, classes), comparable between normalisations that scale logits differently.

    Less contrast makes a network less sure, and that alone changes cross entropy: it helps where the network was too
    sure, or not sure enough (Guo et al. 2017, On Calibration of Modern Neural Networks). So logits are centred and
    brought to one scale, that of answers with a lead of ``_SURE`` nats over ln(classes); then they are divided by the
    temperature, of 1 or more, for which the mean is least. A temperature below 1 would make all alike where every image
    is recognised.
    """
    if not logits.isfinite().all():
        return np.full(len(logits), np.inf)
    classes = logits.shape[1]
    centred = logits.double() - logits.double().mean(1, keepdim=True)
    lead = math.log(classes) + _SURE
    scale = lead * math.sqrt((classes - 1) / classes**2) / centred.square().mean().sqrt().clamp_min(1e-12)
    scaled: dict[float, Tensor] = {}

    def least(exponents: NDArray[np.float64]) -> float:
        for exponent in exponents[exponents >= 0]:
            scaled.setdefault(float(exponent), _cross_entropy(centred * scale / 2.0**exponent, labels))
        return min(scaled, key=lambda exponent: float(scaled[exponent].mean()))

    return scaled[least(least(_COARSE) + _FINE)].numpy()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def run_race(
    model: Classifier,
    images: UnseenImages,
    normalisations: Sequence[tuple[Triple, Triple]],
    preprocessings: Sequence[Preprocessing],
    *,
    progress: Progress = SILENT,
) -> Race:
    """Measure ``model`` on ``images`` under each normalisation (mean, std) and preprocessing; it is not changed."""
    race = Race(torch.from_numpy(images.labels))
    started = time.process_time()
    stops = [*(stop for stop in _ROUNDS if stop < len(images)), len(images)]
    alive = [Pair(*at) for at in itertools.product(range(len(normalisations)), range(len(preprocessings)))]
    fast = to_fast(model, torch.from_numpy(images.read(0, 1, [preprocessings[0]])[0]).float() / 255)
    first = 0
    with torch.inference_mode():
        for stop in progress.track(stops, "decide the preprocessing", total=len(stops), unit="rounds"):
            used = sorted({pair.preprocessing for pair in alive})
            pixels = dict(zip(used, images.read(first, stop, [preprocessings[at] for at in used]), strict=True))
            _measure(race, fast, pixels, normalisations, alive)
            alive = _without_losers(race, alive)
            first = stop
    race.seconds = time.process_time() - started
    return race


def _measure(
    race: Race,
    model: Classifier,
    pixels: dict[int, NDArray[np.uint8]],
    normalisations: Sequence[tuple[Triple, Triple]],
    pairs: Sequence[Pair],
) -> None:
    for pair in pairs:
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in normalisations[pair.normalisation])
        batches = torch.split(torch.from_numpy(pixels[pair.preprocessing]), _BATCH)
        race.add(pair, torch.cat([model.net(_normalised(batch, mean, std)) for batch in batches]))


def _normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def _without_losers(race: Race, alive: Sequence[Pair]) -> list[Pair]:
    """Those that are not worse than the best by many standard errors, of enough images."""
    best = race.best(alive)
    open_still = [pair for pair in alive if pair == best or _is_open(race.compare(pair, best))]
    if len(race.logits[best]) < _CROSS_FROM:
        return open_still
    by_loss = sorted(open_still, key=lambda pair: race.losses(pair).mean())
    leading = list(dict.fromkeys(pair.normalisation for pair in by_loss))[:_LEADERS]
    return [p for p in open_still if p.normalisation in leading or p.preprocessing == best.preprocessing]


def _is_open(difference: Difference) -> bool:
    if difference.images < _ROUNDS[0]:
        return True
    errors = next(errors for images, errors in _DROPPED if difference.images >= images)
    return not difference.mean > errors * difference.error
