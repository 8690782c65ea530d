"""Contrast of the page's colours, in both themes (WCAG 2.2, 1.4.3 and 1.4.11)."""

import re
from pathlib import Path

import pytest

import slimsight.deploy.report.html as html

CSS = (Path(html.__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
COLOURS = {
    name: (light, dark)
    for name, light, dark in re.findall(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", CSS)
}
RUNS = [f"run-{number}" for number in range(1, 9)]
TEXTS = [
    *((ink, ground) for ink in ("ink", "muted", "link", "ok", "bad") for ground in ("page", "surface")),
    ("ok", "ok-ground"), ("bad", "bad-ground"), ("note", "note-ground"), ("link", "note-ground"),
    *(("surface", run) for run in RUNS),  # letters inside marks
]  # fmt: skip
DRAWN = [(name, "surface") for name in ("original", "slim", "dynamic", "frozen", *RUNS)]


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_4_5_and_what_is_drawn_3(theme: int) -> None:
    weak = [
        (ink, ground, round(found, 2))
        for pairs, least in ((TEXTS, 4.5), (DRAWN, 3.0))
        for ink, ground in pairs
        if (found := contrast(COLOURS[ink][theme], COLOURS[ground][theme])) < least
    ]
    assert weak == []


def test_no_colour_is_set_outside_the_palette() -> None:
    rest = CSS.partition("}")[2]
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^{]*\{)", rest) == []
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", CSS)) <= COLOURS.keys()
