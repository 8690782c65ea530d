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
