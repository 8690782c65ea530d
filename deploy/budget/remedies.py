"""What to change when a slim model lost too much accuracy, from facts of its run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ..report.units import as_percent, as_points, plural

FEW_EPOCHS: Final = 5
FEW_STEPS: Final = 1500
MANY_EPOCHS: Final = 30
"""Finetuning is short below 5 epochs, and below 1,500 steps unless it has 30 epochs: what ``init`` plans at least."""

FEW_GATE_STEPS: Final = 300
"""Fewer steps than any recipe here learns gates with."""

SMALL_SHARE: Final = 0.25
"""MACs kept below which the budget itself is the first suspect."""

_HARMED: Final = 0.01
_NOT_LEARNED: Final = {
    "magnitude": "weight magnitude",
    "uniform": "the same share in every group",
    "random": "chance",
}


@dataclass(frozen=True)
class SlimmingFacts:
    """How a slim model was made.

    ``limits``: keys of the recipe's budget; ``kept``: share of the MACs; ``recalibrated``: validation accuracy (or
    agreement) after batch normalisation was recalibrated and before finetuning; ``gate_steps`` and ``converged``: of
    learned gates; ``taken_back``: finetuning made it worse, so that the model before it was kept.
    """

    kept: float
    limits: tuple[str, ...]
    epochs: int
    steps: int
    lr: float
    recalibrated: float | None = None
    distill: float = 0.0
    steer: str = "none"
    gate_steps: int | None = None
    converged: bool | None = None
    taken_back: bool = False


def remedies(made: SlimmingFacts, slim: float | None) -> list[str]:
    """What to change, the likeliest cause first; never empty.

    Args:
        slim: the slim model's validation accuracy, or its agreement where there are no labels.
    """
    found = [*_of_gates(made), *_of_finetuning(made, slim)]
    budget = " or ".join(f"budget.{name}" for name in made.limits)
    share = f"{as_percent(made.kept, 1)} of the MACs are kept"
    if made.kept < SMALL_SHARE:
        found.append(f"only {share}: raise {budget}")
    elif found:
        found.append(f"or raise {budget} ({share})")
    else:
        longer = f"finetune longer (finetune.epochs, now {made.epochs})"
        distilled = "" if made.distill else ", learn from the original (finetune.distill)"
        found.append(f"raise {budget} ({share}), {longer}{distilled}")
    return found


def _of_gates(made: SlimmingFacts) -> list[str]:
    if made.converged is False:
        return [f"the gates did not converge: raise gates.steps (now {made.gate_steps})"]
    if made.steer in _NOT_LEARNED:
        return [f"channels were ranked by {_NOT_LEARNED[made.steer]}: learn gates instead (gates.steer: none)"]
    if made.gate_steps is not None and made.gate_steps < FEW_GATE_STEPS:
        return [f"the gates learned for {plural(made.gate_steps, 'step')} only: raise gates.steps"]
    return []


def _of_finetuning(made: SlimmingFacts, slim: float | None) -> list[str]:
    if made.taken_back:
        return [f"finetuning agreed less and was taken back: lower finetune.lr (now {made.lr:g})"]
    if made.epochs == 0:
        return ["the slim model was not finetuned: set finetune.epochs above 0"]
    harm = 0.0 if made.recalibrated is None or slim is None or not math.isfinite(slim) else made.recalibrated - slim
    if harm > _HARMED:
        return [
            f"finetuning lost {as_points(harm)} of the {as_percent(made.recalibrated or 0.0)} that it began with: "
            f"lower finetune.lr (now {made.lr:g})"
        ]
    if made.epochs < FEW_EPOCHS or (made.steps < FEW_STEPS and made.epochs < MANY_EPOCHS):
        length = f"{plural(made.epochs, 'epoch')} ({plural(made.steps, 'step')})"
        return [f"finetuning had only {length}: raise finetune.epochs"]
    return []
