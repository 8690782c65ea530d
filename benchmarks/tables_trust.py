"""The tables of tests of explanations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tables_study import spread
from trust_orderings import CONTROLS, FIGURES, RIVALS, areas

from slimsight.deploy.trust.figures import trust_notes, trust_table

_WORDS = {"agrees": "agree", "disagrees": "disagree", "undecided": "are undecided"}
_BEST = {"kl": min, "change": min, "insertion": max, "deletion": min, "8": max, "14": max}
_HIDDEN = ("SSIM at the end",)
"""Columns of the command that the README leaves out: all are in results/trust.json."""


def trust(found: dict[str, Any]) -> str:
    """A line per explainer, best first; explainers that beat the controls; published claims and their verdicts."""
    rows, claims = found["rows"], found["orderings"]
    lines = [*_figures(rows), "", _legend(found), ""]
    if any(claim["against"] in RIVALS for claim in claims):
        lines += [*_rivals(claims), ""]
    counts = ", ".join(f"{sum(c['verdict'] == word for c in claims)} {text}" for word, text in _WORDS.items())
    lines += [
        f"Of {len(claims)} claims (published ones, and that explanations beat controls) {counts}; all are in "
        "results/trust.json. The published claims:",
        "",
    ]
    published = [claim for claim in claims if claim["against"] == "paper"]
    lines += [
        f"- **{claim['verdict']}**: {claim['text']}"
        for word in _WORDS
        for claim in published
        if claim["verdict"] == word
    ]
    lines += [f"- {note}" for note in trust_notes(rows) if note.split(":")[0] in ("rbf", "realx", "varsal")]
    return "\n".join(lines)


def _figures(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sorted by the KL of pixel perturbation; controls in italics, the best explanation of each test in bold."""
    table = trust_table(rows)
    heads, cells = table.head[1:], {str(row[0]): [str(cell) for cell in row[1:]] for row in table.rows}
    order: dict[str, float] = {}
    best: dict[str, dict[str, float]] = {figure: {} for figure in FIGURES}
    for row in rows:
        order.setdefault(row["explainer"], float("inf"))
        for figure, area in areas(row).items():
            if row["explainer"] not in CONTROLS:
                best[figure][row["explainer"]] = area["mean"]
            if figure == "kl":
                order[row["explainer"]] = area["mean"]
    winners = {figure: _BEST[figure](means, key=means.__getitem__) for figure, means in best.items() if means}
    columns = [figure for figure in FIGURES if any(figure in areas(row) for row in rows)]
    first = len(heads) - len(columns)
    shown = [place for place, head in enumerate(heads) if head not in _HIDDEN]
    lines = ["| explainer | " + " | ".join(heads[place] for place in shown) + " |", "|---|" + "---|" * len(shown)]
    for name in sorted(cells, key=order.__getitem__):
        texts = list(cells[name])
        for place, figure in enumerate(columns, first):
            if winners.get(figure) == name:
                texts[place] = f"**{texts[place]}**"
        called = f"*{name}*" if name in CONTROLS else name
        lines.append(f"| {called} | " + " | ".join(texts[place] for place in shown) + " |")
    return lines


def _legend(found: Mapping[str, Any]) -> str:
    used: dict[str, dict[int, list[str]]] = {}
    for row in found["rows"]:
        used.setdefault(row["test"].replace("_", " and "), {}).setdefault(row["images"], []).append(row["explainer"])
    counts = []
    for test, groups in used.items():
        usual = max(groups, key=lambda images: len(groups[images]))
        fewer = [f"{images} for {', '.join(names)}" for images, names in groups.items() if images != usual]
        counts.append(f"{test} {usual}" + (f" ({'; '.join(fewer)})" if fewer else ""))
    words = "; ".join(found["schedules"].values())
    return (
        f"Means ± standard errors over test images ({', '.join(counts)}); areas under curves; controls in italics, the "
        "best explanation of each test in bold. Sanity check: passed if maps of the original and of the network with "
        "every layer re-initialised have Spearman (signed and absolute) and SSIM below 0.5. Trained explainers: "
        f"{words}.{_coarseness(found)}"
    )


def _coarseness(found: Mapping[str, Any]) -> str:
    coarse = found.get("coarseness")
    if not coarse:
        return ""
    largest = max(abs(value["mean"]) for row in coarse["rows"] for value in (row["insertion"], row["deletion"]))
    names = ", ".join(row["explainer"] for row in coarse["rows"])
    return (
        f" Insertion and deletion in {found['steps']} steps; DRIB's {coarse['steps']} change an area by at most "
        f"{largest:.4f} ({coarse['images']} images; {names})."
    )


def _rivals(claims: Sequence[Mapping[str, str]]) -> list[str]:
    """A line per figure: how many explanations beat each control, and which do not."""
    lines = [
        "| test | " + " | ".join(f"beat {name}" for name in RIVALS.values()) + " |",
        "|---|" + "---|" * len(RIVALS),
    ]
    for figure, title in FIGURES.items():
        mine = [claim for claim in claims if claim["figure"] == figure]
        cells = [_who([claim for claim in mine if claim["against"] == control]) for control in RIVALS]
        if any(cells):
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return lines


def _who(claims: Sequence[Mapping[str, str]]) -> str:
    if not claims:
        return ""
    names = {word: [claim["explainer"] for claim in claims if claim["verdict"] == word] for word in _WORDS}
    text = f"{len(names['agrees'])} of {len(claims)}"
    parts = []
    if names["agrees"] and len(names["agrees"]) <= len(claims) // 2:
        return f"{text}: {', '.join(names['agrees'])}"
    if names["disagrees"]:
        parts.append(f"worse: {', '.join(names['disagrees'])}")
    if names["undecided"]:
        parts.append(f"undecided: {', '.join(names['undecided'])}")
    return "; ".join([text, *parts])


def _accuracy(found: Sequence[Mapping[str, float]]) -> str:
    return spread(found, lambda accuracy: accuracy["mean"], "{:.3f}") if found else ""


def roar(found: dict[str, Any]) -> str:
    """A line per explainer: accuracy of the retrained network, means over seeds, by the share removed."""
    rows, schedule = found["rows"], found["schedule"]
    shares = sorted({row["share"] for row in rows if row["share"]})
    whole = [row["accuracy"] for row in rows if not row["share"]]
    lines = [
        "| explainer | " + " | ".join(f"{share:.0%} removed" for share in shares) + " | trainings |",
        "|---|" + "---|" * (len(shares) + 1),
    ]
    names = list(dict.fromkeys(row["explainer"] for row in rows if row["share"]))
    for name in names:
        mine = [
            [row["accuracy"] for row in rows if (row["explainer"], row["share"]) == (name, share)] for share in shares
        ]
        count = sum(len(each) for each in mine)
        called = f"*{name}*" if name in CONTROLS else name
        lines.append(f"| {called} | " + " | ".join(_accuracy(each) for each in mine) + f" | {count} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Test accuracy of a {schedule['network']} trained without the most salient pixels ({_accuracy(whole)} "
            f"with nothing removed; lower is a better explanation): {schedule['images']:,} training images, "
            f"{schedule['epochs']} epochs, {schedule['test_images']:,} test images; mean ± standard deviation "
            "over seeds.",
        ]
    )
