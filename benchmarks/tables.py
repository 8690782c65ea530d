"""Write the tables of README.md and of two pages of docs from results/*.json: figures are never typed there.

.venv/bin/python benchmarks/tables.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tables_ablations import ablations
from tables_bench import latency_lab
from tables_clothing import clothing, finetuning
from tables_cost import cost
from tables_data import miniatures, preprocessing, throughput
from tables_drift import drift, steered_finetuning
from tables_dynamic import dynamic
from tables_faults import faults
from tables_headlines import headlines
from tables_int8 import int8_branches, int8_control, int8_plans, int8_qat, int8_zoo
from tables_kinds import kinds
from tables_models import any_task, zoo
from tables_scaling import processes, scaling
from tables_speed import combined, efficiency, gate_step
from tables_study import keep50, selector, steering
from tables_trust import roar, trust

from slimsight.compress.files.atomic import read_json, write_text

HERE = Path(__file__).resolve().parent
DOCS, RESULTS = HERE.parent / "docs", HERE / "results"
PAGES = (HERE.parent / "README.md", DOCS / "results.md", DOCS / "scaling.md", DOCS / "int8.md")

TABLES: dict[str, tuple[Callable[..., str], *tuple[str, ...]]] = {
    "headlines": (
        headlines,
        "zoo.json",
        "clothing.json",
        "efficiency.json",
        "cifar10_resnet20_keep50.json",
        "steered_finetuning.json",
        "latency_lab.json",
        "kill.json",
        "full_disk.json",
    ),
    "zoo": (zoo, "zoo.json"),
    "any_task": (any_task, "any_task.json"),
    "kinds": (kinds, "kinds.json"),
    "keep50": (keep50, "cifar10_resnet20_keep50.json"),
    "selector": (selector, "cifar10_resnet20_keep50.json"),
    "steering": (steering, "steering.json"),
    "drift": (drift, "drift.json"),
    "steered_finetuning": (steered_finetuning, "steered_finetuning.json"),
    "ablations": (ablations, "ablations.json"),
    "efficiency": (efficiency, "efficiency.json"),
    "combined": (combined, "combined_budgets.json"),
    "gate_step": (gate_step, "gate_step.json"),
    "dynamic": (dynamic, "dynamic.json"),
    "trust": (trust, "trust.json"),
    "roar": (roar, "roar.json"),
    "cost": (cost, "explainers_cost.json"),
    "latency_lab": (latency_lab, "latency_lab.json"),
    "faults": (
        faults,
        "kill.json",
        "kill_processes.json",
        "full_disk.json",
        "bit_flips.json",
        "fuzz.json",
        "checkpoints.json",
    ),
    "throughput": (throughput, "data_throughput.json"),
    "miniatures": (miniatures, "imagenet_recipes.json"),
    "preprocessing": (preprocessing, "preprocessing.json"),
    "clothing": (clothing, "clothing.json"),
    "finetuning": (finetuning, "finetuning.json"),
    "int8_control": (int8_control, "int8_control.json"),
    "int8_qat": (int8_qat, "int8_qat.json"),
    "int8_plans": (int8_plans, "int8_plans.json"),
    "int8_branches": (int8_branches, "int8_branches.json"),
    "int8_zoo": (int8_zoo, "int8_zoo.json"),
    "processes": (processes, "processes.json"),
    "scaling": (scaling, "scaling.json"),
}
"""How each table is made, and of which results."""


def filled(text: str, results: Path = RESULTS) -> str:
    """``text`` with every ``<!-- table: name -->`` ... ``<!-- end -->`` block written anew."""
    for name, (table, *files) in TABLES.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(start)
        if not rest:
            continue
        missing = [file for file in files if not (results / file).exists()]
        if missing:
            made = f"Not measured yet: there is no results/{missing[0]}."
        else:
            made = table(*(read_json(results / file) for file in files))
        text = before + start + made + "\n" + end + rest.partition(end)[2]
    return text


def main() -> None:
    """Rewrite the pages, or with --check only say whether they are up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a page is not what the results say")
    given = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = filled(text)
        if given.check and new != text:
            sys.exit(f"{page.name} is not what the results say: run benchmarks/tables.py")
        if new != text:
            write_text(page, new)


if __name__ == "__main__":
    main()
