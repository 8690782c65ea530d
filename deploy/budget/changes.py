"""What changed between two models, layer by layer, and in which layers it was changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from export.costs import LayerCost

Kind = Literal["added", "removed", "grown", "shrunk", "changed"]


@dataclass(frozen=True)
class LayerChange:
    """A layer that is not what it was. ``growth`` in MACs; ``own``: the part that its own settings caused.

    The rest follows from what it reads: of two convolutions in a row, the first of which became wider, both grow, and
    ``own`` of the second is 0.
    """

    name: str
    before: LayerCost | None
    after: LayerCost | None
    own: int

    @property
    def growth(self) -> int:
        return _macs(self.after) - _macs(self.before)

    @property
    def kind(self) -> Kind:
        if self.before is None or self.after is None:
            return "added" if self.before is None else "removed"
        return "grown" if self.growth > 0 else "shrunk" if self.growth < 0 else "changed"

    @property
    def why(self) -> str:
        """What of it changed: ``16 -> 18 output channels``."""
        old, new = self.before, self.after
        if old is None or new is None:
            return "new" if old is None else "gone"
        parts = []
        if old.outputs != new.outputs:
            follows = ", as its input" if _is_depthwise(old) and _is_depthwise(new) and self.own == 0 else ""
            parts.append(f"{old.outputs} -> {new.outputs} output channels{follows}")
        if old.kernel != new.kernel:
            parts.append(f"kernel of {old.kernel} -> {new.kernel}")
        if old.groups != new.groups and not (_is_depthwise(old) and _is_depthwise(new)):
            parts.append(f"{old.groups} -> {new.groups} groups")
        if old.reads != new.reads:
            parts.append(f"reads {old.reads:,} -> {new.reads:,} pixels")
        elif old.positions != new.positions:
            parts.append(f"gives {old.positions:,} -> {new.positions:,} pixels")
        if old.inputs != new.inputs and not (_is_depthwise(old) and _is_depthwise(new)):
            parts.append(f"reads {old.inputs} -> {new.inputs} channels")
        return ", ".join(parts)


def find_changes(before: Sequence[LayerCost], after: Sequence[LayerCost]) -> tuple[LayerChange, ...]:
    """Every layer that changed, matched by name.

    Those that grew by themselves come first, the largest growth of all at the top; then those that grew with what
    they read; then those that shrank.
    """
    old, new = {layer.name: layer for layer in before}, {layer.name: layer for layer in after}
    found = [
        LayerChange(name, old.get(name), new.get(name), _own(old.get(name), new.get(name)))
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    return tuple(sorted(found, key=lambda change: (-max(change.own, 0), -change.growth)))


def _macs(layer: LayerCost | None) -> int:
    return 0 if layer is None else layer.macs


def _own(old: LayerCost | None, new: LayerCost | None) -> int:
    """MACs that a layer would have gained had its input stayed as it was."""
    if old is None or new is None:
        return _macs(new) - _macs(old)
    positions = new.positions * old.reads / new.reads
    if _is_depthwise(old) and _is_depthwise(new):  # it has as many channels as its input: only the ratio is its own
        weights = old.inputs * (new.outputs / new.inputs)
    else:
        weights = new.outputs * old.inputs / new.groups
    return round(weights * new.kernel * positions) - old.macs


def _is_depthwise(layer: LayerCost) -> bool:
    return layer.groups == layer.inputs > 1
