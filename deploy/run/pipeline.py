"""The pipeline of ``slimsight run``: stages in order, reused where their fingerprint is unchanged, then the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from slimsight.compress.data.broken import naming_all_broken
from slimsight.compress.errors import report_out_of_memory
from slimsight.compress.parallel.processes import broadcast, distributed, shutdown, single_process
from slimsight.compress.progress import SILENT, Progress, Stop
from slimsight.compress.training import Learning

from ..report import Report
from ..run_dir import REPORT, RunDir, StageRecord, open_run, read_run
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
    timing_parts,
)
from .processes import ignore_signals_unless_leader, launched_processes
from .refusal import report_refusal
from .report_pictures import draw_worst
from .resume import (
    discard_stale,
    find_reusable,
    is_written,
    open_checkpoints,
    record_report_files,
    remove_stage_checkpoints,
    reuse_from,
    write_recipe,
    write_report_files,
)
from .session import Outcome, Session, writable_cache
from .stage_table import stage_needs
from .stages import dynamic, learn, prove, slim
from .stages.learn import seed_stage
from .stages.preflight import preflight

CODE_VERSION = 2
"""Part of every fingerprint; raised when a stage's code computes something else from the same recipe."""

_NO_STAGE = ("", "")
"""Broadcast instead of (stage, fingerprint) when no stage is left."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run; it runs again if what it ``reads`` of the recipe or a stage that it ``needs`` changed.

    ``on_all_ranks``: computed by all processes of the run; other stages by the leader alone.
    """

    name: str
    work: Callable[[Session, Learning], Outcome]
    needs: tuple[str, ...]
    reads: Callable[[Session], Parts]
    on_all_ranks: bool = True


_BY_LEADER = ("surgery", "export", "dynamic_export", "latency")


def _stage_work() -> dict[str, tuple[Callable[[Session, Learning], Outcome], Callable[[Session], Parts]]]:
    """The function that computes each stage, and the parts of the recipe that it reads."""
    return {
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
        "latency": (prove.latency, lambda session: {"latency": timing_parts(session.recipe.latency)}),
        "judgement": (prove.judgement, judgement_parts),
    }


def to_stages(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a run of ``recipe``, in order."""
    work = _stage_work()
    return tuple(
        Stage(name, work[name][0], needs, work[name][1], on_all_ranks=name not in _BY_LEADER)
        for name, needs in stage_needs(recipe).items()
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
    """Run every stage that cannot be reused, then write the report.

    Results of an earlier recipe in ``out`` are removed only after this recipe has passed its preflight.

    Args:
        out: run directory; made if absent, resumed if it is one.
        name: the recipe's file name, for the report.
        reuse: another run whose finished stages are copied where their fingerprints are the same.
        cache: folder of decoded images (see ``default_cache``).
        on_open: called once the run directory is locked.
        stop: set on Ctrl-C or SIGTERM; trainings poll it, save a checkpoint and end.

    Raises:
        SlimError: finished stages are kept.
    """
    donor = read_run(reuse, verify=False) if reuse is not None else None
    with (
        open_run(out) as run,
        _threads(recipe.threads),
        single_process(),
        naming_all_broken(recipe.data, progress),
    ):
        if on_open is not None:
            on_open(run)
        remember_code(recipe.model, cache or writable_cache())
        session = Session(recipe, run, progress, cache or writable_cache())
        wait_for_ranks(session)
        stages = to_stages(recipe)
        fresh = not any(run.record(stage.name) for stage in stages)
        if fresh:
            preflight(session)  # before the images are read for their fingerprints
        keys = stage_fingerprints(stages, session)
        reusable = find_reusable({stage.name: stage.needs for stage in stages}, keys, run, progress)
        if reusable:
            progress.note(f"done before: {', '.join(reusable)}")
        if len(reusable) < len(stages):
            if not fresh:
                preflight(session)
            discard_stale(run, recipe, [stage.name for stage in stages if stage.name not in reusable])
        elif not is_written(run, recipe):
            write_recipe(run, recipe)
        records: dict[str, StageRecord] = {}
        reused = []
        for number, stage in enumerate(stages, 1):
            inputs = {need: records[need].content for need in stage.needs}
            if stage.name in reusable and reusable[stage.name].follows(inputs):
                records[stage.name] = reusable[stage.name]
                reused.append(stage.name)
                report_refusal(recipe, stage.name, records[stage.name].metrics, progress)
                continue
            if stage.name in reusable:
                progress.note(f"{stage.name}: what it was made from has changed ({', '.join(stage.needs)})")
                run.forget(stage.name)
            if donor is not None and (taken := reuse_from(stage.name, keys[stage.name], inputs, donor, run)):
                progress.note(f"{stage.name}: taken from {donor.root}")
                records[stage.name] = taken
                reused.append(stage.name)
                report_refusal(recipe, stage.name, taken.metrics, progress)
                continue
            progress.note(f"stage {number} of {len(stages)}: {stage.name}")
            made_from = fingerprint(
                {"stage": keys[stage.name], "inputs": inputs}
            )  # checkpoints of other inputs are ignored
            checkpoints = open_checkpoints(run, stage.name, made_from, stop, progress)
            learning = Learning(session.fabric, checkpoints, progress)
            records[stage.name] = _run_stage(stage, session, learning, keys[stage.name], inputs)
            report_refusal(recipe, stage.name, records[stage.name].metrics, progress)
        report = _write_report(session, name, records, reused)
        remove_stage_checkpoints(run)
        with distributed():
            broadcast(_NO_STAGE)
        shutdown()
    return report


def _write_report(session: Session, name: str, records: Mapping[str, StageRecord], reused: Sequence[str]) -> Report:
    """Draw the pictures, write report.json, report.md and report.html, and record their checksums."""
    session.run.unrecord(REPORT)
    draw_pictures(session, records["surgery"].metrics)
    draw_worst(session, records["judgement"].metrics.get("saliency", {}).get("maps", {}).get("worst", ()))
    report = assemble_report(session, name, records, reused)
    write_report_files(session.run.root, report)
    record_report_files(session.run, {stage: record.content for stage, record in records.items()})
    return report


def follow_leader(recipe: Recipe, out: Path, *, cache: Path | None = None) -> None:
    """On ranks other than 0: run the stages that rank 0 broadcasts; nothing is written or printed.

    Args:
        out: the run directory, the same folder on all ranks.
    """
    session = Session(recipe, RunDir(out.absolute(), writable=False), SILENT, cache or writable_cache())
    with _threads(recipe.threads):
        wait_for_ranks(session)
        stages = {stage.name: stage for stage in to_stages(recipe)}
        while (order := broadcast(_NO_STAGE)) != _NO_STAGE:
            name, key = order
            checkpoints = open_checkpoints(session.run, name, key, None, SILENT)
            seed_stage(recipe.seed, name)
            stages[name].work(session, Learning(session.fabric, checkpoints))
    shutdown()


def wait_for_ranks(session: Session) -> None:
    """Wait until all ranks of the run have started."""
    if launched_processes() > 1:
        session.progress.note(f"{launched_processes()} processes, on {session.fabric.device.type}")
        ignore_signals_unless_leader()


def stage_fingerprints(stages: Sequence[Stage], session: Session) -> dict[str, str]:
    """Fingerprint of every stage, by name: from its parts of the recipe and the fingerprints of the stages it needs."""
    keys: dict[str, str] = {}
    for stage in stages:
        inputs = {need: keys[need] for need in stage.needs}
        parts = {"code": CODE_VERSION, "stage": stage.name, "inputs": inputs, "reads": stage.reads(session)}
        keys[stage.name] = fingerprint(parts)
    return keys


def _run_stage(stage: Stage, session: Session, learning: Learning, key: str, inputs: Mapping[str, str]) -> StageRecord:
    session.run.begin(stage.name)
    checkpoints, flow = learning.checkpoints, learning.flow
    assert checkpoints is not None
    with (
        report_out_of_memory(f"stage '{stage.name}'"),
        distributed() if stage.on_all_ranks else single_process(),
    ):
        broadcast((stage.name, checkpoints.key))  # following ranks begin the stage, too
        seed_stage(session.recipe.seed, stage.name)
        outcome = stage.work(session, learning)
    if flow.images:
        session.progress.note(f"{stage.name}: {flow.in_words()}")
    session.code.check_unchanged(stage.name)
    metrics = outcome.metrics | flow.to_metrics()
    record = session.run.finish(stage.name, key, checkpoints.elapsed, metrics, outcome.files, inputs)
    checkpoints.remove()
    return record


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set torch's number of CPU threads inside the block; None leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
