"""How many steps gates need to come to a budget: from the rule by which the weight of R_res grows."""

from __future__ import annotations

import math

from ..config import GatesConfig
from .gate import GUMBEL_MEDIAN, OFFSET

PULL = 34.0
"""Nats per unit of log cost by which cross entropy and steering hold channels open at half of the MACs.

It is the weight of R_res with which gates came to the budget. Measured: 7 for five convolutions on digits (steered, 30
steps), 22 for ResNet-20 on CIFAR-10 (60 steps), 33 for a user's small network at 39 % (400 steps)."""

_SETTLED = 0.8
"""Share of the steps after which the weight must have come to the pull: in the rest gates still move by 3.2, about what
an open gate needs to close."""

_MARGIN = 2.0
"""The weight grows most where gates do not move at all; they do, so that twice the steps are asked for."""

FEWEST = 20
"""The fewest steps that a recipe may ask for."""


def steps_needed(config: GatesConfig, share: float) -> int:
    """About how many steps bring gates to a budget of ``share`` of the MACs.

    The weight of R_res starts at ``cost_weight`` and grows by ``cost_weight`` x R_res in every step (dual ascent), at
    whatever number of steps; it must come to the pull of the other terms, which grows with the cut: ``PULL`` at half.
    Where the learning rate is given, gates must also be able to move as far as an open gate is from closed.

    Args:
        share: above 0 and below 1.

    Returns:
        A multiple of 10, at least ``FEWEST``.
    """
    cut = math.log(1 / share)
    # Mean R_res per step, were all gates to stay open while the target falls linearly over ``shrink`` of the steps.
    falling = (share * (math.log(share) - 1) + 1) / (1 - share)
    residual = min(config.shrink, _SETTLED) * falling + max(0.0, _SETTLED - config.shrink) * cut
    growth = PULL * cut / math.log(2) / config.cost_weight - 1
    needed = _MARGIN * max(0.0, growth) / residual
    if config.lr is not None:
        needed = max(needed, _MARGIN * (OFFSET + GUMBEL_MEDIAN) / config.lr)
    return max(FEWEST, 10 * math.ceil(needed / 10))
