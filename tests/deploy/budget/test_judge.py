from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimsight.deploy.budget import BudgetFile, Limit, check_report, load_budget, run_checks
from slimsight.deploy.report.schema import Check, Report
from slimsight.deploy.report.units import excess_text


def parity(artifact: str, **change: Any) -> dict[str, Any]:
    row = {"artifact": artifact, "runtime": "onnxruntime", "precision": "fp32", "batch": 7}
    return row | {"max_abs": 4e-6, "p99_abs": 1e-6, "top1_agreement": 1.0, "passed": True} | change


def latency(threads: int, low: float) -> dict[str, Any]:
    ms = {"median": 1.0, "p90": 1.1, "p99": 1.2}
    speedup = {"median": low + 0.1, "low": low, "high": low + 0.2}
    return {
        "runtime": "onnxruntime",
        "precision": "fp32",
        "threads": threads,
        "batch": 1,
        "original_ms": ms,
        "slim_ms": ms,
        "speedup": speedup,
    }


def report(*, tested: bool = True, **change: Any) -> Report:
    accuracy = {"original": 0.9, "slim": 0.89} if tested else {"original": None, "slim": None}
    content: dict[str, Any] = {
        "recipe": "recipe.yaml",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "versions": {},
        "device": "cpu",
        "seed": 0,
        "original": {"macs": 40_000_001, "params": 200_000, "size_bytes": 1_000_000, "val_accuracy": 0.92},
        "slim": {"macs": 20_000_000, "params": 100_000, "size_bytes": 500_000, "val_accuracy": 0.905},
        "budget": {"macs_max": 20_000_000, "macs_used": 1.0},
        "exactness": {
            "gated_vs_slim_max_rel": 0.0,
            "cost_model_macs": 20_000_000,
            "fvcore_macs": 20_000_000,
            "groups": 1,
        },
        "parity": [parity("model.onnx"), parity("model.pt2", max_abs=2e-5)],
        "latency": [latency(1, 1.4), latency(4, 1.2)],
        "verdict": {"passed": False, "checks": []},
    }
    for name, value in accuracy.items():
        content[name]["test_accuracy"] = value
    return Report.model_validate(content | change)


def checks_of(found: Report, **limits: Any) -> tuple[Check, ...]:
    return check_report(found, BudgetFile.model_validate(limits)).checks


def test_a_whole_file(tmp_path: Path) -> None:
    lines = "macs: 50%\nparams: 150k\nsize: 0.6\naccuracy: 88%\naccuracy_drop: 1%\nparity: true\nspeedup: 1.2x\n"
    (tmp_path / "budget.yaml").write_text(lines)
    budget = load_budget(tmp_path / "budget.yaml").limits
    assert (budget.accuracy, budget.accuracy_drop) == (Limit(0.88), Limit(0.01))
    assert (budget.parity, budget.speedup) == (Limit(True), Limit(1.2))
    verdict = check_report(report(), budget)
    assert verdict.passed
    assert [(check.name, check.bound, check.limit, check.value) for check in verdict.checks] == [
        ("MACs", "max", 20_000_000, 20_000_000),
        ("parameters", "max", 150_000, 100_000),
        ("size of the weights", "max", 600_000, 500_000),
        ("test accuracy", "min", 0.88, 0.89),
        ("test accuracy drop", "max", 0.01, 0.01),
        ("parity, rows passed", "min", 2, 2),
        ("speed-up, low end, onnxruntime fp32, 1 thread, batch 1", "min", 1.2, 1.4),
        ("speed-up, low end, onnxruntime fp32, 4 threads, batch 1", "min", 1.2, 1.2),
    ]


@pytest.mark.parametrize(
    ("limits", "failing"),
    [
        ({"macs": 0.49}, {"MACs": 20_000_000}),
        ({"params": 99_999}, {"parameters": 100_000}),
        ({"size": "499.9kB"}, {"size of the weights": 500_000}),
        ({"accuracy": "89.01%"}, {"test accuracy": 0.89}),
        ({"accuracy_drop": "0.99%"}, {"test accuracy drop": 0.01}),
        ({"parity": "1e-5"}, {"parity of model.pt2 in onnxruntime fp32, batch 7": 2e-5}),
        ({"speedup": 1.3}, {"speed-up, low end, onnxruntime fp32, 4 threads, batch 1": 1.2}),
    ],
)
def test_a_limit_that_does_not_hold(limits: dict[str, Any], failing: dict[str, float]) -> None:
    verdict = check_report(report(), BudgetFile.model_validate(limits))
    assert not verdict.passed
    assert {item.check.name: item.check.value for item in verdict.failed} == failing


def test_validation_images_stand_in_for_test_images() -> None:
    floor, drop = checks_of(report(tested=False), accuracy=0.9, accuracy_drop=0.01)
    assert (floor.name, floor.value, floor.passed) == ("validation accuracy", 0.905, True)
    assert (drop.name, drop.value, drop.passed) == ("validation accuracy drop", 0.015, False)


def test_a_gain_is_a_negative_drop() -> None:
    found = report()
    slim = found.slim.model_copy(update={"test_accuracy": 0.91})
    (drop,) = checks_of(found.model_copy(update={"slim": slim}), accuracy_drop=0)
    assert (drop.value, drop.passed) == (-0.01, True)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"parity": True}, "the report has no parity rows; export the model and run again"),
        ({"parity": 1e-4}, "the report has no parity rows; export the model and run again"),
        ({"speedup": 1.1}, "the report has no latency rows; time the models and run again"),
    ],
)
def test_a_missing_figure_fails(limits: dict[str, Any], reason: str) -> None:
    (check,) = checks_of(report(parity=[], latency=[]), **limits)
    assert (check.value, check.passed, check.reason) == (None, False, reason)


def test_logits_that_are_not_finite_fail_any_parity_limit() -> None:
    found = report(parity=[parity("model.onnx", max_abs=float("nan"), passed=False)])
    (by_number,) = checks_of(found, parity=1e3)
    assert (by_number.value, by_number.passed) == (None, False)
    assert by_number.reason == "the logits are not finite numbers"
    (by_row,) = checks_of(found, parity=True)
    assert (by_row.value, by_row.passed) == (0, False)
    assert by_row.reason == "failed: model.onnx in onnxruntime fp32, batch 7"


@given(percent=st.integers(1, 100), hundreds=st.integers(1, 10**8))
def test_a_ratio_is_exact_whatever_floats_do(percent: int, hundreds: int) -> None:
    amount = BudgetFile.model_validate({"macs": f"{percent}%"}).macs
    assert amount is not None
    assert amount.fail is not None
    assert amount.fail.limit(100 * hundreds) == percent * hundreds


def test_an_amount_is_exact_too() -> None:
    budget = BudgetFile.model_validate({"macs": "4.1G"})  # 4.1 * 1e9 is 4099999999.9999995
    assert budget.macs is not None
    assert budget.macs.fail is not None
    assert budget.macs.fail.limit(1) == 4_100_000_000


def test_a_run_judges_itself_here_too() -> None:
    found = report()
    assert run_checks(
        slim=found.slim, budget=found.budget, exactness=found.exactness, accuracy=None, parity=found.parity
    ).passed


def test_a_warning_passes_and_says_by_how_much() -> None:
    budget = BudgetFile.model_validate(
        {"macs": {"fail": "21M", "warn": "19M"}, "accuracy": {"fail": "80%", "warn": "90%"}}
    )
    verdict = check_report(report(), budget)
    assert verdict.passed
    assert [(item.check.name, item.check.limit, item.status) for item in verdict.items] == [
        ("MACs", 19_000_000, "warned"),
        ("test accuracy", 0.9, "warned"),
    ]
    assert [excess_text(item.check) for item in verdict.items] == ["5.3 % above", "1.00 points below"]
    assert verdict.summary() == "all 2 checks passed, 2 warned"


def test_what_fails_is_no_warning_too() -> None:
    verdict = check_report(report(), BudgetFile.model_validate({"macs": {"fail": "19M", "warn": "18M"}}))
    assert not verdict.passed
    assert [(item.status, item.check.limit) for item in verdict.items] == [("failed", 19_000_000)]


def test_a_missing_figure_with_a_warning_alone_warns() -> None:
    verdict = check_report(report(latency=[]), BudgetFile.model_validate({"speedup": {"warn": 1.5}}))
    assert [item.status for item in verdict.items] == ["warned"]


def test_parity_may_fail_by_rows_and_warn_by_figures() -> None:
    verdict = check_report(report(), BudgetFile.model_validate({"parity": {"fail": True, "warn": 1e-5}}))
    assert [(item.check.name, item.status) for item in verdict.by_urgency] == [
        ("parity of model.pt2 in onnxruntime fp32, batch 7", "warned"),
        ("parity, rows passed", "ok"),
        ("parity of model.onnx in onnxruntime fp32, batch 7", "ok"),
    ]
