"""Widths of all groups during the search for a plan, with their cost updated incrementally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..surgery import PrunePlan
from .cost import CostModel, Floats

Align = int | Mapping[str, int]
"""Multiple of the kept channels; for all groups, or by group."""

_ROUNDING = 1e-12
"""Relative tolerance of limits: far below one unit, for sums of whole numbers in float64."""


def multiple_of(align: Align, name: str) -> int:
    """The multiple of group ``name``; 1 if ``align`` does not name it."""
    return align if isinstance(align, int) else align.get(name, 1)


def allowed_widths(channels: int, multiple: int, per_channel: int = 1) -> NDArray[np.int64]:
    """Numbers of channels that a group may keep, ascending: multiples, and all channels.

    A group that is narrower than two multiples takes half the multiple, and so on: it could not shrink otherwise.
    ``per_channel``: see ``TouchedLayers``.
    """
    step = max(1, multiple // int(np.gcd(multiple, per_channel)))
    while step > 1 and channels < 2 * step:
        step //= 2
    kept = np.arange(step, channels + 1, step)
    return kept if kept[-1] == channels else np.append(kept, channels)


class Widths:
    """State of the search: a group at choice ``k`` keeps its ``allowed[group][k]`` channels of highest score."""

    def __init__(
        self, cost: CostModel, scores: Mapping[str, Tensor], limits: Mapping[str, float], align: Align = 1
    ) -> None:
        self.cost = cost
        self.limits = np.array(list(limits.values()), dtype=np.float64)
        self._resources = [cost.resources[name] for name in limits]
        self.ranked: list[NDArray[np.int64]] = []
        """Channels of each group by descending score; of equal ones the last first: the first is removed first."""
        self.allowed: list[NDArray[np.int64]] = []
        self._into: list[Floats] = []
        self._out: list[Floats] = []
        for name, touched, width in zip(cost.names, cost.touched, cost.widths, strict=True):
            best = np.argsort(scores[name].double().numpy(), kind="stable")[::-1]
            kept = allowed_widths(width, multiple_of(align, name), touched.per_channel)
            self.ranked.append(best)
            self.allowed.append(kept)
            self._into.append(np.cumsum(touched.into[:, best], axis=1)[:, kept - 1])
            self._out.append(np.cumsum(touched.out[:, best], axis=1)[:, kept - 1])
        self.inputs, self.outputs = cost.full_width()
        self.choice = [len(kept) - 1 for kept in self.allowed]
        self.used = self._count()

    def _count(self) -> Floats:
        rows = np.arange(len(self.inputs))
        return np.array(
            [r.constant + r.of(rows, self.inputs[:, None], self.outputs[:, None]).sum() for r in self._resources]
        )

    def fits(self) -> bool:
        """Whether every limit is met."""
        return bool((self.used <= self.limits * (1 + _ROUNDING)).all())

    @property
    def tightest(self) -> float:
        """The largest share of its limit that a resource uses."""
        return float((self.used / self.limits).max())

    def trial(self, group: int, choices: Sequence[int] | NDArray[np.int64]) -> Floats:
        """(resources, choices) use of the resources with ``group`` at each of the choices."""
        picked = np.asarray(choices)
        rows, now = self.cost.touched[group].rows, self.choice[group]
        into, out = self._into[group], self._out[group]
        inputs = self.inputs[rows, None] + (into[:, picked] - into[:, now, None])
        outputs = self.outputs[rows, None] + (out[:, picked] - out[:, now, None])
        old_in, old_out = self.inputs[rows, None], self.outputs[rows, None]
        return np.stack(
            [
                used + resource.of(rows, inputs, outputs).sum(0) - resource.of(rows, old_in, old_out).sum()
                for used, resource in zip(self.used, self._resources, strict=True)
            ]
        )

    def within(self, used: Floats) -> NDArray[np.bool_]:
        """(choices,) whether a column of a ``trial`` meets every limit."""
        return np.asarray((used <= self.limits[:, None] * (1 + _ROUNDING)).all(axis=0))

    def set(self, group: int, choice: int) -> None:
        """Set one group to a choice."""
        if choice == self.choice[group]:
            return
        self.used = self.trial(group, [choice])[:, 0]
        rows, now = self.cost.touched[group].rows, self.choice[group]
        self.inputs[rows] += self._into[group][:, choice] - self._into[group][:, now]
        self.outputs[rows] += self._out[group][:, choice] - self._out[group][:, now]
        self.choice[group] = choice

    def set_all(self, choices: Sequence[int] | NDArray[np.int64]) -> None:
        """Set every group to its choice and recompute the use, so that rounding does not accumulate."""
        for group, choice in enumerate(choices):
            rows, now = self.cost.touched[group].rows, self.choice[group]
            self.inputs[rows] += self._into[group][:, choice] - self._into[group][:, now]
            self.outputs[rows] += self._out[group][:, choice] - self._out[group][:, now]
            self.choice[group] = int(choice)
        self.used = self._count()

    def plan(self) -> PrunePlan:
        """The channels that every group keeps."""
        kept = {}
        for name, best, allowed, choice in zip(self.cost.names, self.ranked, self.allowed, self.choice, strict=True):
            kept[name] = tuple(sorted(best[: allowed[choice]].tolist()))
        return PrunePlan(kept, dict(zip(self.cost.names, self.cost.widths, strict=True)))
