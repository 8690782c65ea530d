"""Which explanations of a trained ResNet-20 can be trusted: every explainer through the papers' tests, CIFAR-10 test.

    .venv/bin/python benchmarks/trust.py [--run runs/keep50/seed0-rbf] [--with gradient ...] [--images 1000]

``rbf`` is the selector of a finished run of cifar10_resnet20_keep50.py; the others learn nothing. Rows go to
results/trust.json as they come; run again to go on, and for the text that holds them against the papers' orderings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from steering import open_session
from trust_orderings import orderings

from compress.files import write_json
from deploy.console import ConsoleProgress
from deploy.report.trust import draw_trust
from deploy.trust_run import CONTROL, measure_trust

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "trust.json"
EXPLAINERS = (
    "rbf",
    "gradient",
    "edges",
    "grad_cam",
    "guided_backprop",
    "gradient_x_input",
    "constant",
    "smoothgrad_squared",
    "integrated_gradients",
)
TESTS = ("perturbation", "sanity", "tiles", "insertion_deletion")
FEWER = {"tiles": 500, "insertion_deletion": 100, "sanity": 100}
"""Images, spread over all, of the tests that take long: a curve of insertion and deletion is 226 forwards an image."""

SKIPPED = {
    *(("sanity", name) for name in ("integrated_gradients", "smoothgrad_squared")),
    *((test, "constant") for test in TESTS if test != "sanity"),
}
"""20 re-initialised networks with tens of gradients an image each are left to those who have the time; and a constant
map's order of pixels is one more random one."""

LONG = 20
"""Points of a curve; the file does not need all of insertion's and deletion's 114."""


def schedule(session: Any) -> str:
    """How the trained explainer was trained, in words."""
    given, record = session.recipe.explainer, session.run.record("selector")
    return (
        f"rbf: {given.predictor.epochs} epochs of the predictor, {given.selector.epochs} of the selector, target area "
        f"{given.target_area}, seed {session.recipe.seed}; validation KL {record.metrics['kl']:.3f} nats, "
        f"{record.metrics['kl_random']:.3f} with its masks anywhere"
    )


def thinned(result: Any) -> Any:
    """``result`` in six digits, and an eighth of the points (and the last) of long curves; areas are of all points."""
    if isinstance(result, float):
        return float(f"{result:.6g}")
    if isinstance(result, list):
        return [thinned(value) for value in result]
    if not isinstance(result, dict):
        return result
    if len(result.get("shares", ())) > LONG:
        keep = sorted({*range(0, len(result["shares"]), 8), len(result["shares"]) - 1})
        result = result | {name: [result[name][index] for index in keep] for name in ("shares", "values")}
    return {name: thinned(value) for name, value in result.items()}


def main() -> None:
    """Measure what is missing, then hold it against the papers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=HERE.parent / "runs" / "keep50" / "seed0-rbf", help="with a selector"
    )
    parser.add_argument("--with", dest="explainers", choices=EXPLAINERS, action="append", help="default: all")
    parser.add_argument("--images", type=int, default=1000, help="test images, spread over the classes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows go")
    parser.add_argument("--pictures", type=Path, help="draw the curves into this folder too")
    given = parser.parse_args()
    names = given.explainers or EXPLAINERS
    with ConsoleProgress() as progress:
        session = open_session(given.run, progress)
        torch.set_num_threads(session.recipe.threads or torch.get_num_threads())
        found = measure_trust(
            session, given.out, names=names, tests=TESTS, count=given.images, split="test", fewer=FEWER, skip=SKIPPED
        )
    if given.pictures is not None:
        draw_trust(given.pictures, found["rows"], control=CONTROL)
    rows = [{**row, "result": thinned(row["result"])} for row in found["rows"]]
    found |= {"schedule": schedule(session), "orderings": orderings(rows), "rows": rows}
    write_json(given.out, found)
    print("\n".join(found["orderings"]))


if __name__ == "__main__":
    main()
