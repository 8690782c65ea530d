from pathlib import Path
from typing import Any

import pytest

from slimsight.deploy.report.markdown import render_markdown, write_markdown
from slimsight.deploy.report.schema import Report
from slimsight.deploy.report.table import markdown_table

PICTURES = ("saliency.png", "channels.png")


def headings(text: str) -> list[str]:
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_verdict_comes_first(report: Report) -> None:
    lines = render_markdown(report).splitlines()
    assert lines[0] == "# resnet20: 49.9 % of the MACs"
    assert lines[2] == "**PASSED**: its check holds."


def test_a_failure_says_why(content: dict[str, Any]) -> None:
    check = content["verdict"]["checks"][0]
    late = {"name": "speed-up", "limit": 1.3, "value": None, "passed": False, "bound": "min", "unit": "times"}
    content["verdict"] = {
        "passed": False,
        "checks": [
            check,
            check | {"name": "size", "unit": "bytes", "limit": 6e5, "value": 610_400, "passed": False},
            late | {"reason": "no latency rows"},
        ],
    }
    text = render_markdown(Report.model_validate(content))
    assert text.splitlines()[2] == (
        "**FAILED**: 2 of 3 checks. size: 610.40 kB, at most 600.00 kB allowed; "
        "speed-up: missing, at least 1.30x allowed (no latency rows)."
    )
    assert cells(text, "speed-up")[-1] == "**FAILED**: no latency rows"


def test_summary_numbers_and_units(report: Report) -> None:
    text = render_markdown(report).partition("## Original and slim")[2].partition("## Budget")[0]
    assert cells(text, "MACs") == ["MACs", "41.12 M", "20.50 M", "49.9 % kept"]
    assert cells(text, "parameters") == ["parameters", "272,474", "150,000", "55.1 % kept"]
    assert cells(text, "size") == ["size of the weights", "1.10 MB", "0.61 MB", "55.5 % kept"]
    assert cells(text, "validation") == ["validation accuracy", "89.14 %", "88.72 %", "-0.42 points"]
    assert cells(text, "test") == ["test accuracy", "88.41 %", "87.90 %", "-0.51 points"]
    assert cells(text, "median")[1:] == ["0.814 ms", "0.521 ms", r"speed-up 1.56x \[1.51x, 1.61x]"]
    assert "45,000 to train, 5,000 to validate, 10,000 to test" in text


@pytest.mark.parametrize(("slim", "change"), [(0.9014, "+1.00 points"), (0.8914, "0.00 points")])
def test_sign_of_an_accuracy_change(content: dict[str, Any], slim: float, change: str) -> None:
    content["slim"]["val_accuracy"] = slim
    assert cells(render_markdown(Report.model_validate(content)), "validation")[-1] == change


def test_an_explainer_that_ranks_pixels_is_shown_beside_other_rankings(content: dict[str, Any]) -> None:
    del content["saliency"]["selector"], content["saliency"]["area"]
    content["gates"]["steer"] = "varsal"
    content["saliency"] |= {
        "explainer": "varsal",
        "ranking": {
            "removed": [0.1, 0.9],
            "kl": [0.2184, 5.4],
            "kl_centre": [0.23, 4.5],
            "kl_other": [0.184, 6.2],
            "kl_random": [1.01, 10.2],
            "spread": 2.4,
            "variety": 1.5,
            "uncertainty": 0.49,
        },
    }
    text = render_markdown(Report.model_validate(content))
    assert "steered by VarSal's mean maps" in text
    assert cells(text, "pixels ranked by") == ["pixels ranked by", "without 10 %", "without 90 %"]
    assert cells(text, "the explainer") == ["the explainer", "0.218", "5.400"]
    assert cells(text, "chance") == ["chance", "1.010", "10.200"]
    assert "over its pixels: 2.40 (median over images); the explainer's own uncertainty of a pixel: 0.49" in text
    assert "seen through the mask" not in text
    assert "image area explained" not in text


def test_every_section_of_a_full_report(report: Report) -> None:
    text = render_markdown(report, PICTURES)
    assert headings(text) == [
        "Original and slim",
        "Budget",
        "How the channels were chosen",
        "Exactness",
        "Parity: exported files against PyTorch",
        "Latency",
        "Saliency: what the model looks at",
        "Channels kept",
        "Frozen groups",
        "Stages",
        "How to reproduce",
    ]
    for evidence in (
        "largest relative difference 3.1e-07.",
        "cost model: 20,500,000; counted by fvcore on the slim model: 20,500,000 (equal).",
        "Channel groups: 12; frozen, with their reasons below: 1.",
        "before finetuning: 46.12 %.",
        "steered by the explainer (ISP)",
        "The gates converged.",
        "![Channels kept in each group](channels.png)",
        "](saliency.png)",
        "This run: 1 min 02 s; reused stages ran before",
        "slimsight run recipe.yaml",
        "Seed 3, on cpu, 2026-03-04 05:06 UTC.",
    ):
        assert evidence in text
    assert cells(text, "centre of") == ["centre of the explanation moved by", "1.23 px"]
    assert cells(text, "overlap")[-1] == "78.3 %"
    assert cells(text, "same sizes, anywhere")[-1] == "1.040"
    assert cells(text, "`slim/model.onnx`")[3:] == ["7", "4.2e-06", "1.1e-06", "100.00 %", "passed"]
    assert cells(text, "predictor") == ["predictor", "3 min 20 s", "reused"]
    frozen = text.partition("## Frozen groups")[2]
    assert cells(frozen, "`net.linear`") == ["`net.linear`", "the model's output"]
    assert cells(text, "`net.layer1.0.conv1`") == ["`net.layer1.0.conv1`", "16", "9", "56 %", ""]


def test_no_empty_sections(content: dict[str, Any]) -> None:
    for key in ("model", "data", "gated", "gates", "saliency", "channels", "parity", "latency", "stages"):
        del content[key]
    content["versions"] = {}
    content["exactness"]["frozen_groups"] = []
    content["original"]["test_accuracy"] = content["slim"]["test_accuracy"] = None
    text = render_markdown(Report.model_validate(content))
    assert headings(text) == ["Original and slim", "Budget", "Exactness", "How to reproduce"]
    assert "test accuracy" not in text
    assert "None" not in text
    assert "\n\n\n" not in text
    assert "none frozen" in text


def test_what_went_wrong_is_not_hidden(content: dict[str, Any]) -> None:
    content["gates"]["converged"] = False
    content["exactness"] |= {"cost_model_macs": 20_500_001, "gated_vs_slim_max_rel": None}
    content["parity"][0] |= {"max_abs": None, "p99_abs": None, "passed": False}
    text = render_markdown(Report.model_validate(content))
    assert "did **not** converge" in text
    assert "(**not equal**)" in text
    assert "largest relative difference not finite." in text
    assert cells(text, "`slim/model.onnx`")[4:] == ["not finite", "not finite", "100.00 %", "**FAILED**"]


def test_what_was_not_done_as_asked_stands_in_the_first_line(content: dict[str, Any]) -> None:
    content["gates"] |= {"steer": "none", "steer_asked": "rbf", "steps": 80, "extension": 20}
    content["verdict"]["notes"] = ["The gates were NOT steered: <b>why</b>.", "A second one."]
    text = render_markdown(Report.model_validate(content))
    verdict = text.splitlines()[2]
    assert verdict == ("**PASSED**: its check holds. The gates were NOT steered: \\<b>why\\</b>. A second one.")
    assert (
        "- Method: gates learned without the explainer, although rbf was asked to steer them, 80 steps (20 of them"
        in text
    )


def test_dynamic_model_is_timed_too(content: dict[str, Any]) -> None:
    content["latency"][0]["dynamic_ms"] = {"median": 0.407, "p90": 0.5, "p99": 0.6}
    text = render_markdown(Report.model_validate(content)).partition("## Latency")[2].partition("##")[0]
    (line,) = [line for line in text.splitlines() if "dynamic" in line]
    assert line.endswith("2.00x |")


def test_tables_line_up_and_escape() -> None:
    table = markdown_table(["name", "n"], [["a|b", "1"], ["longer name", "12345"]], "lr")
    assert table.splitlines() == [
        "| name        |     n |",
        "| ----------- | ----: |",
        r"| a\|b        |     1 |",
        "| longer name | 12345 |",
    ]


def test_written_report_shows_the_pictures_that_exist(report: Report, tmp_path: Path) -> None:
    (tmp_path / "channels.png").write_bytes(b"")
    text = write_markdown(tmp_path, report).read_text(encoding="utf-8")
    assert "](channels.png)" in text
    assert "saliency.png" not in text
    assert text.endswith("|\n")


@pytest.mark.parametrize(
    ("limit", "row"),
    [
        ({"latency_ms_max": 0.6}, ["0.600 ms", "0.521 ms", "86.8 %"]),
        ({"latency_ratio_max": 0.8}, ["0.651 ms", "0.521 ms", "80.0 %"]),
    ],
)
def test_a_budget_of_latency_stands_beside_what_it_allows(
    content: dict[str, Any], limit: dict[str, float], row: list[str]
) -> None:
    content["budget"] |= limit
    text = render_markdown(Report.model_validate(content))
    budget = text[text.index("## Budget") : text.index("## How the channels")]
    assert cells(budget, "median latency")[1:] == row


def test_a_model_that_became_slower_is_said_to_be(content: dict[str, Any]) -> None:
    words = "**Slower than the original** in onnxruntime fp32, 1 thread, batch 1: MACs fell, time did not; try "
    assert words not in render_markdown(Report.model_validate(content))
    (row,) = content["latency"]
    row["slim_ms"]["median"] = 0.9
    row["speedup"] = {"median": 0.904, "low": 0.85, "high": 1.01}  # it may as well be noise
    assert words not in render_markdown(Report.model_validate(content))
    row["speedup"]["high"] = 0.95
    assert words + "budget.align auto." in render_markdown(Report.model_validate(content))


def test_statistics_of_batch_normalisation_are_named_where_there_are_two(content: dict[str, Any]) -> None:
    assert "running statistics" not in render_markdown(Report.model_validate(content))  # of an earlier version
    content["statistics"] = {"running_val_accuracy": 0.091, "recalibrated_val_accuracy": 0.205, "kept": "recalibrated"}
    (line,) = [
        line for line in render_markdown(Report.model_validate(content)).splitlines() if "running statis" in line
    ]
    assert line.endswith("normalisation: 9.10 %; with exact ones, taken anew: 20.50 %. Kept: the exact ones.")
    content["statistics"] = {"running_val_accuracy": 0.8, "kept": "running"}
    assert "running statistics" not in render_markdown(Report.model_validate(content))
