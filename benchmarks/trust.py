"""Explanation tests of the papers for every explainer, on a trained ResNet-20 and CIFAR-10's test set.

    .venv/bin/python benchmarks/trust.py [--run runs/keep50/seed0-rbf] [--realx runs/keep50/seed0-realx]
        [--varsal varsal.safetensors] [--with gradient ...] [--images 1000]

``rbf`` is the selector of a finished run of cifar10_resnet20_keep50.py, ``realx`` that of the same recipe with
gates.steer=realx, ``varsal`` what varsal.py maps --save wrote; the others learn nothing. Rows go to results/trust.json
as they come; run again to go on, and for the text that holds them against the papers' orderings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from steering import open_session
from trust_orderings import orderings

from slimsight.compress.explain.fidelity import STEPS as DRIB
from slimsight.compress.explain.fidelity import explain_images, insertion_deletion, paired, predicted_classes
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.run.session import Session
from slimsight.deploy.trust.figures import draw_trust
from slimsight.deploy.trust.run import CONTROL, find_trust_subjects, measure_trust, run_explainer, sample_images
from slimsight.deploy.trust.study import ImageLimits

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "trust.json"
VARSAL, ROAR = HERE / "results" / "varsal.json", HERE / "results" / "roar.json"
UNTRAINED = (
    "gradient",
    "gradient_x_input",
    "integrated_gradients",
    "smoothgrad_squared",
    "guided_backprop",
    "grad_cam",
    "prunegrad",
    "prunepgd",
)
CONTROLS = ("centre", "edges", "constant")
EXPLAINERS = ("rbf", "realx", "varsal", *UNTRAINED, *CONTROLS)
TESTS = ("insertion_deletion", "perturbation", "tiles", "sanity")
IMAGE_LIMITS: ImageLimits = {
    "tiles": 500,
    "sanity": 100,
    **{("sanity", name): 20 for name in ("integrated_gradients", "prunegrad", "prunepgd")},
    ("sanity", "smoothgrad_squared"): 50,
}
"""Images, spread over all, of the tests that take long: the sanity check explains each by 20 re-initialised networks,
at tens of forward passes an explanation."""

STEPS = 32
"""Of insertion and of deletion, 32 pixels each. DRIB takes 113 of 9: what that changes is measured (``coarseness``)."""

COARSE, COARSE_IMAGES = ("rbf", "gradient", "edges"), 50
"""Where it is measured, beside random maps."""

LONG = 20
"""Points of a curve; the file does not need all of insertion's and deletion's 114."""


def describe_training(session: Session, name: str) -> str:
    """How a run's own explainer was trained, in words."""
    given, record = session.recipe.explainer, session.run.record("selector")
    return (
        f"{name}: {given.predictor.epochs} epochs of the predictor, {given.selector.epochs} of the selector, target "
        f"area {given.target_area}, seed {session.recipe.seed}; validation KL {record.metrics['kl']:.3f} nats, "
        f"{record.metrics['kl_random']:.3f} with its masks anywhere"
    )


def describe_varsal_training() -> str:
    """How the maps that varsal.py saved last were trained, in words."""
    settings = read_json(VARSAL)["maps"]["rows"]["settings"]
    return (
        f"varsal: an encoder of its own, {settings['epochs']} epochs of {settings['images']:,} images at "
        f"{settings['lr']:g}, seed {settings['seed']}"
    )


def measure_coarseness(session: Session) -> dict[str, Any]:
    """How much the areas of insertion and deletion change with DRIB's steps in place of ``STEPS``, image by image."""
    classifier, images = session.classifier(), sample_images(session.splits.test(), COARSE_IMAGES, "test")
    labels, rows = predicted_classes(classifier, images), []
    for subject in find_trust_subjects(session, COARSE):
        maps = explain_images(subject.factory(classifier), images, labels).importance
        fine, coarse = (insertion_deletion(classifier, images, maps, steps=steps) for steps in (DRIB, STEPS))
        changes = {side: paired(getattr(coarse, side), getattr(fine, side)) for side in ("insertion", "deletion")}
        rows.append({"explainer": subject.name, **{side: value.to_dict() for side, value in changes.items()}})
    return {"steps": DRIB, "images": COARSE_IMAGES, "rows": rows}


def thin_curves(result: Any) -> Any:
    """``result`` in six digits, and an eighth of the points (and the last) of long curves; areas are of all points."""
    if isinstance(result, float):
        return float(f"{result:.6g}")
    if isinstance(result, list):
        return [thin_curves(value) for value in result]
    if not isinstance(result, dict):
        return result
    if len(result.get("shares", ())) > LONG:
        keep = sorted({*range(0, len(result["shares"]), 8), len(result["shares"]) - 1})
        result = result | {name: [result[name][index] for index in keep] for name in ("shares", "values")}
    return {name: thin_curves(value) for name, value in result.items()}


def main() -> None:
    """Measure what is missing, then hold it against the papers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=HERE.parent / "runs" / "keep50" / "seed0-rbf", help="with a selector"
    )
    parser.add_argument("--realx", type=Path, help="a run of the same recipe, steered by realx")
    parser.add_argument("--varsal", type=Path, help="weights of VarSal's encoder")
    parser.add_argument("--with", dest="explainers", choices=EXPLAINERS, action="append", help="default: all there are")
    parser.add_argument("--images", type=int, default=1000, help="test images, spread over the classes")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the rows go")
    parser.add_argument("--pictures", type=Path, help="draw the curves into this folder too")
    given = parser.parse_args()
    trained = {"realx": given.realx, "varsal": given.varsal}
    names = given.explainers or [name for name in EXPLAINERS if trained.get(name, HERE) is not None]
    for name in names:
        if trained.get(name, HERE) is None:
            parser.error(f"--with {name} needs --{name}")
    with ConsoleProgress() as progress:
        session = open_session(given.run, progress)
        torch.set_num_threads(session.recipe.threads or torch.get_num_threads())
        others = []
        before = read_json(given.out) if given.out.exists() else {}
        words, coarse = dict(before.get("schedules", {})), before.get("coarseness")
        words["rbf"] = describe_training(session, "rbf")
        if "realx" in names:
            realx = open_session(given.realx, progress)
            others.append(run_explainer(realx, "realx"))
            words["realx"] = describe_training(realx, "realx")
        if "varsal" in names:
            words["varsal"] = describe_varsal_training()
        found = measure_trust(
            session,
            given.out,
            names=[f"varsal={given.varsal}" if name == "varsal" else name for name in names if name != "realx"],
            others=others,
            tests=TESTS,
            count=given.images,
            split="test",
            image_limits=IMAGE_LIMITS,
            steps=STEPS,
        )
        if coarse is None:
            coarse = measure_coarseness(session)
    places = {name: place for place, name in enumerate((CONTROL, *EXPLAINERS))}
    ordered = sorted(found["rows"], key=lambda row: (places[row["explainer"]], TESTS.index(row["test"])))
    if given.pictures is not None:
        draw_trust(given.pictures, ordered, control=CONTROL)
    rows = [{**row, "result": thin_curves(row["result"])} for row in ordered]
    retrained = read_json(ROAR)["rows"] if ROAR.exists() else []
    found |= {"schedules": words, "steps": STEPS, "coarseness": coarse, "orderings": orderings(rows, retrained)}
    found["rows"] = rows
    write_json(given.out, found)
    print("\n".join(f"{claim['verdict']}: {claim['text']}" for claim in found["orderings"]))


if __name__ == "__main__":
    main()
