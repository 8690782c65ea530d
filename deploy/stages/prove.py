"""Stages that prove and measure: export with parity, latency, and the one look at the test set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.dynamic import routed_cost, use
from compress.explain import drift_of, explanations
from compress.explain.fidelity import drift_of_numbers
from compress.explain.rbf import area
from compress.training import evaluate
from export.parity import ParityResult, check_parity
from export.runners import OnnxRunner, Pt2Runner, Runner, TorchRunner
from export.to_onnx import export_onnx, verify_shapes
from export.to_torch_export import export_pt2

from ..latency import measure_latency
from ..report.units import as_macs, as_percent
from ..session import EVALUATION_BATCH, Session
from .outcome import Outcome

PARITY_BATCHES = (1, 64)
"""Batch sizes at which artefacts are compared; neither is the example's, so a fixed batch cannot hide."""

_EXAMPLES = 2


def export(session: Session) -> Outcome:
    """Original and slim model as ONNX, the slim one as pt2; shapes read back, logits compared on real images."""
    run, config = session.run, session.recipe.export
    original, (slim, _) = session.classifier(), session.slim()
    example = session.some_images(_EXAMPLES)
    export_onnx(original, example, run.original_onnx, opset=config.opset)
    verify_shapes(run.original_onnx, original)
    written: list[tuple[Path, nn.Module, Runner]] = [(run.original_onnx, original, OnnxRunner(run.original_onnx))]
    if "onnx" in config.formats:
        export_onnx(slim, example, run.slim_onnx, opset=config.opset)
        verify_shapes(run.slim_onnx, slim)
        written.append((run.slim_onnx, slim, OnnxRunner(run.slim_onnx)))
    if "pt2" in config.formats:
        export_pt2(slim, example, run.slim_pt2)
        written.append((run.slim_pt2, slim, Pt2Runner(run.slim_pt2)))
    rows: list[ParityResult] = []
    for path, model, runner in session.progress.track(written, "parity", unit="files"):
        rows += _parity(session, path.relative_to(run.root).as_posix(), model, runner)
    worst = max(row.max_abs for row in rows)
    session.progress.note(f"export: logits differ by {worst:.1e} at most in {len(rows)} comparisons with PyTorch")
    return Outcome({"parity": [row.to_dict() for row in rows]}, [path for path, _, _ in written])


def _parity(session: Session, artifact: str, model: nn.Module, runner: Runner) -> Iterator[ParityResult]:
    """An artefact against its model on all validation images, at each batch size."""
    images, tolerance = np.asarray(session.splits.val.images), session.recipe.export.tolerance
    with TorchRunner(model) as reference, runner:
        for batch in PARITY_BATCHES:
            yield check_parity(
                reference,
                runner,
                images,
                artifact=artifact,
                batch=batch,
                tolerance=tolerance,
                progress=session.progress,
            )


def latency(session: Session) -> Outcome:
    """Original against slim (and the dynamic variant) in ONNX Runtime on the CPU, interleaved."""
    run, config = session.run, session.recipe.latency
    if "onnx" not in session.recipe.export.formats:
        return Outcome({"latency": []}, [])
    routed = None
    if session.recipe.dynamic.enabled:
        if config.batch == 1:
            routed = OnnxRunner(run.routed_onnx, config.threads)
        else:
            session.progress.note(f"latency: the routed form takes one image at a time, not {config.batch}: not timed")
    row = measure_latency(
        OnnxRunner(run.original_onnx, config.threads),
        OnnxRunner(run.slim_onnx, config.threads),
        np.asarray(session.splits.val.images[np.arange(min(512, len(session.splits.val)))]),
        threads=config.threads,
        batch=config.batch,
        rounds=config.rounds,
        sessions=config.sessions,
        warmup=config.warmup_seconds,
        seed=session.recipe.seed,
        dynamic=routed,
        progress=session.progress,
    )
    if row.speedup.high < 1:
        session.progress.note(
            f"the slim model is slower than the original ({row.speedup.median:.2f} times as fast): MACs fell, time did "
            "not; try budget.align auto"
        )
    return Outcome({"latency": [row.to_dict()]}, [])


def judgement(session: Session) -> Outcome:
    """Accuracy on the test set, read here for the first and only time, and saliency drift on validation images."""
    device = session.fabric.device
    original, (slim, slim_explained) = session.classifier(), session.slim()
    test = session.plain(session.splits.test())
    before, after = (evaluate(model.to(device), test).accuracy for model in (original, slim))
    session.progress.note(f"test accuracy: {as_percent(before)} -> {as_percent(after)}")
    metrics = {"test_images": test.count, "original_test_accuracy": before, "slim_test_accuracy": after}
    if session.recipe.dynamic.enabled:
        routed = session.dynamic().to(device)
        found = use(routed, routed_cost(routed, session.example), test)
        session.progress.note(f"dynamic: test accuracy {as_percent(found.accuracy)}, {as_macs(found.macs_mean)} MACs")
        metrics |= {"dynamic_test_accuracy": found.accuracy, "dynamic_test_macs": found.macs_mean}
    if slim_explained is None:
        return Outcome(metrics, [])
    val = session.plain(session.splits.val)
    networks = (session.explained(), slim_explained)
    reasons, kept = (
        explanations(network.to(device), val, progress=session.progress)
        for network in session.progress.track(networks, "saliency drift", unit="models")
    )
    head = slim_explained.selector.head
    drift = drift_of(head, reasons, kept)
    areas = torch.cat([area(head.to_maps(part)) for part in torch.split(kept, EVALUATION_BATCH)])
    maps = drift_of_numbers(head.kind, reasons, kept, head.to_saliency).to_dict()
    del maps["explainer"]  # said once
    session.progress.note(
        f"explanations: centres moved {drift.center_drift_px:.2f} px, overlap {as_percent(drift.iou)}"
    )
    moved = {"explainer": head.kind, **drift.to_dict(), "area": float(areas.mean()), "maps": maps}
    return Outcome({**metrics, "saliency": moved}, [])
