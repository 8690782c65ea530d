import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_what_steering_changed_stands_beside_every_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    drift = importlib.import_module("tables_drift").drift

    def row(seed: int, overlap: float, change: float) -> dict[str, object]:
        figures = {"region_iou": {"mean": overlap}}
        states = ("after_surgery", "finetuned")
        changed = {name: {"mean": change, "standard_error": 0.02} for name in ("region_iou", "center_px")}
        return {
            "explainer": "gradient",
            "seed": seed,
            "images": 1000,
            "drift": {state: dict.fromkeys(("rbf", "none", "magnitude", "uniform"), figures) for state in states},
            "steered_minus_unsteered": dict.fromkeys(states, changed),
        }

    lines = drift({"rows": [row(0, 0.4, 0.05), row(1, 0.5, 0.03)]}).splitlines()
    assert len(lines) == 6
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert lines[2].startswith("| after surgery | gradient | 0.450 ± 0.071 | 0.450 ± 0.071 | ")
    assert lines[2].endswith("| **+0.040** (+0.050*, +0.030) | **+0.04** (+0.05*, +0.03) |")
    assert "1000 validation images" in lines[-1]


def test_a_line_per_loss_says_what_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    table = importlib.import_module("tables_drift").steered_finetuning

    def loss(overlap: float, change: float | None) -> dict[str, object]:
        drift = {"center_px": {"mean": 2.0}, "region_iou": {"mean": overlap}}
        changed = {figure: {"mean": change, "standard_error": 0.01} for figure in drift}
        row = {"val_accuracy": 0.88, "test_accuracy": 0.85, "drift": {"rbf": drift, "gradient": drift}}
        return row if change is None else row | {"minus_plain": {"rbf": changed, "gradient": changed}}

    def row(seed: int, change: float) -> dict[str, object]:
        losses = {"plain": loss(0.6, None), "steered": loss(0.7, change), "distilled": loss(0.6, 0.01)}
        return {"seed": seed, "variant": "rbf", "epochs": 2, "losses": losses}

    rows = [row(0, 0.05), row(1, 0.01)]
    lines = table({"rows": rows}).splitlines()
    assert len(lines) == 7
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[2].startswith("| steered | cross entropy | 0.8800 ± 0.0000 | 0.8500 ± 0.0000 | 2.00 ± 0.00 | 0.600")
    assert lines[3].endswith("| 0.700 ± 0.000 (+0.050*, +0.010) |")
    assert "2 seeds" in lines[-1]
    for each, change in zip(rows, (0.03, -0.01), strict=True):
        losses = each["losses"]
        assert isinstance(losses, dict)
        losses["both"] = loss(0.7, 0.1) | {"minus_distilled": loss(0.7, change)["minus_plain"]}
    lines = table({"rows": rows}).splitlines()
    assert len(lines) == 9
    assert lines[-1].endswith("per seed: by rbf +0.030*, -0.010; by gradient +0.030*, -0.010.")
