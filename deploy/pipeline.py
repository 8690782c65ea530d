"""A recipe and its images in; slim model, artefacts and report out. Stages that still hold are not redone."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compress.errors import RunError
from compress.files import write_text
from compress.progress import SILENT, Progress

from .assemble import assemble_report, draw_pictures
from .recipe import Recipe, dump_recipe
from .report import Report, write_markdown, write_report
from .run_dir import RunDir, StageRecord, fingerprint, open_run, read_run
from .session import Session, default_cache
from .stages import learn, prove, slim
from .stages.learn import seed_stage
from .stages.outcome import Outcome

CODE = 1
"""Part of every fingerprint: raised when a stage would compute something else from the same recipe."""


@dataclass(frozen=True)
class Stage:
    """A piece of work; redone when the recipe parts it ``reads`` or a stage it ``needs`` changed."""

    name: str
    work: Callable[[Session], Outcome]
    needs: tuple[str, ...]
    reads: Callable[[Session], Mapping[str, Any]]


def _learning(recipe: Recipe) -> dict[str, Any]:
    return {"seed": recipe.seed, "precision": recipe.precision, "threads": recipe.threads}


def _classifier_parts(session: Session) -> dict[str, Any]:
    recipe = session.recipe
    weights = recipe.model.weights
    content = (
        hashlib.sha256(weights.read_bytes()).hexdigest() if isinstance(weights, Path) and weights.is_file() else ""
    )
    factory = Path(recipe.model.name.rpartition(":")[0])
    source = factory.read_text(encoding="utf-8") if factory.suffix == ".py" and factory.is_file() else ""
    parts = {"model": recipe.model, "weights": content, "factory": source, "data": session.data_key}
    if weights is None:
        parts |= {**_learning(recipe), "augment": [recipe.data.crop_padding, recipe.data.flip]}
    return parts


def _gate_parts(session: Session) -> dict[str, Any]:
    recipe = session.recipe
    if recipe.gates.steer in ("magnitude", "uniform"):
        return {"steer": recipe.gates.steer}
    return {"gates": recipe.gates, "budget": recipe.budget.macs, **_learning(recipe)}


def to_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that ``recipe`` needs, in order."""
    explained, steered = recipe.explainer.enabled, recipe.gates.steer == "rbf"
    stages = [Stage("classifier", learn.classifier, (), _classifier_parts)]
    if explained:
        stages += [
            Stage(
                "predictor",
                learn.predictor,
                ("classifier",),
                lambda s: {
                    "predictor": s.recipe.explainer.predictor,
                    "masks": s.recipe.explainer.masks,
                    **_learning(s.recipe),
                },
            ),
            Stage(
                "selector",
                learn.selector,
                ("predictor",),
                lambda s: {
                    "selector": s.recipe.explainer.selector,
                    "area": s.recipe.explainer.target_area,
                    **_learning(s.recipe),
                },
            ),
        ]
    if steered:
        stages.append(Stage("targets", learn.targets, ("selector",), lambda s: {"images": s.recipe.gates.images}))
    ground = "selector" if explained else "classifier"
    stages += [
        Stage("gates", learn.gates, ("targets",) if steered else (ground,), _gate_parts),
        Stage("surgery", slim.surgery, ("gates",), lambda s: {"budget": s.recipe.budget}),
        Stage(
            "finetune",
            slim.finetune,
            ("surgery",),
            lambda s: {
                "finetune": s.recipe.finetune,
                "augment": [s.recipe.data.crop_padding, s.recipe.data.flip],
                **_learning(s.recipe),
            },
        ),
        Stage("export", prove.export, ("finetune",), lambda s: {"export": s.recipe.export}),
        Stage("latency", prove.latency, ("export",), lambda s: {"latency": s.recipe.latency}),
        Stage("judgement", prove.judgement, ("finetune",), lambda s: {"data": s.recipe.data}),
    ]
    return tuple(stages)


@dataclass(frozen=True)
class StageResult:
    """A stage of this run, done now or earlier."""

    name: str
    record: StageRecord
    reused: bool


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    reuse: Path | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
    on_open: Callable[[RunDir], None] | None = None,
) -> Report:
    """Run every stage that does not hold any more, then write the report.

    Args:
        out: run directory; made if absent, resumed if it is one.
        name: the recipe's file name, for the report.
        reuse: another run whose finished stages may be taken over where they are the same.
        cache: folder of decoded images (see ``default_cache``).
        on_open: called once the run directory is locked.

    Raises:
        SlimError: with everything finished so far kept.
    """
    donor = read_run(reuse) if reuse is not None else None
    with open_run(out) as run:
        if on_open is not None:
            on_open(run)
        if recipe.threads is not None:
            torch.set_num_threads(recipe.threads)
        write_text(run.recipe, dump_recipe(recipe))
        session = Session(recipe, run, progress, cache or default_cache())
        keys: dict[str, str] = {}
        results = [_do(stage, session, keys, donor) for stage in to_stages(recipe)]
        records = {result.name: result.record for result in results}
        draw_pictures(session, records["surgery"].metrics)
        report = assemble_report(session, name, records, [r.name for r in results if r.reused])
        write_report(run.report_json, report)
        write_markdown(run.root, report)
    return report


def _do(stage: Stage, session: Session, keys: dict[str, str], donor: RunDir | None) -> StageResult:
    """Take a stage over, or do it."""
    inputs = {need: keys[need] for need in stage.needs}
    key = fingerprint({"code": CODE, "stage": stage.name, "inputs": inputs, "reads": stage.reads(session)})
    keys[stage.name] = key
    run, progress = session.run, session.progress
    if record := run.done(stage.name, key):
        progress.note(f"{stage.name}: done before")
        return StageResult(stage.name, record, True)
    if donor is not None and (found := donor.done(stage.name, key)):
        progress.note(f"{stage.name}: taken from {donor.root}")
        return StageResult(stage.name, _take_over(stage.name, found, donor, run), True)
    run.begin(stage.name)
    progress.note(f"{stage.name}: started")
    seed_stage(session.recipe.seed, stage.name)
    started = time.monotonic()
    outcome = stage.work(session)
    seconds = time.monotonic() - started
    record = run.finish(stage.name, key, seconds, outcome.metrics, outcome.files)
    return StageResult(stage.name, record, False)


def _take_over(name: str, record: StageRecord, donor: RunDir, run: RunDir) -> StageRecord:
    run.begin(name)
    paths = []
    try:
        for file in record.files:
            target = run.root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(donor.root / file, target)
            paths.append(target)
    except OSError as error:
        raise RunError(f"cannot copy stage '{name}' from {donor.root}: {error.strerror}") from error
    return run.finish(name, record.fingerprint, record.seconds, record.metrics, paths)
