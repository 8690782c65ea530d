"""Every form of a run's report in its directory: written together, removed together."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files.atomic import atomic_path, remove, sync_file, sync_folder, write_text
from slimsight.compress.progress import Progress, Stop
from slimsight.compress.training import Checkpoints
from slimsight.compress.training.checkpoint import LEAST_SECONDS

from ..report.files import PANELS_FOLDER, REPORT_FILE, write_report
from ..report.html import PAGE_FILE, write_run
from ..report.markdown import MARKDOWN_FILE, PICTURES, write_markdown
from ..report.schema import Report
from ..run_dir import RECIPE, REPORT, RunDir, StageRecord, is_run, open_run, read_run
from ..settings.recipe import Recipe, dump_recipe


def write_forms(root: Path, report: Report) -> None:
    """report.json, and report.md and report.html with the pictures that lie in ``root``."""
    write_report(root / REPORT_FILE, report)
    write_markdown(root, report)
    write_run(root)


def form_files(root: Path) -> list[Path]:
    """The report's files that lie in ``root``, pictures included."""
    named = [root / name for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES)]
    return [path for path in (*named, *sorted((root / PANELS_FOLDER).glob("*"))) if path.is_file()]


def remove_forms(root: Path) -> None:
    """Nothing of an earlier report stays, pictures included."""
    for name in (REPORT_FILE, MARKDOWN_FILE, PAGE_FILE, *PICTURES):
        (root / name).unlink(missing_ok=True)
    shutil.rmtree(root / PANELS_FOLDER, ignore_errors=True)


def record_forms(run: RunDir, stages: Mapping[str, str]) -> None:
    """Record the report's files as they are now, pictures and all, once they are on the disk.

    Args:
        stages: what each stage that it is of had given (``StageRecord.content``).
    """
    files = form_files(run.root)
    for file in files:
        sync_file(file)
    for folder in {file.parent for file in files}:
        sync_folder(folder)
    run.finish(REPORT, "", 0, {}, files, stages)


def check_report(path: Path) -> None:
    """Refuse the run in ``path`` where a file of it is damaged; a report.json without its run is read as it is.

    Raises:
        Damaged: a file is not what was written.
    """
    if is_run(path):
        read_run(path)


def renew_page(path: Path) -> Path:
    """Write report.html of the finished run in ``path`` anew; returns its place.

    Raises:
        RunError: a process is writing the run, there is no finished report, or a file beside it is broken.
    """
    if not is_run(path) or read_run(path, verify=False).record(REPORT) is None:
        return write_run(path)  # of an earlier version, or a report without its run: nothing is on record
    with open_run(path) as run:
        known = run.record(REPORT)
        run.unrecord(REPORT)
        page = write_run(path)
        if known is not None:
            record_forms(run, known.inputs)
    return page


VARIABLE = "SLIMSIGHT_CHECKPOINT_SECONDS"


def checkpoint_seconds() -> float:
    """Seconds between two checkpoints, at least: ``$SLIMSIGHT_CHECKPOINT_SECONDS``, else ``LEAST_SECONDS``.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return LEAST_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{VARIABLE} is '{text}'; give seconds, 0 for a checkpoint after every step, or unset it")
    return seconds


def open_checkpoints(run: RunDir, stage: str, key: str, stop: Stop | None, progress: Progress) -> Checkpoints:
    """Where the trainings of ``stage``, begun now, save and go on from.

    Args:
        key: the stage's fingerprint; what another one left there does not count.
        stop: a wish to stop, heeded by the stage's trainings.
    """
    return Checkpoints(run.checkpoints / stage, key, seconds=checkpoint_seconds(), stop=stop, progress=progress)


def find_held(
    stages: Mapping[str, Sequence[str]], keys: Mapping[str, str], run: RunDir, progress: Progress
) -> dict[str, StageRecord]:
    """The records of stages that still hold; every damaged file is named, and its stage does not.

    Args:
        stages: those that each needs, in their order; ``keys``: their fingerprints.
    """
    held: dict[str, StageRecord] = {}
    for name, needs in stages.items():
        if (damage := run.damage(name)) is not None:
            progress.note(f"{damage}: stage '{name}' is done again")
        elif (record := run.record(name)) is not None and record.fingerprint == keys[name]:
            inputs = {need: held[need].content for need in needs if need in held}
            if len(inputs) < len(needs) or record.follows(inputs):
                held[name] = record
    for form in (RECIPE, REPORT):
        if (damage := run.damage(form)) is not None:
            progress.note(f"{damage}: the {form} is written anew")
    return held


def start_over(run: RunDir, recipe: Recipe, stages: Sequence[str]) -> None:
    """From here on the run is this recipe's: no report and no stage of another recipe may pass for its own."""
    run.forget(REPORT)
    remove_forms(run.root)  # of an earlier version, too
    remove(run.export_json)
    for stage in stages:
        run.forget(stage)
    write_recipe(run, recipe)


def write_recipe(run: RunDir, recipe: Recipe) -> None:
    """recipe.yaml, on record."""
    run.unrecord(RECIPE)
    write_text(run.recipe, dump_recipe(recipe))
    run.finish(RECIPE, "", 0, {}, [run.recipe])


def take_over(name: str, key: str, inputs: Mapping[str, str], donor: RunDir, run: RunDir) -> StageRecord | None:
    """Copy a finished stage from ``donor``; None when it does not hold there (any more), or was made from others."""
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
        return None  # it was redone while it was copied
    return run.finish(name, record.fingerprint, record.seconds, record.metrics, paths, inputs)
