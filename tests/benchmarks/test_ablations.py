import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return {name: importlib.import_module(name) for name in ("ablations", "ablations_pictures", "tables_ablations")}


def row(recipe: str, seed: int, **changed: Any) -> dict[str, Any]:
    moved = {
        "after_surgery": {"center_px": 4.0 + seed, "iou": 0.5},
        "finetuned": {"center_px": 2.0, "iou": 0.6 + 0.1 * seed},
    }
    return {
        "point": f"seed{seed}-{recipe}",
        "recipe": recipe,
        "seed": seed,
        "explainer": None,
        "steer_weight": 0.05,
        "cost_weight": 2.0,
        "steps": 300,
        "swept": None,
        "gates": {"residual": 0.0},
        "macs_kept": 0.499,
        "channels": {},
        "val_accuracy": {"after_surgery": 0.6 + 0.1 * seed, "recalibrated": 0.7, "finetuned": 0.8},
        "finetune_epochs": 1,
        "images": 1000,
        "drift": dict.fromkeys(("rbf", "realx", "gradient"), moved),
        **changed,
    }


def rows() -> list[dict[str, Any]]:
    terms = [row(recipe, seed) for recipe in ("full", "ce_only", "interpretation_rbf") for seed in (0, 1)]
    return [
        *terms,
        row("interpretation_realx", 1, explainer="realx-selector.safetensors"),
        row("full", 0, swept="steer_weight", steer_weight=0.8),
        row("full", 0, swept="steer_weight", steer_weight=0.2),
        row("full", 0, swept="cost_weight", cost_weight=8.0),
        {"recipe": "full", "seed": 0, "swept": "cost_weight", "cost_weight": 0.5, "error": "did not converge"},
    ]


def test_every_objective_has_a_line_and_every_weight_that_was_changed(scripts: dict[str, ModuleType]) -> None:
    lines = scripts["tables_ablations"].ablations({"rows": rows()}).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == 9
    assert [line.split("|")[1].strip() for line in lines[2:10]] == [
        "interpretation (RBF), no CE",
        "interpretation (REAL-X), no CE",
        "CE only (g1 = 0)",
        "full: CE and interpretation (RBF)",
        "full, g1 = 0.2",
        "full, g1 = 0.8",
        "full, g2 = 0.5",
        "full, g2 = 8",
    ]
    assert lines[2].startswith(
        "| interpretation (RBF), no CE | 2 | 0.650 ± 0.071 → 0.800 ± 0.000 | 0.700 ± 0.000 "
        "| 4.50 ± 0.71 → 2.00 ± 0.00 | 0.500 ± 0.000 → 0.650 ± 0.071 |"
    )
    assert lines[3].startswith("| interpretation (REAL-X), no CE | 1 | 0.700 → 0.800 |")
    assert lines[8] == "| full, g2 = 0.5 | seed 0 | did not converge |"
    assert "One REAL-X explainer serves all seeds" in lines[11]
    alone = [each for each in rows() if each["seed"] == 0]
    assert "by REAL-X" in lines[0]
    assert "serves all seeds" not in scripts["tables_ablations"].ablations({"rows": alone})


def test_what_was_not_measured_is_left_out_and_said(scripts: dict[str, ModuleType]) -> None:
    surgery = {"after_surgery": {"center_px": 5.0, "iou": 0.4}}
    early = row(
        "full",
        1,
        val_accuracy={"after_surgery": 0.6, "recalibrated": 0.7},
        finetune_epochs=0,
        drift={"rbf": surgery, "realx": {}, "gradient": surgery},
    )
    late = row("full", 0)
    late["drift"] = late["drift"] | {"realx": {}}
    lines = scripts["tables_ablations"].ablations({"rows": [late, early]}).splitlines()
    assert "REAL-X" not in lines[0]
    assert "| 2 | 0.600 ± 0.000 → 0.800 (1 of 2) | 0.700 ± 0.000 | 4.50 ± 0.71 → 2.00 (1 of 2) |" in lines[2]
    assert "after 1 epoch of finetuning" in lines[4]


def test_a_sweep_goes_through_the_recipe_and_g1_from_cross_entropy_alone(scripts: dict[str, ModuleType]) -> None:
    learned = [each for each in rows() if "error" not in each]
    sweep_along = scripts["ablations_pictures"].sweep_along
    found = [(at, each["recipe"], each["seed"]) for at, each in sweep_along(learned, "steer_weight")]
    assert found == [(0.0, "ce_only", 0), (0.05, "full", 0), (0.2, "full", 0), (0.8, "full", 0)]
    assert [at for at, _ in sweep_along(learned, "cost_weight")] == [2.0, 8.0]


def test_pictures_are_drawn_of_what_there_is(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    scripts["ablations_pictures"].draw([row("full", 0)], tmp_path / "few")
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["ablations_terms.png"]
    scripts["ablations_pictures"].draw(rows(), tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert sizes.keys() == {"ablations_terms.png", "ablations_weights.png"}
    assert min(sizes.values()) > 10_000


def test_points_have_names_of_their_own_and_recipes_that_load(scripts: dict[str, ModuleType]) -> None:
    script = scripts["ablations"]
    points = script.points([0, 1, 2])
    assert len(points) == 17
    assert len({point.name for point in points}) == 17
    assert sum(point.weight is not None for point in points) == 5
    assert all(not point.weight for point in script.points([1]))
    given = type("Given", (), {"set": ["threads=1"], "realx": None})
    recipe = script.Study(given, None).recipe(points[-1])
    assert (recipe.threads, recipe.gates.cost_weight, recipe.gates.steer_weight) == (1, 8.0, 0.05)
