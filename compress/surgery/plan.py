"""A PrunePlan is data: which channels each group keeps. Original weights + plan = slim model."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PruningError
from ..files.atomic import read_json, write_json
from ..files.untrusted import printable

if TYPE_CHECKING:
    from .groups import ChannelGraph

SCHEMA = 1


@dataclass(frozen=True)
class PrunePlan:
    """Kept channel indices (sorted) and the original width of every group that may shrink.

    A group is named after a layer that produces exactly its channels. Where grouped convolutions tie channels, the
    group is narrower than the layer: channel u of a group of width w is every channel c of the layer with c mod w = u.
    """

    kept: Mapping[str, tuple[int, ...]]
    widths: Mapping[str, int]

    def __post_init__(self) -> None:
        if set(self.kept) != set(self.widths):
            raise PruningError("a plan needs the original width of exactly the groups it keeps channels of")
        for name, kept in self.kept.items():
            width, shown = self.widths[name], printable(name)
            if not kept:
                raise PruningError(f"the plan leaves group '{shown}' without channels; keep at least one of {width}")
            if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= width:
                raise PruningError(
                    f"the plan's channels of group '{shown}' must be sorted, unique and below {width}, "
                    f"not {reprlib.repr(kept)}"
                )

    def removed(self, name: str) -> list[int]:
        """The removed channels of a group, sorted."""
        kept = set(self.kept[name])
        return [channel for channel in range(self.widths[name]) if channel not in kept]

    @property
    def shrinks(self) -> bool:
        """Whether any channel is removed."""
        return any(len(self.kept[name]) < self.widths[name] for name in self.kept)

    def check_fits(self, graph: ChannelGraph) -> None:
        """Raise PruningError unless every group of the plan is in ``graph`` with the same width."""
        widths = {group.name: group.channels for group in graph.groups}
        for name, width in self.widths.items():
            if widths.get(name) != width:
                found = f"{widths[name]} channels" if name in widths else "no such group"
                raise PruningError(
                    f"the plan's group '{printable(name)}' has {width} channels, the model has {found}: "
                    "use the plan with the model it was made for"
                )

    def to_dict(self) -> dict[str, Any]:
        """JSON form: ``{"schema": 1, "groups": {name: {"width": int, "kept": [int]}}}``."""
        groups = {name: {"width": self.widths[name], "kept": list(kept)} for name, kept in self.kept.items()}
        return {"schema": SCHEMA, "groups": groups}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> PrunePlan:
        """The plan of ``to_dict``'s form.

        Raises:
            PruningError: another schema, or not a plan.
        """
        groups = value.get("groups") if isinstance(value, Mapping) and value.get("schema") == SCHEMA else None
        if not isinstance(groups, Mapping):
            raise PruningError(f"not a prune plan of schema {SCHEMA}: it needs 'schema' and 'groups'")
        for name, group in groups.items():
            if not _is_group(group):
                raise PruningError(
                    f"not a prune plan: group '{printable(name)}' must be an object with 'width' (an integer) and "
                    f"'kept' (a list of integers), not {reprlib.repr(group)}"
                )
        return cls(
            {name: tuple(group["kept"]) for name, group in groups.items()},
            {name: group["width"] for name, group in groups.items()},
        )

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: Path) -> PrunePlan:
        """Read a plan that ``save`` wrote.

        Raises:
            PruningError: the file cannot be read, or is not a plan.
        """
        try:
            value = read_json(path)
        except OSError as error:
            raise PruningError(f"the plan {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise PruningError(f"{path} is not a prune plan: it holds no JSON ({error})") from error
        return cls.from_dict(value)


def _is_group(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("kept"), list):
        return False
    return all(type(number) is int for number in (value.get("width"), *value["kept"]))
