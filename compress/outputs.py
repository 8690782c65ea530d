"""The tensors that a network returns, in any nest of tuples, lists, dicts and dataclasses, each by its name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

ROOT = "out"
"""Name of an output that stands by itself, and how the names of all others begin: ``out.boxes[0]``."""


def name_tensors(outputs: Any) -> dict[str, Tensor]:
    """The tensors among ``outputs``, by name, in order; what is no tensor is left out."""
    return {name: leaf for name, leaf in name_leaves(outputs) if isinstance(leaf, Tensor)}


def name_leaves(value: Any, name: str = ROOT) -> Iterator[tuple[str, Any]]:
    """Everything in ``value`` that is no tuple, list, dict or dataclass, with its name."""
    if hasattr(value, "_asdict"):  # a named tuple
        value = _Fields(value._asdict())
    elif is_dataclass(value) and not isinstance(value, type | Mapping):
        value = _Fields({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        for key, each in value.items():
            plain = isinstance(key, str) and key.isidentifier()
            yield from name_leaves(each, f"{name}.{key}" if plain else f"{name}[{key!r}]")
    elif isinstance(value, tuple | list):
        for place, each in enumerate(value):
            yield from name_leaves(each, f"{name}[{place}]")
    else:
        yield name, value


def plain(outputs: Any) -> Any:
    """``outputs``, or their tensors by name where a dataclass is among them: those are of a user's own types."""
    return name_tensors(outputs) if _has_own(outputs) else outputs


def _has_own(value: Any) -> bool:
    if is_dataclass(value):
        return True
    if isinstance(value, Mapping):
        return type(value) not in (dict, OrderedDict) or any(map(_has_own, value.values()))
    return isinstance(value, tuple | list) and any(map(_has_own, value))


class _Fields(dict[str, Any]):
    """Fields of a dataclass or a named tuple."""
