"""The table of tests of explanations."""

from __future__ import annotations

from typing import Any

from deploy.report.trust import figures, notes


def trust(found: dict[str, Any]) -> str:
    """A line per explainer, then what agrees with the papers and what does not."""
    heads, rows = figures(found["rows"])
    lines = ["| explainer | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    lines += [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()]
    used: dict[str, set[int]] = {}
    for row in found["rows"]:
        used.setdefault(row["test"].replace("_", " and "), set()).add(row["images"])
    counts = ", ".join(f"{test} {' or '.join(map(str, sorted(images)))}" for test, images in used.items())
    lines += [
        "",
        f"Means ± standard errors over test images ({counts}); areas under curves. Sanity: passed if the maps of the "
        "original and those of the network with every layer re-initialised have Spearman (signed and absolute) and "
        f"SSIM below 0.5. Trained explainer: {found['schedule']}.",
        "",
    ]
    words = {word: [text for text in found["orderings"] if text.startswith(word)] for word in _WORDS}
    counted = ", ".join(f"{len(words[word])} {text}" for word, text in _WORDS.items())
    lines += [
        f"Of {len(found['orderings'])} claims (the papers', and that what reads the classifier beats an edge detector) "
        f"{counted}; all are in results/trust.json.",
        "",
    ]
    lines += [f"- {note}" for note in notes(found["rows"]) if note.startswith("rbf: sanity")]
    lines += [f"- {text}" for text in words["disagrees"]]
    return "\n".join(lines)


_WORDS = {"agrees": "agree", "disagrees": "disagree", "undecided": "are undecided"}
