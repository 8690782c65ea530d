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
    ("edges", False, "Adebayo et al. 2018: an edge detector looks like an explanation and reads no classifier"),
    ("constant", False, "control: a constant map says nothing"),
)


CONTROLS = ("random", "edges", "constant")
"""They read no classifier: no paper says that they beat anything."""


def orderings(rows: Rows) -> list[str]:
    """Sentences that begin with ``agrees``, ``disagrees`` or ``undecided``, one per claim that rows can speak to."""
    return [*_verdicts(rows), *_against_random(rows), *_against_edges(rows), NOT_MEASURED]


def _verdicts(rows: Rows) -> list[str]:
    found = {row["explainer"]: row["result"] for row in rows if row["test"] == "sanity"}
    sentences = [
        f"{_AGREES[found[name]['passed'] == passes]}: sanity, {claim} (here {found[name]['reason']})"
        for name, passes, claim in VERDICTS
        if name in found
    ]
    if "guided_backprop" in found and "gradient" in found:
        guided, gradient = (_after_upper(found[name]["steps"]) for name in ("guided_backprop", "gradient"))
        sentences.append(
            f"{_AGREES[guided >= 0.5 > gradient]}: sanity, Adebayo et al. 2018: guided backpropagation hardly notices "
            f"that upper layers forget, unlike the gradient (here rank correlation {guided:.2f} and {gradient:.2f} of "
            "absolute values with the upper quarter of the layers re-initialised; guided backpropagation "
            f"{found['guided_backprop']['reason']})"
        )
    return sentences


def _after_upper(steps: Sequence[Mapping[str, Any]]) -> float:
    """Rank correlation of absolute maps once the upper quarter of the layers is re-initialised."""
    return float(steps[max(len(steps) // 4, 1) - 1]["spearman_abs"]["mean"])


def _against_random(rows: Rows) -> list[str]:
    """Every paper's test is meant to tell its explanations from random maps; differences are paired by image."""
    return [
        _claim(figure, row["explainer"], "random maps", value["mean"], value["standard_error"], row["images"])
        for row in rows
        if row["explainer"] not in CONTROLS
        for figure, value in row.get("versus_control", {}).items()
    ]


def _against_edges(rows: Rows) -> list[str]:
    """What reads the classifier ought to beat what does not. The edge detector's and the explainer's errors add up."""
    edges = {figure: value for row in rows if row["explainer"] == "edges" for figure, value in areas(row).items()}
    sentences = []
    for row in rows:
        if row["explainer"] in CONTROLS:
            continue
        for figure, value in areas(row).items():
            if figure in edges:
                difference = value["mean"] - edges[figure]["mean"]
                error = (value["standard_error"] ** 2 + edges[figure]["standard_error"] ** 2) ** 0.5
                sentences.append(_claim(figure, row["explainer"], "an edge detector", difference, error, row["images"]))
    return sentences


def areas(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The areas that a row's curves sum up to, by figure."""
    if row["test"] == "tiles":
        return {side: each["between"] for side, each in row["result"].items()}
    if row["test"] in ("perturbation", "insertion_deletion"):
        return {figure: curve["area"] for figure, curve in row["result"].items()}
    return {}


def _claim(figure: str, name: str, rival: str, difference: float, error: float, images: int) -> str:
    better = difference * _SIGN[figure]
    word = "undecided" if abs(better) <= ERRORS * error else _AGREES[better > 0]
    return f"{word}: {_NAMES[figure]}, {name} beats {rival} (here by {better:+.4f} ± {error:.4f}, {images} images)"


NOT_MEASURED = (
    "undecided: ROAR, Hooker et al. 2019: squared SmoothGrad beats random maps; the gradient, guided backpropagation "
    "and integrated gradients do not (not measured: it takes a training per explainer and share)"
)
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
