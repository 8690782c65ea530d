"""Stages of the dynamic variant: learn and verify its routes, then write and prove its two ONNX forms."""

from __future__ import annotations

import numpy as np

from slimsight.compress.data import Batches
from slimsight.compress.dynamic import learn_routing, routed_cost, verify_routes
from slimsight.compress.dynamic.bottleneck import IMAGES_A_BATCH
from slimsight.compress.parallel.processes import on_leader
from slimsight.compress.training import Learning
from slimsight.export.parity.prove import Artifact, prove_parity, route_agreement
from slimsight.export.routed.export import export_masked, export_routed

from ...report.units import as_macs, as_percent
from ..session import Outcome, Session
from .prove import missing_runtimes_text

PARITY_IMAGES = 500
NOISE_IMAGES = 10_000
"""Training images used to estimate the bottleneck's noise."""


def learn(session: Session, learning: Learning) -> Outcome:
    """Train masks, heads and weights within the budget, then verify the routes by the information bottleneck (DRIB)."""
    config, splits, device = session.recipe.dynamic, session.splits, learning.device
    model = session.new_dynamic()
    cost = routed_cost(model, session.example)
    budget = config.macs * cost.total
    found = learn_routing(
        model.to(device),
        cost,
        session.shuffled(splits.train, config.batch_size, learning.flow, crop=True, flip=True),
        session.plain(splits.val, learning.flow),
        learning,
        config=config,
        budget=budget,
    )
    path = session.stage_file("dynamic", "model.safetensors")
    session.write(path, model.state_dict())
    learning.progress.note(
        f"dynamic: {as_macs(found.validation.macs_mean)} MACs per image of {as_macs(cost.total)}, "
        f"validation accuracy {as_percent(found.validation.accuracy)}"
    )
    spread = np.linspace(0, len(splits.val) - 1, min(config.verify_images, len(splits.val))).round().astype(np.int64)
    sample = np.linspace(0, len(splits.train) - 1, min(NOISE_IMAGES, len(splits.train))).round().astype(np.int64)
    evidence = on_leader(
        lambda: verify_routes(
            model,
            session.classifier().to(device),
            cost,
            Batches(splits.val.subset(np.unique(spread)), IMAGES_A_BATCH),
            session.plain(splits.train.subset(np.unique(sample)), learning.flow),
            progress=learning.progress,
        )
    )
    learning.progress.note(f"information bottleneck: {as_percent(evidence.accepted, 1)} of the choices accepted")
    figures = {
        "macs_max": budget,
        "macs_dense": cost.total,
        "macs_mean": found.validation.macs_mean,
        "val_accuracy": found.validation.accuracy,
        "hardened_val_accuracy": found.hardened.accuracy,
        "verification": evidence.to_dict(),
    }
    return Outcome(figures, [path])


def export(session: Session, learning: Learning) -> Outcome:
    """Export masked and routed ONNX; compare logits and routes with PyTorch on real images."""
    run, config = session.run, session.recipe.export
    model, example = session.dynamic(), session.some_images(2)
    run.masked_onnx.parent.mkdir(exist_ok=True)
    learned = run.record("dynamic")
    assert learned is not None, "this stage needs that one"
    about = session.about("dynamic", macs_mean=learned.metrics["macs_mean"])
    export_masked(model, example, run.masked_onnx, opset=config.opset, about=about)
    routed = export_routed(
        model, example, run.routed_onnx, route=session.recipe.dynamic.route, opset=config.opset, about=about
    )
    images = np.asarray(session.some_images(PARITY_IMAGES))
    written = [
        Artifact(run.masked_onnx, "dynamic/masked.onnx", model),
        Artifact(run.routed_onnx, "dynamic/routed.onnx", model, "routed", batches=(1,)),
    ]
    found = prove_parity(written, images, fp32=config.tolerance, progress=learning.progress)
    same = [route_agreement(model, artifact.path, images, batch=1) for artifact in written]
    worst = max(row.max_abs for row in found.rows)
    learning.progress.note(
        f"dynamic: logits differ by {worst:.1e} at most, {as_percent(min(same))} of the routes are the same; "
        f"{routed.branches} branches{missing_runtimes_text(found)}"
    )
    figures = {
        "parity": [row.to_dict() for row in found.rows],
        "route_agreement": min(same),
        "branches": routed.branches,
        "masks": list(routed.masks),
    }
    return Outcome(figures, [run.masked_onnx, run.routed_onnx])
