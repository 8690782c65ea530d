from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.errors import ConfigError
from deploy.budget import Amount, BudgetFile, Limit, check_report, load_budget
from deploy.report.checks import run_checks
from deploy.report.schema import Check, Report
from deploy.report.units import excess_text


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


def write(folder: Path, text: str) -> Path:
    path = folder / "budget.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("key", "given_value", "amount"),
    [
        ("macs", 0.5, Amount(0.5, relative=True)),
        ("macs", 1, Amount(1.0, relative=True)),
        ("macs", "50%", Amount(0.5, relative=True)),
        ("macs", "100 %", Amount(1.0, relative=True)),
        ("macs", 20_000_000, Amount(20e6, relative=False)),
        ("macs", "20M", Amount(20e6, relative=False)),
        ("macs", "20e6", Amount(20e6, relative=False)),
        ("macs", "4.5 G", Amount(4.5e9, relative=False)),
        ("macs", "0.5 GMACs", Amount(0.5e9, relative=False)),
        ("macs", "60 MMACs", Amount(60e6, relative=False)),
        ("latency", "3 ms", Amount(3.0, relative=False)),
        ("latency", "60 %", Amount(0.6, relative=True)),
        ("params", "500k", Amount(500e3, relative=False)),
        ("params", "0.5M", Amount(500e3, relative=False)),
        ("size", "1.2MB", Amount(1.2e6, relative=False)),
        ("size", "800 kB", Amount(800e3, relative=False)),
        ("size", "2MiB", Amount(2 * 2**20, relative=False)),
        ("size", "900B", Amount(900.0, relative=False)),
    ],
)
def test_amounts(key: str, given_value: object, amount: Amount) -> None:
    assert getattr(BudgetFile.model_validate({key: given_value}), key) == Limit(amount)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "macs: 20MB",
            r"macs: '20MB' is no limit on MACs: give a ratio to the original up to 1 \(0.5 or 50%\) or",
        ),
        ("macs: 0", "macs: 0 is no limit on MACs"),
        ("macs: -1", "macs: -1 is no limit on MACs"),
        ("macs: true", "macs: True is no limit on MACs"),
        ("macs: .nan", "macs: nan is no limit on MACs"),
        ("macs: [1]", r"macs: \[1\] is no limit on MACs"),
        ("macs: 120%", "macs: '120%' would let MACs grow"),
        ("macs: 40", r"macs: 40 is neither a ratio nor a plausible amount of MACs: .*20M, 500k, "),
        ("params: lots", "params: 'lots' is no limit on parameters"),
        ("size: 1.2 XB", "size: '1.2 XB' is no limit on bytes: .*1.2MB, 800kB, 2MiB"),
        (
            "accuracy: 88",
            r"accuracy: 88 is no accuracy: give a share from 0 to 1 or a percentage \(0.88 or '88%'\)",
        ),
        ("accuracy_drop: 1", "accuracy_drop: 1 is a drop by 100 points: write '1%'"),
        ("accuracy_drop: -1%", "accuracy_drop: '-1%' is no accuracy drop"),
        (
            "parity: false",
            "parity: False is no limit on parity: give true .* remove the line to check nothing",
        ),
        ("parity: 0", "parity: 0 is no limit on parity"),
        ("speedup: fast", r"speedup: 'fast' is no speed-up: give the least ratio allowed \(1.3 or 1.3x\)"),
        ("macs:", "macs: has no value: give one or remove the line"),
        ("mac: 50%", r"mac: unknown key; allowed: macs, params, size, latency, .*; did you mean 'macs'\?"),
        ("speed_up: 2", r"speed_up: unknown key; .*; did you mean 'speedup'\?"),
        ("zzz: 2", r"zzz: unknown key; allowed: macs, params"),
        (
            "",
            "budget: it limits nothing: give at least one of macs, params, size, latency, speedup, accuracy, ",
        ),
        ("macs: 50%\nmacs: 60%", "macs: written twice, in line 1 and line 2; keep one"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"is not a usable budget file:\n  (line \d+: )?{message}"):
        load_budget(write(tmp_path, line))


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_budget(write(tmp_path, "mac: 1\nsize: 3\naccuracy: 88\nspeedup: 1.2\n"))
    assert [line.split(":")[:2] for line in str(caught.value).splitlines()[1:]] == [
        ["  line 1", " mac"],
        ["  line 2", " size"],
        ["  line 3", " accuracy"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs: [", r"budget.yaml is not YAML \(.*line 1, column 8"),
        ("- macs", r"budget.yaml is not a budget file: it holds \['macs'\], not lines such as 'macs: 50%'"),
        ("half", "is not a budget file: it holds 'half'"),
        ("? [a]\n: 1", r"budget.yaml is not YAML \(line 1, column 3: found unhashable key"),
    ],
)
def test_not_a_budget_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_budget(write(tmp_path, text))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no budget file at .*none\.yaml: check --budget"):
        load_budget(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the budget file .*: it is a folder, and a file is needed"):
        load_budget(tmp_path)


def test_a_whole_file(tmp_path: Path) -> None:
    lines = "macs: 50%\nparams: 150k\nsize: 0.6\naccuracy: 88%\naccuracy_drop: 1%\nparity: true\nspeedup: 1.2x\n"
    budget = load_budget(write(tmp_path, lines)).limits
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
    assert run_checks(slim=found.slim, budget=found.budget, exactness=found.exactness, parity=found.parity).passed


def test_a_warning_passes_and_says_by_how_much() -> None:
    budget = BudgetFile.model_validate(
        {"macs": {"fail": "21M", "warn": "19M"}, "accuracy": {"fail": "80%", "warn": "90%"}}
    )
    verdict = check_report(report(), budget)
    assert verdict.passed
    assert [(item.check.name, item.check.limit, item.status) for item in verdict.found] == [
        ("MACs", 19_000_000, "warned"),
        ("test accuracy", 0.9, "warned"),
    ]
    assert [excess_text(item.check) for item in verdict.found] == ["5.3 % above", "1.00 points below"]
    assert verdict.summary() == "all 2 checks passed, 2 warned"


def test_what_fails_is_no_warning_too() -> None:
    verdict = check_report(report(), BudgetFile.model_validate({"macs": {"fail": "19M", "warn": "18M"}}))
    assert not verdict.passed
    assert [(item.status, item.check.limit) for item in verdict.found] == [("failed", 19_000_000)]


def test_a_missing_figure_with_a_warning_alone_warns() -> None:
    verdict = check_report(report(latency=[]), BudgetFile.model_validate({"speedup": {"warn": 1.5}}))
    assert [item.status for item in verdict.found] == ["warned"]


def test_parity_may_fail_by_rows_and_warn_by_figures() -> None:
    verdict = check_report(report(), BudgetFile.model_validate({"parity": {"fail": True, "warn": 1e-5}}))
    assert [(item.check.name, item.status) for item in verdict.by_urgency] == [
        ("parity of model.pt2 in onnxruntime fp32, batch 7", "warned"),
        ("parity, rows passed", "ok"),
        ("parity of model.onnx in onnxruntime fp32, batch 7", "ok"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("macs: {fail: 60M, warn: 70M}", "line 1: macs.warn: '70M' never warns before '60M' fails: give a level below"),
        ("accuracy: {fail: 88%, warn: 80%}", "line 1: accuracy.warn: '80%' never warns before '88%' fails: .* above"),
        ("macs:\n  fail: 60M\n  wran: 55M", "line 3: macs.wran: unknown key; .* did you mean 'warn'?"),
        ("macs:\n  fail: 60M\n  warn:", "line 3: macs.warn: has no value"),
        ("macs: {}", "line 1: macs: {} gives no limit: give one value, or {fail: ..., warn: ...}"),
    ],
)
def test_levels_that_mean_nothing(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace("{", r"\{")):
        load_budget(write(tmp_path, line))
