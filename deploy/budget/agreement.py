"""A run's own check of agreement with the original, in place of accuracy where images have no labels."""

from __future__ import annotations

from dataclasses import dataclass

from ..report.parts import AgreementFigures
from ..report.schema import Check
from ..report.units import as_percent, as_percent_1, plural
from .remedies import SlimmingFacts, remedies
from .verdict import check_figure

AGREEMENT = "agreement with the original"


@dataclass(frozen=True)
class AgreementFacts:
    """What agreement is judged by. ``least``: ``checks.agreement``; ``made``: how the slim model was made."""

    found: AgreementFigures
    least: float
    made: SlimmingFacts


def agreement_check(facts: AgreementFacts) -> Check:
    """Whether slim model and original predict the same class on enough validation images.

    No rule on chance: a limit on agreement is itself above what chance reaches.
    """
    found = facts.found
    check = check_figure(AGREEMENT, facts.least, found.top1, "images", bound="min")
    if check.passed:
        return check
    interval = "" if found.low is None or found.high is None else f", 95 % interval {_range(found.low, found.high)}"
    by_chance = "" if found.chance is None else f"; by chance {as_percent(found.chance)}"
    reason = f"{as_percent(found.top1)} of {plural(found.images, 'validation image')}{interval}{by_chance}"
    to_do = [*remedies(facts.made, found.top1), "more images to learn from help most"]
    return check.model_copy(update={"reason": reason, "remedy": "; ".join(to_do)})


def _range(low: float, high: float) -> str:
    return f"{as_percent_1(low)} to {as_percent_1(high)}"
