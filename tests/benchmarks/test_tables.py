import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(variant: str, seed: int, **figures: float) -> dict[str, object]:
    return {
        "variant": variant,
        "seed": seed,
        "macs": 50,
        "baseline_macs": 100,
        "gated_val_accuracy": 0.5,
        "val_accuracy": 0.9,
        "test_accuracy": 0.8,
        "baseline_val_accuracy": 0.95,
        "baseline_test_accuracy": 0.9,
        "center_drift_px": 2.0,
        "iou": 0.7,
        "speedup": 1.5,
        **figures,
    }


def test_the_readme_says_what_the_results_say(tables: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run benchmarks/tables.py"


def test_a_table_gives_mean_and_spread_over_seeds(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    rows = [row("rbf", 0, test_accuracy=0.80), row("rbf", 1, test_accuracy=0.82), row("none", 0)]
    results = {"device": "a CPU", "rows": rows}
    (tmp_path / "results" / "cifar10_resnet20_keep50.json").write_text(json.dumps(results), encoding="utf-8")
    tables.HERE = tmp_path
    text = tables.filled("before\n<!-- table: keep50 -->\nold\n<!-- end -->\nafter\n")
    lines = text.splitlines()
    assert lines[0] == "before"
    assert lines[-1] == "after"
    steered = next(line for line in lines if "steered by RBF" in line)
    assert "| 2 | 0.5000 ± 0.0000 |" in steered
    assert "| 0.8100 ± 0.0141 | -9.00 ± 1.41 |" in steered
    alone = next(line for line in lines if "not steered" in line)
    assert "| 1 | 0.5000 |" in alone
    assert "±" not in alone
    assert "old" not in text


def test_gate_steps_stand_by_network_and_batch(tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    common = {"network": "resnet8@32", "rounds": 20, "ratio_low": 0.5, "ratio_high": 0.75, "start_seconds": None}
    rows = [
        {**common, "batch": 128, "form": "plain network", "ms": 400.0, "ratio": 1.0},
        {**common, "batch": 128, "form": "compiled", "ms": 240.0, "ratio": 0.6, "start_seconds": 31.4},
        {**common, "batch": 32, "form": "plain network", "ms": 100.0, "ratio": 1.0},
    ]
    results = {"device": "a CPU", "processor": "AVX512", "rows": rows}
    (tmp_path / "results" / "gate_step.json").write_text(json.dumps(results), encoding="utf-8")
    tables.HERE = tmp_path
    lines = tables.gate_step().splitlines()
    assert lines[0] == "| | resnet8 at 32, batch 128 | resnet8 at 32, batch 32 |"
    assert lines[2] == "| plain network | 400 ms | 100 ms |"
    assert lines[3] == "| compiled | 0.60 (0.50 to 0.75) |  |"
    assert "20 rounds or more" in lines[5]
    assert lines[5].endswith("31 s.")
