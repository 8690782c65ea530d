"""A recipe and its images in; slim model, artefacts and report out. Stages that still hold are not redone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from slimsight.compress.data import Flow
from slimsight.compress.errors import report_out_of_memory
from slimsight.compress.parallel.processes import broadcast, distributed, shutdown, single_process
from slimsight.compress.progress import SILENT, Progress, Stop

from ..report import Report
from ..run_dir import RECIPE, REPORT, RunDir, StageRecord, open_run, read_run
from ..run_dir.allowed_code import remember_code
from ..settings.recipe import Recipe
from .assemble import assemble_report, draw_pictures
from .fingerprints import (
    Parts,
    classifier_parts,
    dynamic_export_parts,
    dynamic_parts,
    export_parts,
    finetune_parts,
    fingerprint,
    gate_parts,
    judgement_parts,
    predictor_parts,
    selector_parts,
    surgery_parts,
)
from .processes import launched_processes, leave_signals_to_leader
from .report_pictures import draw_worst
from .resume import find_held, open_checkpoints, record_forms, start_over, take_over, write_forms, write_recipe
from .session import Outcome, Session, default_cache
from .stage_table import stage_needs
from .stages import dynamic, learn, prove, slim
from .stages.learn import seed_stage
from .stages.preflight import preflight

CODE = 2
"""Part of every fingerprint: raised when a stage would compute something else from the same recipe."""

_NOTHING = ("", "")
"""In place of a stage and its fingerprint: what those who follow are told when none is left."""


@dataclass(frozen=True)
class Stage:
    """A piece of work; redone when the recipe parts it ``reads`` or a stage it ``needs`` changed.

    ``on_all_ranks``: computed by all processes of the run; other stages by the leader alone.
    """

    name: str
    work: Callable[[Session], Outcome]
    needs: tuple[str, ...]
    reads: Callable[[Session], Parts]
    on_all_ranks: bool = True


_WORK: Mapping[str, tuple[Callable[[Session], Outcome], Callable[[Session], Parts]]] = {
    "classifier": (learn.classifier, classifier_parts),
    "predictor": (learn.predictor, predictor_parts),
    "selector": (learn.selector, selector_parts),
    "targets": (learn.targets, lambda session: {"images": session.recipe.gates.images}),
    "gates": (learn.gates, gate_parts),
    "surgery": (slim.surgery, surgery_parts),
    "finetune": (slim.finetune, finetune_parts),
    "export": (prove.export, export_parts),
    "dynamic": (dynamic.learn, dynamic_parts),
    "dynamic_export": (dynamic.export, dynamic_export_parts),
    "latency": (prove.latency, lambda session: {"latency": session.recipe.latency}),
    "judgement": (prove.judgement, judgement_parts),
}
"""What computes a stage, and which parts of the recipe it reads."""

_BY_LEADER = ("surgery", "export", "dynamic_export", "latency")


def to_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages that ``recipe`` needs, in order."""
    return tuple(
        Stage(name, work, needs, reads, on_all_ranks=name not in _BY_LEADER)
        for name, needs in stage_needs(recipe).items()
        for work, reads in (_WORK[name],)
    )


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    name: str,
    reuse: Path | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
    on_open: Callable[[RunDir], None] | None = None,
    stop: Stop | None = None,
) -> Report:
    """Run every stage that does not hold any more, then write the report.

    What an earlier recipe left in ``out`` is touched only once this recipe has passed its preflight.

    Args:
        out: run directory; made if absent, resumed if it is one.
        name: the recipe's file name, for the report.
        reuse: another run whose finished stages may be taken over where they are the same.
        cache: folder of decoded images (see ``default_cache``).
        on_open: called once the run directory is locked.
        stop: a wish to stop, heeded by stages that learn.

    Raises:
        SlimError: with everything finished so far kept.
    """
    donor = read_run(reuse, whole=False) if reuse is not None else None
    with open_run(out) as run, _threads(recipe.threads), single_process():
        if on_open is not None:
            on_open(run)
        remember_code(recipe.model, cache or default_cache())
        session = Session(recipe, run, progress, cache or default_cache())
        wait_for_ranks(session)
        stages = to_stages(recipe)
        keys = fingerprints(stages, session)
        held = find_held({stage.name: stage.needs for stage in stages}, keys, run, progress)
        if held:
            progress.note(f"done before: {', '.join(held)}")
        if len(held) < len(stages):
            preflight(session)
            start_over(run, recipe, [stage.name for stage in stages if stage.name not in held])
        elif run.record(RECIPE) is None or run.damage(RECIPE) is not None:
            write_recipe(run, recipe)
        records: dict[str, StageRecord] = {}
        reused = []
        for number, stage in enumerate(stages, 1):
            inputs = {need: records[need].content for need in stage.needs}
            if stage.name in held and held[stage.name].follows(inputs):
                records[stage.name] = held[stage.name]
                reused.append(stage.name)
                continue
            if stage.name in held:
                progress.note(f"{stage.name}: what it was made from has changed ({', '.join(stage.needs)})")
                run.forget(stage.name)
            if donor is not None and (taken := take_over(stage.name, keys[stage.name], inputs, donor, run)):
                progress.note(f"{stage.name}: taken from {donor.root}")
                records[stage.name] = taken
                reused.append(stage.name)
                continue
            progress.note(f"stage {number} of {len(stages)}: {stage.name}")
            made_from = fingerprint({"stage": keys[stage.name], "inputs": inputs})  # no other's checkpoint goes on
            session.checkpoints[stage.name] = open_checkpoints(run, stage.name, made_from, stop, progress)
            records[stage.name] = _do(stage, session, keys[stage.name], inputs)
        report = _write_report(session, name, records, reused)
        shutil.rmtree(run.checkpoints, ignore_errors=True)
        with distributed():
            broadcast(_NOTHING)
        shutdown()
    return report


def _write_report(session: Session, name: str, records: Mapping[str, StageRecord], reused: Sequence[str]) -> Report:
    """Pictures and every form of the report, on record once all of them are written."""
    session.run.unrecord(REPORT)
    draw_pictures(session, records["surgery"].metrics)
    draw_worst(session, records["judgement"].metrics.get("saliency", {}).get("maps", {}).get("worst", ()))
    report = assemble_report(session, name, records, reused)
    write_forms(session.run.root, report)
    record_forms(session.run, {stage: record.content for stage, record in records.items()})
    return report


def follow(recipe: Recipe, out: Path, *, cache: Path | None = None) -> None:
    """Do the stages that another process, which leads, tells this one to do with it; write and say nothing.

    Args:
        out: as the leader's: all processes see the same folder.
    """
    session = Session(recipe, RunDir(out.absolute(), writable=False), SILENT, cache or default_cache())
    with _threads(recipe.threads):
        wait_for_ranks(session)
        stages = {stage.name: stage for stage in to_stages(recipe)}
        while (order := broadcast(_NOTHING)) != _NOTHING:
            name, key = order
            session.checkpoints[name] = open_checkpoints(session.run, name, key, None, SILENT)
            seed_stage(recipe.seed, name)
            stages[name].work(session)
    shutdown()


def wait_for_ranks(session: Session) -> None:
    """Wait for all processes that were started for the run."""
    if launched_processes() > 1:
        session.progress.note(f"{launched_processes()} processes, on {session.fabric.device.type}")
        leave_signals_to_leader()


def fingerprints(stages: Sequence[Stage], session: Session) -> dict[str, str]:
    """Of every stage, by name: its own parts of the recipe and the fingerprints of the stages it needs."""
    keys: dict[str, str] = {}
    for stage in stages:
        inputs = {need: keys[need] for need in stage.needs}
        parts = {"code": CODE, "stage": stage.name, "inputs": inputs, "reads": stage.reads(session)}
        keys[stage.name] = fingerprint(parts)
    return keys


def _do(stage: Stage, session: Session, key: str, inputs: Mapping[str, str]) -> StageRecord:
    session.run.begin(stage.name)
    session.flow = Flow()
    checkpoints = session.checkpoints[stage.name]
    with report_out_of_memory(f"stage '{stage.name}'"), distributed() if stage.on_all_ranks else single_process():
        broadcast((stage.name, checkpoints.key))  # who follows begins, too; alone, nobody hears it
        seed_stage(session.recipe.seed, stage.name)
        outcome = stage.work(session)
    if session.flow.images:
        session.progress.note(f"{stage.name}: {session.flow.in_words()}")
    metrics = outcome.metrics | session.flow.to_metrics()
    record = session.run.finish(stage.name, key, checkpoints.elapsed, metrics, outcome.files, inputs)
    checkpoints.remove()
    return record


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's CPU threads inside the block; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
