from typing import Any

import pytest

from slimsight.deploy.budget import run_checks
from slimsight.deploy.report.schema import Report, Verdict
from slimsight.deploy.report.units import check_texts


def verdict_of(content: dict[str, Any]) -> Verdict:
    report = Report.model_validate(content)
    return run_checks(
        slim=report.slim,
        budget=report.budget,
        exactness=report.exactness,
        accuracy=None,
        parity=report.parity,
        latency=report.latency,
    )


def test_a_good_run(content: dict[str, Any]) -> None:
    verdict = verdict_of(content)
    assert verdict.passed
    assert [(check.name, check.limit, check.value) for check in verdict.checks] == [
        ("MACs", 20_557_824, 20_500_000),
        ("exactness, gated against slim", 1e-5, 3.1e-7),
        ("cost model against fvcore", 20_500_000, 20_500_000),
        ("parity, rows passed", 2, 2),
    ]


@pytest.mark.parametrize(
    ("section", "change", "failing"),
    [
        ("slim", {"macs": 20_557_825}, "MACs"),
        ("exactness", {"gated_vs_slim_max_rel": 1.1e-5}, "exactness, gated against slim"),
        ("exactness", {"gated_vs_slim_max_rel": float("nan")}, "exactness, gated against slim"),
        ("exactness", {"cost_model_macs": 20_500_001}, "cost model against fvcore"),
        ("budget", {"params_max": 149_999}, "parameters"),
        ("budget", {"latency_ms_max": 0.5}, "median latency, onnxruntime fp32, 1 thread, batch 1"),
        ("budget", {"latency_ratio_max": 0.64}, "median latency, onnxruntime fp32, 1 thread, batch 1"),
    ],
)
def test_one_thing_wrong(content: dict[str, Any], section: str, change: dict[str, Any], failing: str) -> None:
    content[section] |= change
    assert [check.name for check in verdict_of(content).failed] == [failing]


def test_a_latency_budget_for_int8_limits_the_int8_file(content: dict[str, Any]) -> None:
    (row,) = content["latency"]
    ms = {name: row["slim_ms"][name] / 2 for name in row["slim_ms"]}
    row |= {"int8_ms": ms, "int8_speedup": {name: 2 * value for name, value in row["speedup"].items()}}
    allowed = 0.6 * row["slim_ms"]["median"]
    content["budget"] |= {"latency_ms_max": allowed}
    assert not verdict_of(content).passed
    content["budget"] |= {"latency_precision": "int8"}
    (check,) = [check for check in verdict_of(content).checks if "latency" in check.name]
    assert check.name == "median latency, INT8 in onnxruntime fp32, 1 thread, batch 1"
    assert (check.passed, check.limit, check.value) == (True, allowed, ms["median"])
    del row["int8_ms"]
    assert [check.name for check in verdict_of(content).failed] == ["latency"]


def test_failed_parity_is_named(content: dict[str, Any]) -> None:
    content["parity"][1]["passed"] = False
    (failed,) = verdict_of(content).failed
    assert (failed.limit, failed.value) == (2, 1)
    assert failed.reason == "failed: slim/model.pt2 in torch.export fp32, batch 1"


def test_without_exports_there_is_no_parity_check(content: dict[str, Any]) -> None:
    content["parity"] = []
    verdict = verdict_of(content)
    assert verdict.passed
    assert len(verdict.checks) == 3


def test_a_ratio_is_one_to_the_original_of_the_same_row(content: dict[str, Any]) -> None:
    """0.521 of 0.814 ms is 64.0 %, 1.4 of 2.0 ms is 70 %: with the first row's original, 1.4 ms would be 172 %."""
    (row,) = content["latency"]
    slower = {"original_ms": row["original_ms"] | {"median": 2.0}, "slim_ms": row["slim_ms"] | {"median": 1.4}}
    content["latency"].append(row | slower | {"batch": 8})
    content["budget"]["latency_ratio_max"] = 0.71
    verdict = verdict_of(content)
    assert verdict.passed
    assert [(check.limit, check.value) for check in verdict.checks if check.unit == "ms"] == [
        (pytest.approx(0.71 * 0.814), 0.521),
        (pytest.approx(0.71 * 2.0), 1.4),
    ]
    content["budget"]["latency_ratio_max"] = 0.69
    assert [check.name for check in verdict_of(content).failed] == [
        "median latency, onnxruntime fp32, 1 thread, batch 8"
    ]


@pytest.mark.parametrize(
    ("limit", "text"),
    [({"latency_ms_max": 1.0}, "at most 1.00 ms"), ({"latency_ratio_max": 0.95}, "at most 95.0 % of the original")],
)
def test_a_latency_budget_without_latency_fails(content: dict[str, Any], limit: dict[str, float], text: str) -> None:
    content["budget"] |= limit
    content["latency"] = []
    (failed,) = verdict_of(content).failed
    assert failed.value is None
    assert failed.reason == "the report has no latency rows; time the models and run again"
    assert check_texts(failed) == (text, "missing")
