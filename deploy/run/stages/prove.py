"""Stages that measure the result: export with parity, latency, and the test set, which is read once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from slimsight.compress.data import Batches, one_pass
from slimsight.compress.dynamic import measure_usage, routed_cost
from slimsight.compress.explain import drift_chance, explanations, head_drift
from slimsight.compress.explain.amortized.rbf import area
from slimsight.compress.explain.fidelity import drift_of_numbers
from slimsight.compress.models import Classifier
from slimsight.compress.parallel.processes import on_leader
from slimsight.compress.training import Learning, evaluate, logits_of
from slimsight.export.onnx_files.metadata import model_metadata
from slimsight.export.parity.prove import Artifact, ParityEvidence, prove_parity
from slimsight.export.pt2.export import export_pt2
from slimsight.export.runners.choose import open_runner
from slimsight.export.to_onnx import export_onnx, verify_shapes

from ...report.units import as_macs, as_percent
from ...timing.latency import measure_latency
from ..images import EVALUATION_BATCH
from ..session import Outcome, Session
from .attribution import attribution
from .int8 import export_int8, judge_int8

_EXAMPLES = 2


def export(session: Session, learning: Learning) -> Outcome:
    """Export original and slim model as ONNX, the slim one as .pt2; read shapes back, compare logits on real images."""
    run, config = session.run, session.recipe.export
    original, (slim, _) = session.classifier(), session.slim()
    example, about = session.some_images(_EXAMPLES), session.about("finetune")
    export_onnx(original, example, run.original_onnx, opset=config.opset, about=session.about("classifier"))
    verify_shapes(run.original_onnx, original)
    written = [Artifact(run.original_onnx, "original.onnx", original)]
    if "onnx" in config.formats:
        export_onnx(slim, example, run.slim_onnx, opset=config.opset, about=about)
        verify_shapes(run.slim_onnx, slim)
        written.append(Artifact(run.slim_onnx, "slim/model.onnx", slim))
    if "pt2" in config.formats:
        export_pt2(slim, example, run.slim_pt2, model_metadata(slim, example, len(about.classes), about))
        written.append(Artifact(run.slim_pt2, "slim/model.pt2", slim, "pt2"))
    found = prove_parity(written, session.parity_images(), fp32=config.tolerance, progress=learning.progress)
    worst = max(row.max_abs for row in found.rows)
    learning.progress.note(
        f"export: logits differ by {worst:.1e} at most in {len(found.rows)} comparisons with PyTorch"
        f"{missing_runtimes_text(found)}"
    )
    metrics: dict[str, Any] = {"parity": [row.to_dict() for row in found.rows]}
    paths = [artifact.path for artifact in written]
    if config.quantised:
        metrics["int8"], quantised = export_int8(session, learning)
        paths += quantised
    return Outcome(metrics, paths)


def missing_runtimes_text(found: ParityEvidence) -> str:
    """``; not on this machine: onnxruntime-cuda``, or "" if every runtime was compared."""
    runtimes = sorted({absent.runtime for absent in found.absent})
    return f"; not on this machine: {', '.join(runtimes)}" if runtimes else ""


def latency(session: Session, learning: Learning) -> Outcome:
    """Time original, slim and dynamic model in the recipe's runtime, interleaved."""
    run, config = session.run, session.recipe.latency
    if "onnx" not in session.recipe.export.formats:
        return Outcome({"latency": []}, [])
    routed = None
    if session.recipe.dynamic.enabled:
        if config.batch == 1:
            routed = open_runner(run.routed_onnx, config.runtime, config.threads)
        else:
            learning.progress.note(f"latency: the routed form takes one image at a time, not {config.batch}: not timed")
    quantised = run.slim_int8("u8")
    row = measure_latency(
        open_runner(run.original_onnx, config.runtime, config.threads),
        open_runner(run.slim_onnx, config.runtime, config.threads),
        np.asarray(session.splits.val.images[np.arange(min(512, len(session.splits.val)))]),
        threads=config.threads,
        batch=config.batch,
        rounds=config.rounds,
        sessions=config.sessions,
        warmup=config.warmup_seconds,
        seed=session.recipe.seed,
        dynamic=routed,
        int8=open_runner(quantised, config.runtime, config.threads) if quantised.is_file() else None,
        progress=learning.progress,
    )
    if row.speedup.high < 1:
        learning.progress.note(
            f"the slim model is slower than the original ({row.speedup.median:.2f} times as fast): MACs fell, time did "
            "not; try budget.align auto"
        )
    return Outcome({"latency": [row.to_dict()]}, [])


def _test_accuracies(session: Session, learning: Learning) -> dict[str, Any]:
    """Accuracies on the test set; None and 0 images where the user's folder has none."""
    device = learning.device
    if not session.labelled:
        return _test_agreement(session, learning)
    if not session.splits.has_test:
        learning.progress.note("test accuracy: there are no test images")
        names = ["original_test_accuracy", "slim_test_accuracy"]
        names += ["dynamic_test_accuracy", "dynamic_test_macs"] if session.recipe.dynamic.enabled else []
        return {"test_images": 0, **dict.fromkeys(names)}
    original, (slim, _) = session.classifier(), session.slim()
    on_leader(lambda: len(session.splits.test()))  # decoded once, by rank 0
    test = session.plain(session.splits.test(), learning.flow)
    before, after = (evaluate(model.to(device), test).accuracy for model in (original, slim))
    learning.progress.note(f"test accuracy: {as_percent(before)} -> {as_percent(after)}")
    metrics = {"test_images": test.count, "original_test_accuracy": before, "slim_test_accuracy": after}
    if session.recipe.dynamic.enabled:
        routed = session.dynamic().to(device)
        found = measure_usage(routed, routed_cost(routed, session.example), test)
        learning.progress.note(f"dynamic: test accuracy {as_percent(found.accuracy)}, {as_macs(found.macs_mean)} MACs")
        metrics |= {"dynamic_test_accuracy": found.accuracy, "dynamic_test_macs": found.macs_mean}
    return metrics


def _test_agreement(session: Session, learning: Learning) -> dict[str, Any]:
    """Agreement of the slim model with the original on test images, which nothing before has seen."""
    original, (slim, _) = session.classifier().to(learning.device), session.slim()
    on_leader(lambda: len(session.splits.test()))  # decoded once, by rank 0
    test = session.plain(session.splits.test(), learning.flow)
    same, _ = _same_class(original, slim, test, learning)
    found = same / test.count
    learning.progress.note(f"agreement with the original on test images: {as_percent(found)} of {test.count:,}")
    return {"test_images": test.count, "test_agreement": found}


def judgement(session: Session, learning: Learning) -> Outcome:
    """Figures of the test set (read here and nowhere else); agreement and saliency drift on validation images."""
    device = learning.device
    slim, slim_explained = session.slim()
    metrics = _test_accuracies(session, learning) | _agreement(session.classifier(), slim, session, learning)
    metrics |= judge_int8(session, learning)
    metrics["attribution"] = attribution(session.classifier(), slim, session, learning)
    if slim_explained is None:
        return Outcome(metrics, [])
    val = session.plain(session.splits.val, learning.flow)
    networks = (session.explained(), slim_explained)
    reasons, kept = (
        explanations(network.to(device), val, progress=learning.progress)
        for network in learning.progress.track(networks, "saliency drift", unit="models")
    )
    head = slim_explained.selector.head
    drift = head_drift(head, reasons, kept)
    maps = drift_of_numbers(head.kind, reasons, kept, head.to_saliency).to_dict()
    del maps["explainer"]  # it stands beside
    said = f"explanations: centres moved {drift.center_drift_px:.2f} px, overlap {as_percent(drift.iou)}"
    moved = {"explainer": head.kind, **drift.to_dict(), "maps": maps}
    if drift.images > 1:
        labels = torch.cat(one_pass(val, lambda _, batch: batch.labels))
        chance = drift_chance(head, reasons, kept, labels)
        said += (
            f"; by chance (the mean explanation for every image) {chance.constant.center_drift_px:.2f} px, "
            f"{as_percent(chance.constant.iou)}"
        )
        moved["chance"] = chance.to_dict()
    learning.progress.note(said)
    if head.sized:
        areas = torch.cat([area(head.to_maps(part)) for part in torch.split(kept, EVALUATION_BATCH)])
        moved["area"] = float(areas.mean())
    return Outcome({**metrics, "saliency": moved}, [])


def _agreement(original: Classifier, slim: Classifier, session: Session, learning: Learning) -> dict[str, float | int]:
    """Of the validation images: on how many both models predict the same class, and the share of the largest class."""
    val = session.plain(session.splits.val, learning.flow)
    same, images = _same_class(original, slim, val, learning)
    learning.progress.note(
        f"original and slim model predict the same class on {as_percent(same / images)} of {images:,} validation images"
    )
    labels = torch.cat(one_pass(val, lambda _, batch: batch.labels))
    return {
        "val_images": images,
        "val_majority": float(labels.bincount().max()) / images,
        "val_same_top1": same / images,
    }


def _same_class(original: Classifier, slim: Classifier, images: Batches, learning: Learning) -> tuple[int, int]:
    """On how many images both models predict the same class, and the number of images.

    Logits that are not finite agree with nothing.
    """
    before, after = (logits_of(model.to(learning.device), images) for model in (original, slim))
    finite = before.isfinite().all(1) & after.isfinite().all(1)
    return int(((before.argmax(1) == after.argmax(1)) & finite).sum()), len(before)
