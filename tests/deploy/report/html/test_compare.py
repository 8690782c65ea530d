from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.deploy.report.html import RunPage, read_page
from slimsight.deploy.report.html.compare import Best, differences, figure_table, letter, recipe_table

Folders = Callable[..., Path]


@pytest.fixture
def pages(content: dict[str, Any], to_folder: Folders) -> list[RunPage]:
    """Three runs: the second has fewer MACs and is as fast as the first, the third is slower and has no explainer."""
    first = read_page(to_folder("first", content, "seed: 0\ngates: {steer: rbf, steps: 100}\n"))
    content["slim"] |= {"macs": 19_000_000, "test_accuracy": 0.86}
    content["latency"][0]["speedup"] = {"median": 1.60, "low": 1.55, "high": 1.70}
    second = read_page(to_folder("second", content, "seed: 0\ngates: {steer: none, steps: 100}\n"))
    content["latency"][0]["speedup"] = {"median": 1.20, "low": 1.10, "high": 1.30}
    del content["saliency"]
    content["data"]["test"] = 999
    content["device"] = "another"
    return [first, second, read_page(to_folder("third", content, "seed: 0\ngates: {steer: none}\n"))]


def rows(pages: list[RunPage]) -> dict[str, list[str]]:
    """A star before the best, as the page has it."""
    _, found = figure_table(pages)
    return {name: [f"*{cell.text}" if isinstance(cell, Best) else cell for cell in cells] for name, cells in found}


def test_the_best_of_a_row_is_marked(pages: list[RunPage]) -> None:
    found = rows(pages)
    assert found["MACs, slim"] == ["20.50 M", "*19.00 M", "*19.00 M"]
    assert found["test accuracy, slim"] == ["*87.90 %", "86.00 %", "86.00 %"]
    assert found["test accuracy, change"] == ["*-0.51 points", "-2.41 points", "-2.41 points"]
    assert found["test accuracy, original"] == ["88.41 %"] * 3  # what is the same is not the best
    assert found["overlap of the two maps"] == ["78.3 %", "78.3 %", "\N{EN DASH}"]


def test_a_speed_up_within_the_interval_of_the_best_is_marked_too(pages: list[RunPage]) -> None:
    label = "onnxruntime fp32, 1 thread, batch 1"
    found = rows(pages)
    assert found[f"speed-up, {label}"] == ["*1.56x [1.51x, 1.61x]", "*1.60x [1.55x, 1.70x]", "1.20x [1.10x, 1.30x]"]
    assert found[f"median latency, slim, {label}"] == ["0.521 ms"] * 3
    assert rows(pages[:2])[f"speed-up, {label}"] == ["1.56x [1.51x, 1.61x]", "1.60x [1.55x, 1.70x]"]


def test_settings_that_differ_are_listed(pages: list[RunPage]) -> None:
    table = recipe_table(pages)
    assert table.head == ["setting", "A", "B", "C"]
    assert table.rows == [
        ["gates.steer", "rbf", "none", "none"],
        ["gates.steps", "100", "100", "not in this recipe"],
    ]


def test_what_makes_runs_hard_to_compare_is_said(pages: list[RunPage]) -> None:
    assert differences(pages[:2]) == []
    assert differences(pages) == [
        "The runs used different images: their accuracies are not of the same test.",
        "The runs were made on different machines: compare their speed-ups, not their milliseconds.",
    ]


def test_letters_go_on_after_z() -> None:
    assert [letter(number) for number in (0, 25, 26, 27, 51, 52)] == ["A", "Z", "AA", "AB", "AZ", "BA"]
