"""Resuming a run: which stages are reused, checkpoints inside a stage, and the report's files on record.

A stage is reused if its record (done.json) has the fingerprint of today's recipe and its files are undamaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.atomic import atomic_path, remove, remove_if_empty, sync_file, sync_folder, write_text
from slimsight.compress.progress import Progress, Stop
from slimsight.compress.training import Checkpoints
from slimsight.compress.training.checkpoint import LEAST_SECONDS, remove_checkpoints

from ..report.files import PANELS_FOLDER, REPORT_FILE, panel_files, write_report
from ..report.html import PAGE_FILE, write_run
from ..report.markdown import MARKDOWN_FILE, PICTURES, write_markdown
from ..report.schema import Report
from ..run_dir import RECIPE, REPORT, RunDir, StageRecord, is_run, open_run, read_run
from ..run_dir.paths import is_stage
from ..run_dir.records import FINGERPRINT_VERSION
from ..settings.recipe import Recipe, dump_recipe


def write_report_files(root: Path, report: Report) -> None:
    """Write report.json, report.md and report.html; the pictures in ``root`` are linked."""
    write_report(root / REPORT_FILE, report)
    write_markdown(root, report)
    write_run(root)


def report_files(root: Path) -> list[Path]:
    """The report's files in ``root``, pictures included."""
    named = [root / name for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES)]
    return [path for path in (*named, *panel_files(root)) if path.is_file()]


def remove_report_files(root: Path) -> None:
    """Remove all files of a report, pictures included."""
    for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES):
        (root / name).unlink(missing_ok=True)
    for path in panel_files(root):
        path.unlink(missing_ok=True)
    remove_if_empty(root / PANELS_FOLDER)


def remove_stage_checkpoints(run: RunDir) -> None:
    """Delete the checkpoints of all stages; what else lies among them stays."""
    for folder in run.checkpoints.glob("*"):
        if is_stage(folder.name) and folder.is_dir():
            remove_checkpoints(folder)
    remove_if_empty(run.checkpoints)


def record_report_files(run: RunDir, stages: Mapping[str, str]) -> None:
    """Sync the report's files to the disk and record their checksums.

    Args:
        stages: content digests of the stages that the report describes (``StageRecord.content``).
    """
    files = report_files(run.root)
    for file in files:
        sync_file(file)
    for folder in {file.parent for file in files}:
        sync_folder(folder)
    run.finish(REPORT, "", 0, {}, files, stages)


def check_run_undamaged(path: Path) -> None:
    """Verify the checksums of the run in ``path``; a report.json without its run has none.

    Raises:
        Damaged: a file is not what was written.
    """
    if is_run(path):
        read_run(path)


def rewrite_page(path: Path) -> Path:
    """Write report.html of the finished run in ``path`` again; returns its path.

    Raises:
        RunError: a process is writing the run, there is no finished report, or a file beside it is broken.
    """
    if not is_run(path) or read_run(path, verify=False).record(REPORT) is None:
        return write_run(path)  # an earlier version, or a report without its run: nothing is recorded
    with open_run(path) as run:
        known = run.record(REPORT)
        run.unrecord(REPORT)
        page = write_run(path)
        if known is not None:
            record_report_files(run, known.inputs)
    return page


OLDER_FINGERPRINTS = (
    "an earlier version finished this run and kept no record of every image, of the test images and of what the "
    "model's file imports; whether these are still the same cannot be known, so its stages are done again, once"
)

CHECKPOINT_SECONDS_VARIABLE = "SLIMSIGHT_CHECKPOINT_SECONDS"


def checkpoint_seconds() -> float:
    """Minimum seconds between two checkpoints: ``$SLIMSIGHT_CHECKPOINT_SECONDS``, else ``LEAST_SECONDS``.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    text = os.environ.get(CHECKPOINT_SECONDS_VARIABLE)
    if not text:
        return LEAST_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(
            f"{CHECKPOINT_SECONDS_VARIABLE} is '{text}'; give seconds, 0 for a checkpoint after every step, or unset it"
        )
    return seconds


def open_checkpoints(run: RunDir, stage: str, key: str, stop: Stop | None, progress: Progress) -> Checkpoints:
    """Checkpoints of the trainings in ``stage``: they resume from the last one and save new ones.

    Args:
        key: the stage's fingerprint; checkpoints of another fingerprint are ignored.
        stop: set on Ctrl-C or SIGTERM; trainings poll it.
    """
    return Checkpoints(run.checkpoints / stage, key, seconds=checkpoint_seconds(), stop=stop, progress=progress)


def find_reusable(
    stages: Mapping[str, Sequence[str]], keys: Mapping[str, str], run: RunDir, progress: Progress
) -> dict[str, StageRecord]:
    """Records of the stages that can be reused; damaged files are reported, and their stages run again.

    Args:
        stages: in order, each with the stages that it needs.
        keys: the stages' fingerprints by today's recipe.
    """
    reusable: dict[str, StageRecord] = {}
    older = False
    for name, needs in stages.items():
        if (damage := run.damage(name)) is not None:
            progress.note(f"{damage}: stage '{name}' is done again")
        elif (record := run.record(name)) is None:
            continue
        elif record.fingerprint != keys[name]:
            older = older or record.fingerprint_version < FINGERPRINT_VERSION
        else:
            inputs = {need: reusable[need].content for need in needs if need in reusable}
            if len(inputs) < len(needs) or record.follows(inputs):
                reusable[name] = record
    if older:
        progress.note(OLDER_FINGERPRINTS)
    for form in (RECIPE, REPORT):
        if (damage := run.damage(form)) is not None:
            progress.note(f"{damage}: the {form} is written anew")
    return reusable


def discard_stale(run: RunDir, recipe: Recipe, stages: Sequence[str]) -> None:
    """Remove the report and the ``stages`` of an earlier recipe, so that none passes for this recipe's."""
    run.forget(REPORT)
    remove_report_files(run.root)  # of an earlier version, too
    remove(run.export_json)
    for stage in stages:
        run.forget(stage)
    write_recipe(run, recipe)


def write_recipe(run: RunDir, recipe: Recipe) -> None:
    """Write recipe.yaml and record its checksum."""
    run.unrecord(RECIPE)
    write_text(run.recipe, dump_recipe(recipe))
    run.finish(RECIPE, "", 0, {}, [run.recipe])


def is_written(run: RunDir, recipe: Recipe) -> bool:
    """Whether recipe.yaml is undamaged and holds ``recipe``, settings that change no stage (``checks``) included."""
    if run.record(RECIPE) is None or run.damage(RECIPE) is not None:
        return False
    return run.recipe.read_text(encoding="utf-8") == dump_recipe(recipe)


def reuse_from(name: str, key: str, inputs: Mapping[str, str], donor: RunDir, run: RunDir) -> StageRecord | None:
    """Copy a finished stage from ``donor``; None if its fingerprint or its inputs differ."""
    record = donor.valid_record(name, key)
    if record is None or not record.follows(inputs):
        return None
    run.begin(name)
    paths = []
    for file in record.files:
        target = run.root / file
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as part:
                shutil.copyfile(donor.root / file, part)
        except OSError as error:
            raise RunError(f"cannot copy {file} from {donor.root}: {error.strerror}; run without --reuse") from error
        paths.append(target)
    if donor.valid_record(name, key) != record:
        return None  # the donor ran it again during the copy
    return run.finish(name, record.fingerprint, record.seconds, record.metrics, paths, inputs)
