"""``slimsight run --dry-run``: all checks of a run, and how long each stage will take, by timing a few batches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from slimsight.compress.config import TrainConfig
from slimsight.compress.data import FileImages, Rows
from slimsight.compress.data.broken import naming_all_broken
from slimsight.compress.data.file_batches import default_workers
from slimsight.compress.data.images import image_count
from slimsight.compress.errors import RunError
from slimsight.compress.explain.attribution.occlusion import CELLS
from slimsight.compress.macs import size_bytes
from slimsight.compress.models import Classifier
from slimsight.compress.progress import SILENT, Progress
from slimsight.compress.training import to_device

from ..host import free_disk, writable_cache
from ..run_dir import RunDir, read_run
from ..settings.recipe import Recipe
from .pipeline import Stage, stage_fingerprints, to_stages
from .session import Session
from .stages.int8_explained import EXPLAINED_IMAGES
from .stages.preflight import Preflight, preflight

_BATCHES = 4
_DECODED = 16  # images, to see how long that takes
_CALIBRATION_PASSES = 4  # nothing is fused while ranges are measured
_OCCLUDED = 2 * EXPLAINED_IMAGES * (CELLS**2 + 1)  # images with a patch covered, by two files
_CONTROL_FILES = 25  # passes over the images of accuracy control: single layers on a part of them, then whole files
_QAT_STEPS = 2.5  # of a plain step, with its rounding and its teacher
_EXPORT_SECONDS = 1.5  # of one export by torch, with its proof; deeper networks take longer
_OPEN_SECONDS = 0.02  # a file in ONNX Runtime
_STEADY_CALLS = 10  # of a session, before times are read
_GATE_SHARE = 0.75  # of a plain step: weights are frozen
_DRIFT_PASSES = 3  # explanations, of two models
# In the classifier's own steps: its decoder and the predictor work beside it.
_SELECTOR_STEPS = 2.5
_FILES_OF_WEIGHTS = 9


@dataclass(frozen=True)
class Steps:
    """Seconds per image at ``batch`` images: ``forward`` alone, and a ``step`` of forward, backward and update.

    Where images are decoded meanwhile, neither is shorter than that takes.
    """

    batch: int
    forward: float
    step: float


def time_steps(session: Session, classifier: Classifier) -> Steps:
    """Time a few training batches on the device of the run."""
    recipe, device = session.recipe, session.fabric.device
    batches = session.shuffled(session.opened.train, recipe.finetune.batch_size)
    batch = to_device(next(iter(batches.epoch(0))), device)
    images, labels = batch.images, batch.labels
    model = classifier.to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    forwards, steps = [], []
    try:
        for _ in range(_BATCHES):
            with session.fabric.autocast():
                forwards.append(_seconds(lambda: model(images), device, grad=False))
                steps.append(_seconds(lambda: _step(model, optimiser, images, labels), device))
    finally:
        model.eval().cpu()
    reading = _reading(session)  # beside it: the slower of the two decides
    return Steps(len(images), max(reading, min(forwards) / len(images)), max(reading, min(steps) / len(images)))


def _reading(session: Session) -> float:
    """Seconds per image for decoding images that stay files; 0 for cached images."""
    images = session.opened.train.images
    if not (isinstance(images, Rows) and isinstance(images.pool, FileImages)):
        return 0.0
    rows = images.order[np.linspace(0, len(images) - 1, _DECODED).astype(np.int64)]
    started = time.perf_counter()
    for row in rows.tolist():
        images.pool.plain(row)
    workers = session.recipe.data.workers
    return (time.perf_counter() - started) / _DECODED / max(1, default_workers() if workers is None else workers)


def _step(model: Classifier, optimiser: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimiser.zero_grad()
    torch.autograd.backward(functional.cross_entropy(model(images), labels))
    optimiser.step()


def _seconds(work: object, device: torch.device, *, grad: bool = True) -> float:
    assert callable(work)
    started = time.perf_counter()
    with torch.set_grad_enabled(grad):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def estimate(session: Session, known: Preflight, steps: Steps) -> dict[str, float]:
    """Estimated seconds of every stage, by name, including those that will be reused.

    Early stopping makes stages shorter; what a budget of latency measures, and compiling, is not in it.
    """
    recipe, splits = session.recipe, session.opened
    train, val, test = len(splits.train), len(splits.val), _test_images(session)
    forward, step = steps.forward, steps.step
    seen = image_count(recipe.gates.images, train)

    def learned(config: TrainConfig, share: float = 1.0) -> float:
        per_epoch = train // min(config.batch_size, train) * min(config.batch_size, train)
        return config.epochs * per_epoch * step * share

    explainer, gates = recipe.explainer, recipe.gates
    kept = known.limits.get("macs", known.macs / 2) / known.macs
    finetune = learned(recipe.finetune, (1 + kept) / 2) + recipe.finetune.epochs * train * forward * bool(
        recipe.finetune.distill
    )
    if recipe.finetune.steer_weight:
        finetune *= _SELECTOR_STEPS
    recalibrations = recipe.finetune.recalibrate_batches * (2 if recipe.finetune.epochs else 1)  # before and after
    epochs = explainer.varsal.epochs if gates.explainer == "varsal" else explainer.selector.epochs
    learns_on = image_count(explainer.images, train)
    beside = _SELECTOR_STEPS if gates.explainer else 1.0
    gate_steps = gates.steps * min(gates.batch_size, seen) * step * beside * _GATE_SHARE if gates.learned else 0.0
    if not session.labelled and gates.learned:  # the original runs beside the gated network
        gate_steps += gates.steps * min(gates.batch_size, seen) * forward
    predicted = val if session.labelled else train + val
    files = 1 + len(recipe.export.formats)
    quantised = (1 + len(recipe.export.int8.forms)) if recipe.export.quantised else 0
    calibrated = min(recipe.export.int8.images, train)
    control = recipe.export.int8.accuracy_control
    compared = min(control.images, train) * _CONTROL_FILES * len(recipe.export.int8.forms) if control.limits else 0
    qat = recipe.export.int8.qat.epochs * len(recipe.export.int8.forms) if recipe.export.quantised else 0
    latency = recipe.latency
    calls = (latency.rounds + _STEADY_CALLS * latency.sessions) * latency.batch
    return {
        "classifier": predicted * forward + (learned(recipe.model.train) if recipe.model.trained else 0.0),
        "predictor": explainer.predictor.epochs * (learns_on * (step + forward) + val * 2 * forward),
        "selector": epochs * (learns_on * step * _SELECTOR_STEPS + val * 2 * forward),
        "targets": seen * 2 * forward,
        "gates": known.proof_seconds + gate_steps,
        "surgery": 2 * known.proof_seconds,
        "finetune": finetune + recalibrations * recipe.finetune.batch_size * forward,
        "export": files * (_EXPORT_SECONDS + 3 * val * forward)
        + quantised * (_EXPORT_SECONDS + (_CALIBRATION_PASSES * calibrated + 3 * val) * forward)
        + qat * (train * _QAT_STEPS * step + val * forward)
        + ((compared + _OCCLUDED) * forward if quantised else 0.0),
        "dynamic": (recipe.dynamic.epochs + recipe.dynamic.finetune_epochs) * train * step * 2,
        "dynamic_export": 2 * _EXPORT_SECONDS + 3 * val * forward,
        "latency": 2 * (calls * forward + latency.sessions * _OPEN_SECONDS),
        "judgement": 2 * test * forward + (_DRIFT_PASSES * 2 * val * forward if explainer.enabled else 0.0),
    }


def _test_images(session: Session) -> int:
    return len(session.opened.test()) if session.opened.has_test else 0


def disk_needed(session: Session, known: Preflight) -> int:
    """Estimated bytes of a run directory: weights in several files, and one explanation per gate image."""
    weights = _FILES_OF_WEIGHTS * size_bytes(known.classifier)
    if session.recipe.dynamic.enabled:
        weights *= 2
    seen = image_count(session.recipe.gates.images, len(session.opened.train))
    side = session.opened.image_size
    per_image = {"rbf": 16, "realx": side * side, "varsal": side * side}.get(session.recipe.gates.explainer or "", 0)
    return weights + seen * per_image + 2_000_000  # pictures, reports


@dataclass(frozen=True)
class PlannedStage:
    """``reused`` or not and ``why``; ``seconds``: what it took, or is expected to take."""

    name: str
    reused: bool
    why: str
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run. ``images``: number by split; ``device``: where training runs; ``gate_steps``: planned."""

    out: Path
    classes: int
    images: Mapping[str, int]
    size: int
    known: Preflight
    steps: Steps
    stages: tuple[PlannedStage, ...]
    disk: int
    disk_free: int
    device: str
    gate_steps: int

    @property
    def seconds(self) -> float:
        """Sum over all stages that would run."""
        return sum(stage.seconds for stage in self.stages if not stage.reused)


def dry_run(
    recipe: Recipe, out: Path, *, reuse: Path | None = None, cache: Path | None = None, progress: Progress = SILENT
) -> DryRun:
    """Run all checks that precede training, and list what each stage would do.

    Images are decoded into the cache, as for a run; ``out`` is only read.

    Raises:
        SlimError: what the run itself would refuse.
    """
    donor = read_run(reuse, verify=False) if reuse is not None else None
    run = _look(out)
    session = Session(recipe, run, progress, cache or writable_cache())
    stages = to_stages(recipe)
    with naming_all_broken(recipe.data, progress):
        keys = stage_fingerprints(stages, session)
        known = preflight(session)
        splits = session.opened
        images = {"train": len(splits.train), "val": len(splits.val), "test": _test_images(session)}
        steps = time_steps(session, known.classifier)
    expected = estimate(session, known, steps)
    return DryRun(
        out=out,
        classes=len(session.classes),
        images=images,
        size=splits.image_size,
        known=known,
        steps=steps,
        stages=tuple(_planned(stages, keys, run, donor, expected)),
        disk=disk_needed(session, known),
        disk_free=free_disk(out),
        device=str(session.fabric.device),
        gate_steps=recipe.gates.steps,
    )


def _look(out: Path) -> RunDir:
    """The run in ``out``, or a new one that is not created."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            return read_run(out, verify=False)
        except RunError as error:
            raise RunError(f"{error}; a run would refuse it too: choose a new or empty folder with --out") from error
    return RunDir(out.absolute(), writable=False)


def _planned(
    stages: Sequence[Stage], keys: Mapping[str, str], run: RunDir, donor: RunDir | None, expected: Mapping[str, float]
) -> list[PlannedStage]:
    found: list[PlannedStage] = []
    running: set[str] = set()
    for stage in stages:
        if (record := run.valid_record(stage.name, keys[stage.name])) is not None:
            found.append(PlannedStage(stage.name, True, "done before", record.seconds))
            continue
        if donor is not None and (record := donor.valid_record(stage.name, keys[stage.name])) is not None:
            found.append(PlannedStage(stage.name, True, f"copied from {donor.root}", record.seconds))
            continue
        before = run.record(stage.name)
        after = [need for need in stage.needs if need in running]
        if before is None:
            why = "not done yet"
        elif before.fingerprint == keys[stage.name]:
            why = "its files have changed"
        else:
            why = f"follows {after[0]}" if after else "what it reads has changed (settings, files or images)"
        running.add(stage.name)
        found.append(PlannedStage(stage.name, False, why, expected[stage.name]))
    return found
