"""Published orderings of explainers compared with the rows of trust.py and roar.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Final

Rows = Sequence[Mapping[str, Any]]

ERRORS: Final = 2.0
"""A difference counts from this many of its standard errors on."""

PASSES: Final = (
    ("gradient", True, "Adebayo et al. 2018: the gradient passes"),
    ("grad_cam", True, "Adebayo et al. 2018: Grad-CAM passes"),
    ("prunegrad", True, "Khakzar et al. 2019: PruneGrad passes"),
    ("prunepgd", True, "Khakzar et al. 2019: PrunePGD passes"),
    ("edges", False, "Adebayo et al. 2018: an edge detector looks like an explanation and reads no classifier"),
    ("centre", False, "control: the distance to the centre reads no classifier"),
    ("constant", False, "control: a constant map says nothing"),
)
"""Of the sanity check: explainer, whether it passes, who says so."""

BEATS: Final = (
    ("change", "prunegrad", "gradient", "Khakzar et al. 2019"),
    ("change", "prunepgd", "gradient", "Khakzar et al. 2019"),
    ("kl", "varsal", "random", "VarSal"),
    ("kl", "varsal", "gradient", "VarSal"),
    ("kl", "rbf", "realx", "ISP takes radial basis masks in the place of REAL-X's"),
    ("insertion", "rbf", "realx", "ISP takes radial basis masks in the place of REAL-X's"),
)
"""Figure, explainer, rival, who says so."""

ROAR: Final = (
    ("smoothgrad_squared", True),
    ("gradient", False),
    ("guided_backprop", False),
    ("integrated_gradients", False),
)
"""Hooker et al. 2019: explainer, whether its removals cost a retrained network more than random ones do."""

CONTROLS: Final = ("random", "edges", "centre", "constant")
"""They read no classifier: no paper says that they beat anything."""

RIVALS: Final = {"random": "random maps", "edges": "an edge detector", "centre": "the distance to the centre"}
"""What every explanation ought to beat, and how it is called."""

FIGURES: Final = {
    "kl": "perturbation (VarSal: KL)",
    "change": "perturbation (PruneGrad: output change)",
    "insertion": "insertion (RISE, DRIB)",
    "deletion": "deletion (RISE, DRIB)",
    "8": "tiles of 8 (Schulz et al. 2020, DRIB)",
    "14": "tiles of 14 (Schulz et al. 2020, DRIB)",
}
_SIGN = {"kl": -1, "change": -1, "insertion": 1, "deletion": -1, "8": 1, "14": 1}
_AGREES = {True: "agrees", False: "disagrees"}


@dataclass(frozen=True)
class Claim:
    """``verdict``: agrees, disagrees or undecided; ``against``: a control, or ``paper`` for a published claim."""

    verdict: str
    against: str
    figure: str
    explainer: str
    text: str


def orderings(rows: Rows, roar: Rows = ()) -> list[dict[str, str]]:
    """Published claims, then that explanations beat what reads no classifier: all that rows can speak to."""
    claims = [*_sanity_claims(rows), *_published_claims(rows), *_roar_claims(roar)]
    claims += [claim for control in RIVALS for claim in _control_claims(rows, control)]
    return [asdict(claim) for claim in claims]


def _sanity_claims(rows: Rows) -> list[Claim]:
    found = {row["explainer"]: row["result"] for row in rows if row["test"] == "sanity"}
    claims = [
        Claim(
            _AGREES[found[name]["passed"] == passes], "paper", "sanity", name, f"{says} (here {found[name]['reason']})"
        )
        for name, passes, says in PASSES
        if name in found
    ]
    if "guided_backprop" in found and "gradient" in found:
        guided, gradient = (_upper_correlation(found[name]["steps"]) for name in ("guided_backprop", "gradient"))
        text = (
            "Adebayo et al. 2018: guided backpropagation hardly notices that upper layers forget, unlike the gradient "
            f"(here rank correlation {guided:.2f} and {gradient:.2f} of absolute values with the upper quarter of the "
            f"layers re-initialised; guided backpropagation {found['guided_backprop']['reason']})"
        )
        claims.append(Claim(_AGREES[guided >= 0.5 > gradient], "paper", "sanity", "guided_backprop", text))
    return claims


def _upper_correlation(steps: Sequence[Mapping[str, Any]]) -> float:
    """Rank correlation of absolute maps once the upper quarter of the layers is re-initialised."""
    return float(steps[max(len(steps) // 4, 1) - 1]["spearman_abs"]["mean"])


def _published_claims(rows: Rows) -> list[Claim]:
    found = _areas_by_figure(rows)
    return [
        _claim(figure, name, rival, *_difference(found, figure, name, rival), against="paper", says=says)
        for figure, name, rival, says in BEATS
        if name in found.get(figure, {}) and rival in found[figure]
    ]


def _control_claims(rows: Rows, control: str) -> list[Claim]:
    """Every paper's test is meant to tell its explanations from maps that know nothing of the classifier."""
    found = _areas_by_figure(rows)
    return [
        _claim(figure, name, RIVALS[control], *_difference(found, figure, name, control), against=control)
        for figure, rivals in found.items()
        for name in rivals
        if name not in CONTROLS and control in rivals
    ]


def _areas_by_figure(rows: Rows) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Figure -> explainer -> area; with the paired difference to the control, where the row has one."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {figure: {} for figure in FIGURES}
    for row in rows:
        for figure, area in areas(row).items():
            paired = row.get("versus_control", {}).get(figure)
            found[figure][row["explainer"]] = {**area, "images": row["images"], "paired": paired}
    return found


def areas(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The areas that a row's curves sum up to, by figure."""
    if row["test"] == "tiles":
        return {side: each["between"] for side, each in row["result"].items()}
    if row["test"] in ("perturbation", "insertion_deletion"):
        return {figure: curve["area"] for figure, curve in row["result"].items()}
    return {}


def _difference(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], figure: str, name: str, rival: str
) -> tuple[float, float, int]:
    """Mean, error, images. Paired by image against random maps; else errors add up, which only overstates them."""
    ours, theirs = found[figure][name], found[figure][rival]
    paired = ours["paired"] if rival == "random" else None
    if paired is not None:
        return paired["mean"], paired["standard_error"], ours["images"]
    error = (ours["standard_error"] ** 2 + theirs["standard_error"] ** 2) ** 0.5
    return ours["mean"] - theirs["mean"], error, ours["images"]


def _claim(
    figure: str, name: str, rival: str, difference: float, error: float, images: int, *, against: str, says: str = ""
) -> Claim:
    better = difference * _SIGN[figure]
    word = "undecided" if abs(better) <= ERRORS * error else _AGREES[better > 0]
    source = f"{says}: " if says else ""
    text = f"{source}{FIGURES[figure]}, {name} beats {rival} (here by {better:+.4f} ± {error:.4f}, {images} images)"
    return Claim(word, against, figure, name, text)


def _roar_claims(rows: Rows) -> list[Claim]:
    claims = []
    for name, beats in ROAR:
        says = f"Hooker et al. 2019: ROAR, {name} {'beats' if beats else 'does no better than'} random maps"
        differences = [_accuracy_lost(rows, name, share) for share in sorted({row["share"] for row in rows})]
        known = [difference for difference in differences if difference is not None]
        if not known:
            text, word = f"{says} (not measured)", "undecided"
        else:
            mean = fmean(value for value, _ in known)
            error = sum(error**2 for _, error in known) ** 0.5 / len(known)
            better, worse = mean > ERRORS * error, mean < -ERRORS * error
            word = _AGREES[better == beats] if better or worse else "undecided"
            text = f"{says} (here it costs {100 * mean:+.1f} ± {100 * error:.1f} points of accuracy more)"
        claims.append(Claim(word, "paper", "roar", name, text))
    return claims


def _accuracy_lost(rows: Rows, name: str, share: float) -> tuple[float, float] | None:
    """How much accuracy the removals of ``name`` cost beyond random ones, and its error; seeds that both have.

    With two seeds or more the error is of the differences between seeds (what another training changes is in it), or
    that of the test images, whichever is larger.
    """
    ours, theirs = (
        {row["seed"]: row["accuracy"] for row in rows if row["explainer"] == each and row["share"] == share}
        for each in (name, "random")
    )
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    found = [theirs[seed]["mean"] - ours[seed]["mean"] for seed in seeds]
    mean = fmean(found)
    images = sum(each[seed]["standard_error"] ** 2 for each in (ours, theirs) for seed in seeds) ** 0.5 / len(seeds)
    between = 0.0
    if len(seeds) > 1:
        between = (sum((value - mean) ** 2 for value in found) / (len(seeds) - 1) / len(seeds)) ** 0.5
    return mean, max(images, between)
