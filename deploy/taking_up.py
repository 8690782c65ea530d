"""What of an earlier run still holds: found where it lies, taken over from another run, or started over."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from slimsight.compress.disk import remove
from slimsight.compress.errors import RunError
from slimsight.compress.files import atomic_path, write_text
from slimsight.compress.progress import Progress

from .recipe import Recipe, dump_recipe
from .report.forms import remove_forms
from .run_dir import RECIPE, REPORT, RunDir, StageRecord


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
    record = donor.done(name, key)
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
    if donor.done(name, key) != record:
        return None  # it was redone while it was copied
    return run.finish(name, record.fingerprint, record.seconds, record.metrics, paths, inputs)
