"""Layers that changed between two models, and which of them were changed themselves."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from slimsight.export.costs.layers import LayerCost

Kind = Literal["added", "removed", "grown", "shrunk", "changed"]


@dataclass(frozen=True)
class LayerChange:
    """A layer that differs between two models. ``growth`` in MACs; ``own``: the part that its own settings caused.

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
        """The settings that changed: ``16 -> 18 output channels``."""
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


def relative_growth(before: int, after: int) -> float | None:
    """Growth relative to ``before``: 0.02 for 2 % more; None of what grew from 0."""
    if after == before:
        return 0.0
    return after / before - 1 if before else None


def find_changes(before: Sequence[LayerCost], after: Sequence[LayerCost]) -> tuple[LayerChange, ...]:
    """Every layer that changed, matched by name (see ``_renamed``).

    Those that grew by themselves come first, the largest growth of all at the top; then those that grew with what
    they read; then those that shrank.
    """
    new = {layer.name: layer for layer in after}
    old = {layer.name: layer for layer in _renamed(before, new)}
    changes = [
        LayerChange(name, old.get(name), new.get(name), _own_growth(old.get(name), new.get(name)))
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    return tuple(sorted(changes, key=lambda change: (-max(change.own, 0), -change.growth)))


def _renamed(before: Sequence[LayerCost], new: Collection[str]) -> Sequence[LayerCost]:
    """Layers of the first model under the second's names, where only an outer module of one of them differs.

    A run keeps a classifier in a wrapper that normalises (``net.conv1``); what a factory returns has none (``conv1``).
    """
    old = [layer.name for layer in before]
    if any(name in new for name in old):
        return before
    if (outer := _outer_module(old)) and any(name.removeprefix(outer) in new for name in old):
        return [replace(layer, name=layer.name.removeprefix(outer)) for layer in before]
    if (outer := _outer_module(new)) and any(outer + name in new for name in old):
        return [replace(layer, name=outer + layer.name) for layer in before]
    return before


def _outer_module(names: Collection[str]) -> str:
    """The module that contains all layers, with its dot; empty where there is none."""
    outer = {name.partition(".")[0] for name in names if "." in name}
    return f"{outer.pop()}." if len(outer) == 1 and all("." in name for name in names) else ""


def _macs(layer: LayerCost | None) -> int:
    return 0 if layer is None else layer.macs


def _own_growth(old: LayerCost | None, new: LayerCost | None) -> int:
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
