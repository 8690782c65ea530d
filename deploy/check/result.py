"""What a check found, as data: written by ``check --json``, and read again by ``check --against``."""

from __future__ import annotations

import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.atomic import read_json
from slimsight.export.costs.layers import LayerCost, Shape

from ..budget import Judged, Judgement, TargetCosts, TargetFigures
from ..budget.changes import LayerChange
from ..report.units import as_growth, check_texts, excess_text

SCHEMA: Final = 1
_COMMIT_DIGITS = 7


@dataclass(frozen=True)
class Other:
    """What a target is compared with. ``commit`` and ``created``: of a JSON file that says them."""

    name: str
    costs: TargetCosts
    layers: tuple[LayerCost, ...] | None
    commit: str | None = None
    created: str | None = None

    @property
    def label(self) -> str:
        """``commit 1a2b3c4`` where it is known, else the name."""
        return f"commit {self.commit[:_COMMIT_DIGITS]}" if self.commit else self.name


@dataclass(frozen=True)
class CheckResult:
    """All of it. ``image``: (C, H, W) that MACs are of; ``report``: the run's, for people."""

    target: str
    kind: str
    image: Shape | None
    created: str
    commit: str | None
    budget: Path
    figures: TargetFigures
    judgement: Judgement
    against: Other | None = None
    changes: tuple[LayerChange, ...] = ()
    report: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form, schema 1; what failed comes first."""
        costs = self.figures.costs
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "target": self.target,
            "kind": self.kind,
            "created": self.created,
            "commit": self.commit,
            "budget": str(self.budget),
            "passed": self.judgement.passed,
            "input": None if self.image is None else "x".join(map(str, self.image)),
            **asdict(costs),
            "checks": [_check(item) for item in self.judgement.by_urgency],
            "layers": None if self.figures.layers is None else [asdict(layer) for layer in self.figures.layers],
        }
        if self.against is not None:
            found["against"] = {
                "name": self.against.name,
                "commit": self.against.commit,
                "created": self.against.created,
                **asdict(self.against.costs),
            }
            found["changes"] = [
                {
                    "layer": change.name,
                    "change": change.kind,
                    "macs_before": None if change.before is None else change.before.macs,
                    "macs_after": None if change.after is None else change.after.macs,
                    "macs_growth": change.growth,
                    "macs_growth_of_its_own": change.own,
                    "why": change.why,
                }
                for change in self.changes
            ]
        return found

    @property
    def headline(self) -> str | None:
        """``MACs 20.10 M -> 20.57 M (+2.3 %) since commit 1a2b3c4``; None without something to compare with."""
        if self.against is None:
            return None
        from ..report.units import as_macs

        before, after = self.against.costs.macs, self.figures.costs.macs
        grown = f" ({as_growth(after / before - 1)})" if before else ""
        return f"MACs {as_macs(before)} -> {as_macs(after)}{grown} since {self.against.label}"


def _check(item: Judged) -> dict[str, Any]:
    check = item.check
    return {
        "key": ".".join(item.key),
        "name": check.name,
        "status": item.status,
        "value": check.value,
        "limit": check.limit,
        "bound": check.bound,
        "unit": check.unit,
        "by": excess_text(check) or None,
        "line": item.line,
        "reason": check.reason,
        "note": item.note,
    }


def read_other(path: Path) -> Other:
    """What ``check --json`` wrote to ``path``.

    Raises:
        ConfigError: it is missing, or something else.
    """
    remedy = "give a target, or what 'slimsight check --json FILE' wrote"
    try:
        found = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}: {remedy}") from None
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} cannot be read as JSON ({reason}): {remedy}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or "macs" not in found or "layers" not in found:
        raise ConfigError(f"{path} is not the JSON of a check (schema {SCHEMA}): {remedy}")
    try:
        layers = None if found["layers"] is None else tuple(_layer(**layer) for layer in found["layers"])
        costs = TargetCosts(*(_whole(name, found[name]) for name in ("macs", "params", "size_bytes")))
        commit, created = (None if found.get(name) is None else str(found[name]) for name in ("commit", "created"))
        return Other(str(found["target"]), costs, layers, commit, created)
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is not whole ({error}): write it again with 'slimsight check --json'") from error


def _layer(name: str, **figures: Any) -> LayerCost:
    return LayerCost(str(name), **{key: _whole(key, value) for key, value in figures.items()})


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {reprlib.repr(value)}, not a whole number")
    return value


def line_of_check(item: Judged) -> str:
    """One line: ``MACs: 61.20 M, at most 60.00 M allowed, 2.0 % above; REASON``."""
    limit, value = check_texts(item.check)
    by = excess_text(item.check)
    parts = [f"{item.check.name}: {value}, {limit} allowed{f', {by}' if by else ''}", item.check.reason, item.note]
    return "; ".join(part for part in parts if part)
