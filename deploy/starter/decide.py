"""Decides between candidate preprocessings by paired differences of cross entropy, or says that nothing can be decided.

The rule: a candidate is told apart from the best where its mean cross entropy is higher by more than ``APART`` standard
errors of the paired differences. It is harmless where it cannot be higher by more than ``HARMLESS`` nats, counting as
many standard errors. A normalisation is decided if all others are told apart or harmless, else undecided. Of
preprocessings that cannot be told apart from the best, the preferred one is taken; it is undecided where it could still
cost more than ``COSTLY`` nats, because there are few images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from .race import Difference, Pair, Race

APART: Final = 2.0
HARMLESS: Final = 0.01
COSTLY: Final = 0.1
"""Nats: a quarter of a point of accuracy, and two or three points."""


@dataclass(frozen=True)
class Decision:
    """A choice between candidates, by their positions.

    ``kind``: ``decided``, all others being worse; ``harmless``: ``alike`` are as good, as far as the images say;
    ``undecided``: ``alike`` may be better. ``worse``: how much worse than the best each other candidate is. ``blind``:
    the weights recognise nothing with any of them.
    """

    chosen: int
    kind: Literal["decided", "harmless", "undecided"]
    alike: tuple[int, ...]
    worse: Mapping[int, Difference]
    blind: bool = False

    @property
    def runner_up(self) -> int | None:
        """The next best of those that are worse; None: none is."""
        others = {n: d.mean for n, d in self.worse.items() if n not in (self.chosen, *self.alike)}
        return min(others, key=others.__getitem__) if others else None


def told_apart(difference: Difference) -> bool:
    """Whether a candidate is worse than the best beyond ``APART`` standard errors."""
    return difference.mean > APART * difference.error


def at_most(difference: Difference) -> float:
    """The most, in nats, that a candidate may be worse than the best, counting ``APART`` standard errors."""
    return difference.mean + APART * difference.error


def recognises(race: Race, pair: Pair) -> bool:
    """Whether the model does better with ``pair`` than by always answering with the shares of the classes."""
    losses, labels = race.losses(pair), race.labels.numpy()
    shares = np.bincount(labels) / len(labels)
    blind = -float(np.log(shares[labels]).mean())
    error = float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf
    return bool(np.isfinite(losses).all()) and float(losses.mean()) + APART * error < blind


def decide_normalisation(race: Race, stated: int | None) -> Decision:
    """The normalisation, of candidates that come in the order of how usual they are; ``stated``: what the model names.

    Each counts with the preprocessing that suits it best.
    """
    winner = race.best()
    best = winner.normalisation
    others = sorted({pair.normalisation for pair in race.logits} - {best})
    worse = {number: race.compare(_profile(race, number), winner) for number in others}
    if not recognises(race, winner):
        plausible = best if stated is None else stated
        return Decision(plausible, "undecided", _without(plausible, (best, *others)), worse, blind=True)
    alike = [number for number in others if at_most(worse[number]) <= HARMLESS]
    rivals = [number for number in others if number not in alike and not told_apart(worse[number])]
    if stated is not None and stated in (best, *alike, *rivals):
        chosen = stated
    else:  # the most usual of those that are as good, or as plausible: within one standard error
        chosen = min((best, *alike, *(number for number in rivals if worse[number].mean <= worse[number].error)))
    left = _without(chosen, (best, *rivals, *alike))
    return Decision(chosen, "undecided" if rivals else "harmless" if left else "decided", left, worse)


def decide_preprocessing(race: Race, preference: Sequence[int]) -> Decision:
    """The preprocessing, under the best normalisation; ``preference``: what to take where they cannot be told apart."""
    winner = race.best()
    best = winner.preprocessing
    pairs = [pair for pair in race.logits if pair.normalisation == winner.normalisation and pair != winner]
    worse = {pair.preprocessing: race.compare(pair, winner) for pair in pairs}
    if not recognises(race, winner):
        return Decision(preference[0], "undecided", tuple(preference[1:]), worse, blind=True)
    alike = [best, *(n for n, found in worse.items() if not told_apart(found) or at_most(found) <= HARMLESS)]
    chosen = min(alike, key=preference.index)
    left = _without(chosen, alike)
    costly = chosen != best and at_most(worse[chosen]) > COSTLY
    return Decision(chosen, "undecided" if costly else "harmless" if left else "decided", left, worse)


def _profile(race: Race, normalisation: int) -> Pair:
    """The pair of ``normalisation`` that is best, among those that have seen most images."""
    return race.best([pair for pair in race.logits if pair.normalisation == normalisation])


def _without(chosen: int, numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(number for number in numbers if number != chosen)
