"""Limits on a run's INT8 file: a budget file's ``int8`` section, and the run's own checks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.budget import AccuracyFacts, BudgetFile, SlimmingFacts, check_report, load_budget
from slimsight.deploy.budget.agreement import AgreementFacts
from slimsight.deploy.budget.judge_int8 import int8_own_checks
from slimsight.deploy.budget.schema import Int8Limits
from slimsight.deploy.report.html import views
from slimsight.deploy.report.int8 import Int8FileFigures
from slimsight.deploy.report.markdown import render_markdown
from slimsight.deploy.report.parts import AgreementFigures
from slimsight.deploy.report.rows_int8 import int8_notes, int8_sensitivity
from slimsight.deploy.report.schema import Report

MADE = SlimmingFacts(kept=0.5, limits=("macs",), epochs=10, steps=2000, lr=0.05)
MS = {"median": 1.0, "p90": 1.1, "p99": 1.2}


def drop(fp32: float, int8: float, images: int = 1000) -> dict[str, Any]:
    return {"fp32": fp32, "int8": int8, "drop": fp32 - int8, "low": -0.001, "high": 0.011, "images": images}


def runtime(**change: Any) -> dict[str, Any]:
    row = {"runtime": "onnxruntime-cpu", "p99": 0.004, "agreement": 1.0, "passed": True}
    return row | {"integer_layers": 20, "float_layers": []} | change


def file(**change: Any) -> dict[str, Any]:
    row = {
        "artifact": "slim/model.int8.onnx",
        "form": "u8",
        "layers": 20,
        "size_bytes": 300_000,
        "fp32_size_bytes": 600_000,
        "runtimes": [runtime()],
        "fidelity": {"p99": 0.01, "sqnr_db": 35.0, "agreement": 0.99, "images": 500},
        "agreement": 0.985,
        "val": drop(0.905, 0.9),
    }
    return row | change


def explained(overlap: float | None, **change: Any) -> dict[str, Any]:
    mean = {"standard_error": 0.01, "images": 32}
    row = {"explainer": "occlusion", "images": 32}
    return row | {"region_iou": {"mean": overlap, **mean}, "chance": {"mean": 0.3, **mean}} | change


def control(**change: Any) -> dict[str, Any]:
    """Of a file that keeps one layer of two in FP32."""
    row = {
        "limits": {"agreement": 0.97, "sqnr_db": 18.0, "accuracy_drop": 0.01},
        "max_float_layers": 8,
        "images": 256,
        "rows": [],
        "before": {"agreement": 0.9, "sqnr_db": 8.0, "accuracy_drop": 0.05},
        "after": {"agreement": 0.98, "sqnr_db": 18.5, "accuracy_drop": 0.0},
        "reached": True,
        "layers_kept": ["b"],
        "sensitivity": [{"layer": "a", "sqnr_db": 40.0}, {"layer": "b", "sqnr_db": 8.2}],
        "files_compared": 2,
        "time_ratio": {"median": 1.08, "low": 1.06, "high": 1.1},
    }
    return row | change


def report(slim: dict[str, Any] | None, *, timed: bool = True) -> Report:
    speedups = {"int8_ms": MS, "int8_speedup": {"median": 3.2, "low": 3.0, "high": 3.4}} if timed else {}
    row = {"runtime": "onnxruntime-cpu", "precision": "fp32", "threads": 1, "batch": 1}
    row |= {"original_ms": MS, "slim_ms": MS, "speedup": {"median": 1.5, "low": 1.4, "high": 1.6}, **speedups}
    original = file(artifact="original.int8.onnx", size_bytes=500_000, fp32_size_bytes=1_000_000)
    made = {"images": 32, "sha256": "0", "rows": list(range(32))}
    int8 = None if slim is None else {"method": "minmax", "calibration": made, "files": [slim, original]}
    models = {"macs": 2, "params": 2, "size_bytes": 2, "val_accuracy": 0.92, "test_accuracy": None}
    exactness = {"gated_vs_slim_max_rel": 0.0, "cost_model_macs": 2, "fvcore_macs": 2, "groups": 1}
    return Report.model_validate(
        {
            "recipe": "recipe.yaml",
            "created": datetime(2026, 1, 1, tzinfo=UTC),
            "versions": {},
            "device": "cpu",
            "seed": 0,
            "original": models,
            "slim": models,
            "budget": {},
            "exactness": exactness,
            "latency": [row],
            "int8": int8,
            "verdict": {"passed": False, "checks": []},
        }
    )


def judged(found: Report, **limits: Any) -> dict[str, tuple[str, float | None, float, str | None]]:
    verdict = check_report(found, BudgetFile.model_validate({"int8": limits}))
    return {i.key[-1]: (i.status, i.check.value, i.check.limit, i.check.reason) for i in verdict.items}


def test_every_limit_is_of_the_slim_models_file() -> None:
    limits = {"accuracy_drop": "1%", "agreement": "98%", "size": "40%", "integer_layers": "95%", "overlap": "80%"}
    found = judged(report(file(explanations=explained(0.81))), speedup=2.9, **limits)
    assert found == {
        "accuracy_drop": ("ok", pytest.approx(0.005), 0.01, None),
        "agreement": ("ok", 0.985, 0.98, None),
        "overlap": ("ok", 0.81, 0.8, None),
        "integer_layers": ("ok", 1.0, 0.95, None),
        "size": ("ok", 300_000, 400_000, None),  # of the original's FP32 file
        "speedup": ("ok", 3.0, 2.9, None),  # the low end
    }


def test_what_misses_fails_or_warns_and_says_why() -> None:
    slow = file(runtimes=[runtime(integer_layers=16, float_layers=["a", "b", "c", "d"])], agreement=0.97)
    found = judged(
        report(slow),
        accuracy_drop="0.4%",
        agreement={"fail": 0.9, "warn": 0.98},
        size="200kB",
        speedup={"warn": 3.1},
        integer_layers=1,
    )
    assert found["accuracy_drop"][0] == "failed"
    assert found["accuracy_drop"][3] == "95 % interval -0.10 to 1.10 points"
    assert found["agreement"] == ("warned", 0.97, 0.98, None)
    assert found["size"] == ("failed", 300_000, 200_000, None)
    assert found["speedup"] == ("warned", 3.0, 3.1, None)
    assert found["integer_layers"] == ("failed", 0.8, 1.0, "in FP32 run a, b, c and 1 more")


def test_explanations_that_moved_or_were_not_compared_fail() -> None:
    assert judged(report(file(explanations=explained(0.5))), overlap=0.8)["overlap"] == ("failed", 0.5, 0.8, None)
    reasons = (
        (file(), "the run did not compare what its INT8 file looks at; run it again"),
        (file(explanations={"explainer": "occlusion", "reason": "there is one validation image"}), "there is one "),
        (file(explanations=explained(None)), "no map says where the model looks"),
    )
    for row, reason in reasons:
        status, value, _, why = judged(report(row), overlap=0.8)["overlap"]
        assert (status, value) == ("failed", None)
        assert str(why).startswith(reason)
    note = "its maps by occlusion overlap those in FP32 by 81.0 %, maps of different images by 30.0 % ("
    assert any(note in text for text in int8_notes(report(file(explanations=explained(0.81)))))


def test_test_images_come_before_validation_images() -> None:
    tested = report(file(test=drop(0.9, 0.88)))
    verdict = check_report(tested, BudgetFile.model_validate({"int8": {"accuracy_drop": "1%"}}))
    assert verdict.checks[0].name == "INT8, test accuracy drop against FP32"
    assert verdict.checks[0].value == pytest.approx(0.02)


@pytest.mark.parametrize("key", ["accuracy_drop", "agreement", "size", "speedup", "integer_layers", "overlap"])
def test_a_run_without_the_file_fails_each_limit(key: str) -> None:
    status, value, _, reason = judged(report(None), **{key: 0.5})[key]
    assert (status, value) == ("failed", None)
    assert reason == ("the run wrote no slim/model.int8.onnx; set export.precision to [fp32, int8] and run again")


def test_figures_that_were_not_measured_fail() -> None:
    assert judged(report(file(), timed=False), speedup=1)["speedup"][3] == (
        "the run did not time its INT8 file; run it again"
    )
    unread = judged(report(file(runtimes=[])), integer_layers=0.5)["integer_layers"]
    assert unread[3] == "no runtime here shows the precision of its layers"


def test_a_budget_file_is_read_and_its_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "budget.yaml"
    path.write_text("int8:\n  accuracy_drop: {fail: 1%, warn: 0.5%}\n  speedup: 2x\n", encoding="utf-8")
    limits = load_budget(path).limits.int8
    assert limits == Int8Limits.model_validate({"accuracy_drop": {"fail": 0.01, "warn": 0.005}, "speedup": 2})
    path.write_text("int8: {integer_layers: 20, sqnr: 30}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"(?s)20 is not a valid share of layers.*sqnr"):
        load_budget(path)
    path.write_text("int8: {}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="it limits nothing: give at least one of accuracy_drop, agreement, size"):
        load_budget(path)


def own(given: dict[str, Any], original: float, drop_max: float) -> list[Any]:
    facts = AccuracyFacts(original, 0.905, 1000, 10, 0.1, drop_max, MADE)
    return list(int8_own_checks(Int8FileFigures.model_validate(given), facts, None))


def test_the_run_judges_what_its_file_lost_from_the_original_on() -> None:
    runtimes, lost = own(file(), 0.9200000166893005, 0.02)  # as float32 has .92
    assert (runtimes.value, runtimes.passed) == (1, True)
    assert (lost.value, lost.limit, lost.passed) == (pytest.approx(0.02, abs=1e-12), 0.02, True)
    failed = own(file(val=drop(0.905, 0.89)), 0.92, 0.02)[1]
    assert not failed.passed
    assert failed.reason == "92.00 % of the original, 90.50 % of the slim model in FP32, 89.00 % in INT8"
    assert failed.remedy is not None
    assert failed.remedy.startswith("let layers stay in FP32 (export.int8.accuracy_control), calibrate on more images")
    pruned = own(file(val=drop(0.89, 0.89)), 0.92, 0.02)[1]
    assert (pruned.passed, pruned.remedy) == (False, None)  # INT8 lost nothing: another calibration will not help


def test_a_runtime_that_computes_something_else_fails_the_run() -> None:
    wrong = runtime(passed=False, why="it quantises layers that the file keeps in FP32: a")
    check = own(file(runtimes=[wrong]), 0.92, 0.5)[0]
    assert (check.value, check.limit, check.passed) == (0, 1, False)
    assert check.reason == "onnxruntime-cpu: it quantises layers that the file keeps in FP32: a"


def test_without_labels_agreement_with_the_original_takes_the_place_of_accuracy() -> None:
    facts = AgreementFacts(AgreementFigures(top1=0.95, images=1000), 0.91, MADE)
    check = list(int8_own_checks(Int8FileFigures.model_validate(file()), None, facts))[1]
    assert (check.name, check.value, check.passed) == ("agreement with the original, INT8", 0.9, False)


def test_limits_of_accuracy_control_are_judged_on_validation_images() -> None:
    given = file(
        agreement=0.96,
        fidelity={"p99": 0.1, "sqnr_db": 17.9, "agreement": 0.9, "images": 9},
        accuracy_control=control(),
    )
    checks = list(int8_own_checks(Int8FileFigures.model_validate(given), None, None))[1:]
    assert [(check.value, check.limit, check.passed) for check in checks] == [
        (0.96, 0.97, False),
        (pytest.approx(0.005), 0.01, True),
        (17.9, 18.0, False),
    ]
    assert checks[0].reason == "1 of at most 8 layers stay in FP32"
    assert checks[0].remedy is not None
    assert checks[0].remedy.startswith("set a stricter limit")
    missed = file(agreement=0.96, accuracy_control=control(reached=False))
    remedy = list(int8_own_checks(Int8FileFigures.model_validate(missed), None, None))[1].remedy
    assert remedy == "raise export.int8.accuracy_control.max_float_layers"


def test_the_pages_name_the_layers_in_fp32_and_what_they_cost() -> None:
    found = report(file(accuracy_control=control()))
    assert found.int8 is not None
    assert found.int8.controlled
    told = "1 layer in FP32 (b): same class on 90.00 %, SQNR 8.0 dB, 5.00 points lost -> "
    assert any(told in note for note in int8_notes(found))
    table = int8_sensitivity(found)
    assert [str(row[1]) for row in table.rows] == ["b", "a"]
    assert [row[3] for row in table.rows] == ["FP32", "INT8"]
    ((title, chart),) = views.int8_sensitivity(found)
    assert title.startswith("slim/model.int8.onnx: noise")
    assert "8.2 dB, in FP32" in chart
    text = render_markdown(found)
    assert "1.08 times" in text
