"""ISP's ablations on ResNet-20 and CIFAR-10, at half of the MACs: Fig. 4 (terms of the objective), 5 (g1, g2).

    .venv/bin/python benchmarks/ablations.py [--seed 0 ...] [--runs runs/keep50] [--set threads=1] [--pictures DIR]

Every point is a recipe of configs/ablations, for Fig. 5 with one weight changed. Only gates, surgery and a short
finetuning are done per point: classifier, predictor and selector come from <runs>/seed<N>-rbf (the runs of
cifar10_resnet20_keep50.py serve) and <runs>/seed<N>-realx (or --realx: realx_vs_rbf.py leaves weights that serve);
what is missing there is run first. Validation images only. All points are learned and judged before the first is
finetuned. Rows go to results/ablations.json as they come, and what is there is not done again (a point costs about two
minutes of a core, one more to finetune it); plans and weights stay in --out.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from ablations_pictures import draw
from ablations_study import FIG_4B, REALX, Point, Study, points

from slimsight.compress.data import Batches
from slimsight.compress.errors import PruningError, TrainingError
from slimsight.compress.explain import STEERING, ExplainedClassifier, explanations, head_drift, make_explainer
from slimsight.compress.explain.fidelity import explainer_drift
from slimsight.compress.files.atomic import read_json, read_tensors, write_json, write_tensors
from slimsight.compress.finetune import train_classifier
from slimsight.compress.gates import learn_gates, select
from slimsight.compress.training import Learning, evaluate, recalibrate_bn
from slimsight.deploy.cli.progress import ConsoleProgress
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.run.session import Session
from slimsight.deploy.run.stages.learn import seed_stage

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "ablations.json"
JUDGES = ("rbf", "realx", "gradient")
Row = dict[str, Any]


def learn_point(study: Study, point: Point) -> Row:
    """The row of one point, without drift; its plan and its weights are written.

    What its stages do in a run (deploy/stages), without what does not matter here: artefacts, latency, the test set.
    """
    session = study.at(point)
    recipe = session.recipe
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    kind = recipe.gates.explainer
    targets = None if kind is None else study.targets(kind, point.seed)
    gates, plain = recipe.gates, session.plain(session.splits.val)
    row: Row = {
        "point": point.name,
        "recipe": point.recipe,
        "seed": point.seed,
        "explainer": study.given.realx.name if kind == "realx" and study.given.realx else None,
        **{name: getattr(gates, name) for name in ("steer", "class_weight", "steer_weight", "cost_weight", "steps")},
        "swept": point.weight[0] if point.weight else None,
    }
    network, graph, cost = session.network(), session.graph, session.cost
    batches = session.shuffled(session.gate_images(), gates.batch_size)
    seed_stage(point.seed, "gates")
    started = time.monotonic()
    try:
        result = learn_gates(
            network,
            graph.groups,
            cost,
            batches,
            Learning(session.fabric, progress=study.progress),
            config=gates,
            budget=session.limits["macs"],
            targets=targets,
        )
    except (PruningError, TrainingError) as error:
        return {**row, "error": str(error)}
    if not result.converged:
        return {**row, "error": result.in_words()}
    row |= {"gate_seconds": time.monotonic() - started, "gates": result.to_dict()}
    plan = select(cost, result.scores, budget=session.limits, align=1, rank_weight=recipe.budget.rank_weight).plan
    slim = session.slimmed(plan)
    assert isinstance(slim, ExplainedClassifier)
    row |= {
        "macs_kept": cost.of_plan(plan) / cost.total,
        "channels": {name: len(channels) for name, channels in plan.kept.items()},
        "val_accuracy": {"after_surgery": evaluate(slim.classifier, plain).accuracy},
    }
    recalibrate_bn(slim.classifier, _train(session), recipe.finetune.recalibrate_batches)
    row["val_accuracy"]["recalibrated"] = evaluate(slim.classifier, plain).accuracy
    plan.save(study.folder(point) / "plan.json")
    return row | {"finetune_epochs": 0, "images": study.given.images, "drift": {judge: {} for judge in JUDGES}}


def _train(session: Session) -> Batches:
    """Training images as finetuning sees them."""
    return session.shuffled(session.splits.train, session.recipe.finetune.batch_size, crop=True, flip=True)


def finetune_point(study: Study, point: Point, row: Row) -> Row:
    """The row after the recipe's finetuning; the weights are written."""
    session = study.at(point)
    recipe = session.recipe
    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    model = study.slim(point).classifier
    seed_stage(point.seed, "finetune")
    train = _train(session)
    recalibrate_bn(model, train, recipe.finetune.recalibrate_batches)
    train_classifier(
        model,
        train,
        Learning(session.fabric, progress=study.progress),
        config=recipe.finetune,
        what="finetune",
    )
    accuracy = evaluate(model, session.plain(session.splits.val)).accuracy
    write_tensors(study.folder(point) / "model.safetensors", model.state_dict())
    accuracies = {**row["val_accuracy"], "finetuned": accuracy}
    return row | {"val_accuracy": accuracies, "finetune_epochs": recipe.finetune.epochs}


def measure_drift(study: Study, point: Point, judge: str, state: str) -> Row:
    """How far a point's explanations are from the original's, by one explainer.

    Centres in pixels; IoU of the maps for amortized explainers, of the regions that hold half of a map's mass else.
    """
    network = study.slim(point, judge if judge in STEERING else "rbf")
    if state == "finetuned":
        network.classifier.load_state_dict(read_tensors(study.folder(point) / "model.safetensors"))
    if judge in STEERING:
        said = explanations(network, study.judged())
        moved = head_drift(network.selector.head, study.said(judge, point.seed), said)
        return {"center_px": moved.center_drift_px, "iou": moved.iou}
    original = study.session("rbf", point.seed).classifier()
    maps = explainer_drift(*(make_explainer(judge, each) for each in (original, network.classifier)), study.judged())
    return {"center_px": maps.center_px.mean, "iou": maps.region_iou.mean}


def load_rows() -> dict[str, Row]:
    """What has been measured, by point."""
    rows: list[Row] = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    return {row["point"]: row for row in rows}


def main() -> None:
    """Measure what is missing, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="default: 0, 1 and 2")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "keep50", help="runs with explainers")
    parser.add_argument(
        "--realx", type=Path, help="a REAL-X selector's weights, for all seeds; default: each its run's"
    )
    parser.add_argument("--only", choices=(*FIG_4B, REALX), action="append", help="recipes; default: all, and sweeps")
    parser.add_argument("--images", type=int, default=1000, help="validation images that drift is a mean over")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="override a setting of all recipes")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "ablations", help="plans and weights")
    parser.add_argument("--pictures", type=Path, help="draw what is measured into this folder")
    given = parser.parse_args()
    given.seed = given.seed or [0, 1, 2]
    rows = load_rows()
    wanted = [each for each in points(given.seed) if not given.only or (each.recipe in given.only and not each.weight)]
    steered = any(each.recipe == REALX for each in wanted)
    with ConsoleProgress() as progress:
        study = Study(given, progress)

        def keep(point: Point, row: Row) -> None:
            rows.update(load_rows() | {point.name: row})  # seeds may be measured at once
            machine = {"device": device_name(), "versions": versions()}
            write_json(RESULTS, {"schema": 1, **machine, "rows": list(rows.values())})

        def judge(state: str) -> None:
            for point, name in itertools.product(wanted, JUDGES):
                row = rows[point.name]
                if name == "realx" and not steered and not study.has_realx(point.seed):
                    continue  # not worth its training where it does not steer
                if "error" not in row and state not in row["drift"][name]:
                    found = row["drift"][name] | {state: measure_drift(study, point, name, state)}
                    keep(point, row | {"drift": row["drift"] | {name: found}})

        for point in wanted:
            if point.name not in rows:
                progress.note(point.name)
                keep(point, learn_point(study, point))
        judge("after_surgery")
        for point in wanted:
            if rows[point.name].get("finetune_epochs") == 0:
                progress.note(point.name)
                keep(point, finetune_point(study, point, rows[point.name]))
        judge("finetuned")
    if given.pictures is not None:
        draw(list(rows.values()), given.pictures)


if __name__ == "__main__":
    main()
