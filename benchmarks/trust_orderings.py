"""What papers say of which explanation beats which, held against rows of trust.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]

ERRORS = 2.0
"""A difference counts from this many of its standard errors on."""

VERDICTS = (
    ("gradient", True, "Adebayo et al. 2018: the gradient passes"),
    ("grad_cam", True, "Adebayo et al. 2018: Grad-CAM passes"),
    ("guided_backprop", False, "Adebayo et al. 2018: guided backpropagation does not depend on the upper layers"),
    ("edges", False, "Adebayo et al. 2018: an edge detector looks like an explanation and reads no classifier"),
    ("constant", False, "control: a constant map says nothing"),
)


def orderings(rows: Rows) -> list[str]:
    """Sentences that begin with ``agrees``, ``disagrees`` or ``undecided``, one per claim that rows can speak to."""
    return [*_verdicts(rows), *_against_random(rows)]


def _verdicts(rows: Rows) -> list[str]:
    found = {row["explainer"]: row["result"] for row in rows if row["test"] == "sanity"}
    return [
        f"{_AGREES[found[name]['passed'] == passes]}: sanity, {claim} (here {found[name]['reason']})"
        for name, passes, claim in VERDICTS
        if name in found
    ]


def _against_random(rows: Rows) -> list[str]:
    """Every test is meant to tell an explanation from random maps."""
    sentences = []
    for row in rows:
        for figure, value in row.get("versus_control", {}).items():
            better = value["mean"] * _SIGN[figure]
            error = value["standard_error"]
            decided = abs(better) > ERRORS * error
            word = "undecided" if not decided else "agrees" if better > 0 else "disagrees"
            sentences.append(
                f"{word}: {_NAMES[figure]}, {row['explainer']} beats random maps "
                f"(here by {better:+.4f} ± {error:.4f}, {row['images']} images)"
            )
    return sentences


_AGREES = {True: "agrees", False: "disagrees"}
_SIGN = {"kl": -1, "change": -1, "insertion": 1, "deletion": -1, "8": 1, "14": 1}
_NAMES = {
    "kl": "perturbation (VarSal: KL)",
    "change": "perturbation (PruneGrad: output change)",
    "insertion": "insertion (RISE, DRIB)",
    "deletion": "deletion (RISE, DRIB)",
    "8": "tiles of 8 (Schulz et al. 2020, DRIB)",
    "14": "tiles of 14 (Schulz et al. 2020, DRIB)",
}
