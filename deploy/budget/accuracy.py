"""A run's own checks of accuracy: the drop against the original, and chance level; with what to change if they fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..report.schema import Check
from ..report.shares import wilson
from ..report.units import as_percent, as_points, plural
from .remedies import SlimmingFacts, remedies
from .verdict import check_figure

DROP = "validation accuracy drop"
CHANCE = "validation accuracy above chance, low end"
_NOT_KNOWN = "the accuracy was not measured, or is not a number"


def accuracy_drop(original: float | None, slim: float | None) -> float | None:
    """Accuracy lost against the original, negative where the slim model is better; None: one is not known.

    Accuracies are multiples of 1/images: rounding to 1e-10 removes what .90 - .89 has too much in floats.
    """
    if original is None or slim is None or not (math.isfinite(original) and math.isfinite(slim)):
        return None
    return round(original - slim, 10)


@dataclass(frozen=True)
class AccuracyFacts:
    """Validation accuracies of a run, 0..1 over ``images``, and what they are judged by.

    ``majority``: share of the most frequent class; ``drop_max``: ``checks.accuracy_drop``; ``made``: how the slim
    model was made, from which failed checks say what to change.
    """

    original: float | None
    slim: float | None
    images: int
    classes: int
    majority: float
    drop_max: float
    made: SlimmingFacts

    @property
    def chance(self) -> float:
        """What a model scores that has not seen the image: the most frequent class, or any of the classes."""
        return max(self.majority, 1 / self.classes)

    def low_end(self, accuracy: float | None) -> float | None:
        """Low end of the 95 % interval of ``accuracy``; None if it is not known."""
        known = accuracy is not None and math.isfinite(accuracy) and self.images > 0
        return wilson(accuracy, self.images)[0] if known and accuracy is not None else None


def accuracy_checks(facts: AccuracyFacts) -> Iterator[Check]:
    """The drop within its limit, and the slim model better than chance whatever the limit.

    A missing accuracy, or one that is not a number, fails both.
    """
    lost = accuracy_drop(facts.original, facts.slim)
    drop = check_figure(DROP, facts.drop_max, lost, "points", reason=_NOT_KNOWN if lost is None else None)
    low = facts.low_end(facts.slim)
    # Strictly above chance: the low end at chance level cannot be told from it.
    better = low is not None and low > facts.chance
    chance = check_figure(
        CHANCE, facts.chance, low, "accuracy", bound="min", reason=_NOT_KNOWN if low is None else None
    )
    if low is not None and not better:
        chance = chance.model_copy(update={"passed": False, "reason": _chance_reason(facts)})
    if lost is not None and not drop.passed:
        drop = drop.model_copy(update={"reason": _drop_reason(facts)})
    to_do = _remedy(facts)
    yield from (check if check.passed else check.model_copy(update={"remedy": to_do}) for check in (drop, chance))


def _drop_reason(facts: AccuracyFacts) -> str:
    assert facts.original is not None
    assert facts.slim is not None
    return f"{as_percent(facts.original)} of the original, {as_percent(facts.slim)} of the slim model"


def _chance_reason(facts: AccuracyFacts) -> str:
    assert facts.slim is not None
    by_majority = facts.majority >= 1 / facts.classes
    guess = "always the most frequent class" if by_majority else f"one of {facts.classes} classes"
    return (
        f"{as_percent(facts.slim)} of {plural(facts.images, 'validation image')}: no better than {guess}, which is "
        f"right for {as_percent(facts.chance)}"
    )


def _remedy(facts: AccuracyFacts) -> str:
    """What to change; of an original that is itself no better than chance, only that."""
    low = facts.low_end(facts.original)
    if low is None or facts.original is None:
        return "measure the accuracy of the original first: are its weights and the validation images right?"
    if low <= facts.chance:
        return (
            f"the original is no better than chance itself ({as_percent(facts.original)}): train it longer "
            "(model.train.epochs) or check its weights, the order of the classes and the normalisation (model.mean, "
            "model.std) before it is slimmed"
        )
    lost = accuracy_drop(facts.original, facts.slim)
    allow = []
    if lost is not None and facts.drop_max < lost < 2 * facts.drop_max:
        allow = [f"or allow the drop of {as_points(lost)} (checks.accuracy_drop)"]
    return "; ".join([*remedies(facts.made, facts.slim), *allow])
