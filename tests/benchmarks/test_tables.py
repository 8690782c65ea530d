import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("tables")


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


def test_the_pages_say_what_the_results_say(tables: ModuleType) -> None:
    found = set()
    for page in tables.PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, "run benchmarks/tables.py"
        found |= set(re.findall(r"<!-- table: (\w+) -->", text))
    assert found == set(tables.TABLES), "every table stands on a page"


def test_a_table_gives_mean_and_spread_over_seeds(tables: ModuleType, tmp_path: Path) -> None:
    rows = [row("rbf", 0, test_accuracy=0.80), row("rbf", 1, test_accuracy=0.82), row("none", 0)]
    results = {"device": "a CPU", "rows": rows}
    (tmp_path / "cifar10_resnet20_keep50.json").write_text(json.dumps(results), encoding="utf-8")
    text = tables.filled("before\n<!-- table: keep50 -->\nold\n<!-- end -->\nafter\n", tmp_path)
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


def test_gate_steps_stand_by_network_and_batch(tables: ModuleType) -> None:
    common = {"network": "resnet8@32", "rounds": 20, "ratio_low": 0.5, "ratio_high": 0.75, "start_seconds": None}
    rows = [
        {**common, "batch": 128, "form": "plain network", "ms": 400.0, "ratio": 1.0},
        {**common, "batch": 128, "form": "compiled", "ms": 240.0, "ratio": 0.6, "start_seconds": 31.4},
        {**common, "batch": 32, "form": "plain network", "ms": 100.0, "ratio": 1.0},
    ]
    results = {"device": "a CPU", "processor": "AVX512", "rows": rows}
    lines = tables.gate_step(results).splitlines()
    assert lines[0] == "| | resnet8 at 32, batch 128 | resnet8 at 32, batch 32 |"
    assert lines[2] == "| plain network | 400 ms | 100 ms |"
    assert lines[3] == "| compiled | 0.60 (0.50 to 0.75) |  |"
    assert "20 rounds or more" in lines[5]
    assert lines[5].endswith("31 s.")


def test_drift_stands_beside_the_control(tables: ModuleType) -> None:
    moved = {"center_drift_px": 4.0, "iou": 0.5, "val_accuracy": 0.7}
    rows = [
        {
            "seed": seed,
            "after_surgery": dict.fromkeys(("rbf", "none", "magnitude", "uniform"), moved),
            "shared_channels": {"rbf/none": 0.8, "rbf/magnitude": 0.5, "rbf/uniform": 0.4},
            "gate_gradients": {"ce": 0.5, "steer": 0.1 + 0.1 * seed},
            "control": {"center_drift_px": 1.0 + seed, "iou": 0.9, "val_accuracy": 0.95},
        }
        for seed in (0, 1)
    ]
    lines = tables.steering({"rows": rows}).splitlines()
    assert lines[2].startswith("| learned, steered by RBF explanations | 4.00 ± 0.00 | 0.500 ± 0.000 | 0.700 ± 0.000 |")
    assert lines[3].endswith("| 0.80 ± 0.00 |")
    assert "| 1.50 ± 0.71 | 0.900 ± 0.000 |" in lines[6]
    assert "was 0.30 ± 0.14 of that of cross entropy" in lines[8]


def test_efficiency_stands_by_method_and_network(tables: ModuleType) -> None:
    common = {"speedup": 1.5, "speedup_low": 1.4, "speedup_high": 1.6, "kept": 0.5, "efficiency": 0.75}
    rows = [{**common, "network": "a@32", "method": method} for method in ("original", "ours", "theirs")]
    lines = tables.efficiency({"device": "a CPU", "rows": rows}).splitlines()
    assert lines[0] == "| | a at 32: speed-up | MACs kept | efficiency |"
    assert lines[2:4] == [f"| {name} | 1.50 (1.40 to 1.60) | 0.500 | 0.75 |" for name in ("ours", "theirs")]


def test_a_budget_that_was_not_met_says_so(tables: ModuleType) -> None:
    row = {
        "network": "a@32",
        "macs_budget": 0.5,
        "latency_budget": 0.6,
        "macs_kept": 0.49,
        "latency_kept": 0.61,
        "original_ms": 10.0,
        "slim_ms": 6.1,
        "speedup": 1.64,
        "speedup_low": 1.6,
        "speedup_high": 1.7,
        "met": False,
    }
    line = tables.combined({"rows": [row]}).splitlines()[2]
    assert line.startswith("| a at 32 | MACs 50 %, latency 60 % | 0.4900 | 0.610 | 10.0 ms | 6.1 ms |")
    assert line.endswith("| NO |")


def test_a_refused_model_is_named_with_its_reason(tables: ModuleType) -> None:
    plan = {"macs_kept": 0.5, "max_rel": 1e-15, "max_rel_float32": 2e-7, "cost_model_macs": 5, "fvcore_macs": 6}
    whole = {
        "model": "torchvision:a",
        "macs": 10**7,
        "groups": 3,
        "smallest_macs": 10**5,
        "seconds": 2.0,
        "threads": 2,
        "frozen_groups": [{"name": "head", "reason": "its channels are the network's output"}],
        "plan": {**plan, "seconds": 1.0},
    }
    rows = [whole, {"model": "torchvision:b", "error": "cannot be followed", "threads": 2}]
    lines = tables.zoo({"device": "a CPU", "rows": rows}).splitlines()
    assert lines[2] == "| a | 10 M | 3 | 1 | 1.0 % | 0.5000 | 1e-15 | 2e-07 | NO | 2 + 1 |"
    assert "- refused: cannot be followed (b)" in lines


def area_of(mean: float) -> dict[str, object]:
    return {"mean": mean, "standard_error": 0.1, "images": 9}


def kl_row(name: str, mean: float, versus: float | None = None) -> dict[str, object]:
    row = {"explainer": name, "test": "perturbation", "images": 9, "constant_maps": 0}
    row["result"] = {"kl": {"area": area_of(mean)}, "change": {"area": area_of(0.5)}}
    return row if versus is None else row | {"versus_control": {"kl": area_of(versus), "change": area_of(0.0)}}


def test_explainers_stand_best_first_with_their_errors_and_what_they_beat(tables: ModuleType) -> None:
    rows = [kl_row("random", 2.0), kl_row("gradient", 1.5, -0.5), kl_row("rbf", 1.0, -1.0)]
    orderings = importlib.import_module("trust_orderings").orderings(rows)
    found = {"rows": rows, "schedules": {"rbf": "rbf: short"}, "orderings": orderings}
    lines = tables.trust(found).splitlines()
    assert lines[0] == "| explainer | KL, nats ↓ | change in output ↓ |"
    assert lines[2:5] == [
        "| rbf | **1.000 ± 0.100** | 0.500 ± 0.100 |",
        "| gradient | 1.500 ± 0.100 | **0.500 ± 0.100** |",
        "| *random* | 2.000 ± 0.100 | 0.500 ± 0.100 |",
    ]
    assert "(perturbation 9)" in lines[6]
    assert "rbf: short" in lines[6]
    assert lines[8] == "| test | beat random maps | beat an edge detector | beat the distance to the centre |"
    assert lines[10] == "| perturbation (VarSal: KL) | 2 of 2 |  |  |"
    assert lines[11].startswith("| perturbation (PruneGrad: output change) | 0 of 2; undecided: gradient, rbf")


def test_a_claim_counts_from_two_standard_errors_on(tables: ModuleType) -> None:
    orderings = importlib.import_module("trust_orderings").orderings
    rows = [kl_row("random", 2.2), kl_row("edges", 2.0, -1.0), kl_row("rbf", 1.9, -0.3), kl_row("gradient", 2.5, 0.15)]
    rows += [kl_row("grad_cam", 1.0, 0.3), kl_row("realx", 2.5, -0.3)]
    claims = {(c["against"], c["figure"], c["explainer"]): c for c in orderings(rows)}
    against = {name: claims["random", "kl", name]["verdict"] for name in ("rbf", "gradient", "grad_cam")}
    assert against == {"rbf": "agrees", "gradient": "undecided", "grad_cam": "disagrees"}
    against = {name: claims["edges", "kl", name]["verdict"] for name in ("rbf", "gradient", "grad_cam")}
    assert against == {"rbf": "undecided", "gradient": "disagrees", "grad_cam": "agrees"}
    assert claims["random", "kl", "rbf"]["text"].endswith("rbf beats random maps (here by +0.3000 ± 0.1000, 9 images)")
    assert claims["edges", "kl", "gradient"]["text"].endswith("(here by -0.5000 ± 0.1414, 9 images)")
    assert claims["paper", "kl", "rbf"]["verdict"] == "agrees"  # than realx
    assert ("random", "kl", "edges") not in claims


def test_retraining_is_held_against_hooker_et_al(tables: ModuleType) -> None:
    orderings = importlib.import_module("trust_orderings").orderings

    def row(name: str, seed: int, mean: float) -> dict[str, object]:
        accuracy = {"mean": mean, "standard_error": 0.01, "images": 9}
        return {"explainer": name, "share": 0.7, "seed": seed, "accuracy": accuracy}

    rows = [row("random", 0, 0.5), row("random", 1, 0.5), row("gradient", 0, 0.4), row("gradient", 1, 0.4)]
    rows += [row("smoothgrad_squared", 0, 0.3), row("smoothgrad_squared", 1, 0.5)]
    claims = {claim["explainer"]: claim for claim in orderings([], rows)}
    assert claims["gradient"]["verdict"] == "disagrees"
    assert claims["gradient"]["text"].endswith("(here it costs +10.0 ± 1.0 points of accuracy more)")
    assert claims["smoothgrad_squared"]["verdict"] == "undecided"  # seeds differ by more than what they show
    assert claims["smoothgrad_squared"]["text"].endswith("(here it costs +10.0 ± 10.0 points of accuracy more)")
    assert claims["guided_backprop"]["text"].endswith("(not measured)")


def test_retraining_in_a_table(tables: ModuleType) -> None:
    def row(name: str, share: float, seed: int, mean: float) -> dict[str, object]:
        accuracy = {"mean": mean, "standard_error": 0.03, "images": 9}
        return {"explainer": name, "share": share, "seed": seed, "accuracy": accuracy}

    schedule = {"network": "resnet8", "images": 5000, "epochs": 3, "test_images": 9}
    rows = [row("nothing", 0.0, 0, 0.6), row("random", 0.7, 0, 0.5), row("rbf", 0.7, 0, 0.3), row("rbf", 0.7, 1, 0.4)]
    lines = importlib.import_module("tables_trust").roar({"schedule": schedule, "rows": rows}).splitlines()
    assert lines[0] == "| explainer | 70% removed | trainings |"
    assert lines[2:4] == ["| *random* | 0.500 | 1 |", "| rbf | 0.350 ± 0.071 | 2 |"]
    assert "0.600 with nothing removed" in lines[5]


def test_the_lab_s_intervals_are_counted(tables: ModuleType) -> None:
    common = {"width": 0.02, "noise": [], "median_ms": 0.5, "slowed_by": None}
    rows = [
        {**common, "study": study, "speedup": low + 0.01, "low": low, "high": low + 0.02}
        for study, low in (("same", 0.99), ("same", 1.005), ("one_opening", 0.99), ("one_opening", 0.99))
    ]
    slowed = {**common, "study": "slowed", "speedup": 0.95, "low": 0.94, "high": 0.96, "slowed_by": 0.05}
    rows += [slowed, {**slowed, "high": 1.01, "width": 0.07, "noise": ["wide"]}]
    lines = tables.latency_lab({"machine": {"processor": "P", "usable_cores": 2}, "rows": rows}).splitlines()
    assert lines[2] == ("| a model against itself | 2 | contains 1 | 1 of 2 | 2.0 % | 2.0 % | 1.0075 ± 0.0106 | 0 |")
    assert lines[4] == "| slowed on purpose | 2 | lies below 1 | 1 of 2 | 4.5 % | 7.0 % | 0.9500 ± 0.0000 | 1 |"
    assert "0.50 ms a call; slowed by 5.0 %" in lines[6]


def test_an_explanation_stands_beside_a_forward_pass(tables: ModuleType) -> None:
    def timed(explainer: str, batch: int, forwards: float, macs: float | None, in_a_row: int = 1) -> dict[str, object]:
        interval = {"forwards_low": forwards - 0.05, "forwards_high": forwards + 0.05}
        what = {"network": "a", "batch": batch, "threads": 1, "explainer": explainer, "in_a_row": in_a_row}
        return {**what, "ms_per_image": 2 * forwards, "forwards": forwards, **interval, "macs": macs}

    rows = [timed("rbf", 1, 1.4, 1.3, 5), timed("forward", 1, 1.0, 1.0), timed("forward, folded", 1, 0.8, 1.0)]
    rows += [timed("prunepgd", 1, 90.0, None), timed("forward", 8, 1.0, 1.0), timed("forward, folded", 8, 1.0, 1.0)]
    rows += [timed("rbf", 8, 1.48, 1.3)]
    lines = tables.cost({"device": "a CPU", "rows": rows}).splitlines()
    assert lines[0] == "| | a: MACs | a, batch 1 | a, batch 8 |"
    assert lines[2] == "| forward | 1.00 | 2.00 ms | 2.00 ms |"
    assert "| rbf | 1.30 | 2.80 ms, 1.40 (1.35 to 1.45) | 2.96 ms, 1.48 (1.43 to 1.53) |" in lines
    assert "| prunepgd |  | 180.00 ms, 90.00 (89.95 to 90.05) |  |" in lines
    assert "At batch 1, 5 consecutive calls" in lines[-4]
    assert lines[-2].endswith(
        "1.40 forward passes, target 1.5: met; 1.75 relative to a pass with folded normalisations"
    )
    assert "target 1.5: NOT met; 1.48" in lines[-1]
    rows[-1]["macs"] = 1.6
    assert "NOT met (its MACs are already 1.60); 1.48" in tables.cost({"device": "a CPU", "rows": rows})
