import math
from typing import Any

import pytest
from pydantic import ValidationError

from slimsight.deploy.report.schema import Check, ParityRow, Report, Verdict

DESIGN_NAMES = {
    "": "schema recipe created versions device seed original slim gated budget exactness parity latency "
    "saliency stages verdict",
    "original": "macs params size_bytes val_accuracy test_accuracy",
    "slim": "macs params size_bytes val_accuracy test_accuracy",
    "gated": "val_accuracy",
    "budget": "macs_max macs_used",
    "exactness": "gated_vs_slim_max_rel cost_model_macs fvcore_macs groups frozen_groups",
    "parity": "artifact runtime precision batch max_abs p99_abs top1_agreement passed",
    "latency": "runtime precision threads batch original_ms slim_ms speedup",
    "saliency": "explainer center_drift_px iou",
    "stages": "name seconds reused",
    "verdict": "passed checks",
}


def check(**change: Any) -> Check:
    return Check(**{"name": "MACs", "limit": 10, "value": 9, "passed": True, "unit": "MACs"} | change)


@pytest.mark.parametrize("section", DESIGN_NAMES)
def test_json_has_the_names_others_read(report: Report, section: str) -> None:
    found: Any = report.model_dump(mode="json", by_alias=True)
    found = found[section] if section else found
    found = found[0] if isinstance(found, list) else found
    assert set(DESIGN_NAMES[section].split()) <= set(found)


def test_optional_figures_are_left_out_and_required_ones_null(content: dict[str, Any]) -> None:
    content["slim"]["test_accuracy"] = None
    del content["gated"]
    content["verdict"] = {
        "passed": False,
        "checks": [check(value=None, passed=False, reason="none").model_dump()],
    }
    found = Report.model_validate(content).model_dump(mode="json", by_alias=True)
    assert found["slim"]["test_accuracy"] is None
    assert found["verdict"]["checks"][0]["value"] is None
    assert "gated" not in found
    assert "params_max" not in found["budget"]
    assert "dynamic_ms" not in found["latency"][0]
    assert "reason" in found["verdict"]["checks"][0]


def test_unknown_names_and_impossible_figures_are_refused(content: dict[str, Any]) -> None:
    content["slim"]["flops"] = 1
    content["original"]["val_accuracy"] = 88.4
    content["channels"][0]["kept"] = 17
    with pytest.raises(ValidationError) as caught:
        Report.model_validate(content)
    assert caught.value.error_count() == 3
    assert "keeps 17 of 16 channels" in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_parity_that_is_not_finite_is_recorded_and_cannot_pass(content: dict[str, Any], bad: float) -> None:
    row = content["parity"][0] | {"max_abs": bad, "p99_abs": bad}
    assert ParityRow(**row | {"passed": False}).max_abs is None
    with pytest.raises(ValidationError, match="without a finite max_abs cannot have passed"):
        ParityRow(**row)


def test_verdict_follows_from_its_checks() -> None:
    good, bad = check(), check(name="parity", value=11, passed=False)
    assert Verdict.of([good, good]).passed
    verdict = Verdict.of([good, bad])
    assert not verdict.passed
    assert verdict.failed == (bad,)
    assert not Verdict.of([]).passed
    with pytest.raises(ValidationError, match="does not follow from the checks"):
        Verdict(passed=True, checks=(good, bad))
    with pytest.raises(ValidationError, match="check 'MACs' has no value and cannot have passed"):
        check(value=None)


def test_is_frozen(report: Report) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        report.seed = 4  # type: ignore[misc]
