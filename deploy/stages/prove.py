"""Stages that prove and measure: export with parity, latency, and the one look at the test set."""

from __future__ import annotations

import numpy as np

from compress.explain import Drift, drift_between, explanations
from compress.explain.rbf import area, rbf_map
from compress.training import evaluate
from export.parity import check_parity
from export.runners import OnnxRunner, Pt2Runner, Runner, TorchRunner
from export.to_onnx import export_onnx, verify_shapes
from export.to_torch_export import export_pt2

from ..latency import measure_latency
from ..session import Session
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
    pairs: list[tuple[str, TorchRunner, Runner]] = [
        ("original.onnx", TorchRunner(original), OnnxRunner(run.original_onnx))
    ]
    if "onnx" in config.formats:
        export_onnx(slim, example, run.slim_onnx, opset=config.opset)
        verify_shapes(run.slim_onnx, slim)
        pairs.append(("slim/model.onnx", TorchRunner(slim), OnnxRunner(run.slim_onnx)))
    if "pt2" in config.formats:
        export_pt2(slim, example, run.slim_pt2)
        pairs.append(("slim/model.pt2", TorchRunner(slim), Pt2Runner(run.slim_pt2)))
    images = np.asarray(session.splits.val.images)
    rows = []
    for artifact, reference, candidate in pairs:
        with reference, candidate:
            for batch in session.progress.track(
                PARITY_BATCHES, f"parity {artifact}", total=len(PARITY_BATCHES), unit="batch size"
            ):
                result = check_parity(
                    reference, candidate, images, artifact=artifact, batch=batch, tolerance=config.tolerance
                )
                rows.append(result.to_dict())
    files = [run.original_onnx]
    files += [run.slim_onnx] if "onnx" in config.formats else []
    files += [run.slim_pt2] if "pt2" in config.formats else []
    return Outcome({"parity": rows}, files)


def latency(session: Session) -> Outcome:
    """Original against slim in ONNX Runtime on the CPU, interleaved."""
    run, config = session.run, session.recipe.latency
    if "onnx" not in session.recipe.export.formats:
        return Outcome({"latency": []}, [])
    row = measure_latency(
        OnnxRunner(run.original_onnx, config.threads),
        OnnxRunner(run.slim_onnx, config.threads),
        np.asarray(session.splits.val.images[np.arange(min(512, len(session.splits.val)))]),
        threads=config.threads,
        batch=config.batch,
        rounds=config.rounds,
        warmup=config.warmup_seconds,
        seed=session.recipe.seed,
        progress=session.progress,
    )
    return Outcome({"latency": [row.to_dict()]}, [])


def judgement(session: Session) -> Outcome:
    """Accuracy on the test set, read here for the first and only time, and saliency drift on validation images."""
    device = session.fabric.device
    original, (slim, slim_explained) = session.classifier().to(device), session.slim()
    slim = slim.to(device)
    test = session.plain(session.splits.test())
    metrics = {
        "test_images": test.count,
        "original_test_accuracy": evaluate(original, test).accuracy,
        "slim_test_accuracy": evaluate(slim, test).accuracy,
    }
    if slim_explained is None:
        return Outcome(metrics, [])
    val = session.plain(session.splits.val)
    before = explanations(session.explained().to(device), val)
    after = explanations(slim_explained.to(device), val)
    side = session.splits.image_size
    drift: Drift = drift_between(before, after, side)
    area_after = float(area(rbf_map(after, side)).mean())
    return Outcome({**metrics, "saliency": {"explainer": "rbf", **drift.to_dict(), "area": area_after}}, [])
