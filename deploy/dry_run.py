"""What a run would do, without doing it: nothing is written into its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slimsight.compress.errors import RunError
from slimsight.compress.progress import SILENT, Progress

from .cache_place import default_cache
from .estimate import Steps, disk_needed, estimate, time_steps
from .limits import free_disk
from .pipeline import Stage, fingerprints, to_stages
from .recipe import Recipe
from .run_dir import RunDir, read_run
from .session import Session
from .stages.preflight import Preflight, preflight


@dataclass(frozen=True)
class PlannedStage:
    """``reused`` or not and ``why``; ``seconds``: what it took, or is expected to take."""

    name: str
    reused: bool
    why: str
    seconds: float


@dataclass(frozen=True)
class DryRun:
    """What a run would do. ``images`` by split; ``device``: where it learns."""

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

    @property
    def seconds(self) -> float:
        """Of all stages that would run."""
        return sum(stage.seconds for stage in self.stages if not stage.reused)


def dry_run(
    recipe: Recipe, out: Path, *, reuse: Path | None = None, cache: Path | None = None, progress: Progress = SILENT
) -> DryRun:
    """Check everything that a run checks before it learns, and say what it would do.

    Images are decoded into the cache, as for a run; ``out`` is only read.

    Raises:
        SlimError: what the run itself would refuse.
    """
    donor = read_run(reuse, whole=False) if reuse is not None else None
    run = _look(out)
    session = Session(recipe, run, progress, cache or default_cache())
    stages = to_stages(recipe)
    keys = fingerprints(stages, session)
    known = preflight(session)
    splits = session.splits
    images = {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test())}
    steps = time_steps(session, known.classifier)
    expected = estimate(session, known, steps)
    return DryRun(
        out=out,
        classes=len(splits.classes),
        images=images,
        size=splits.image_size,
        known=known,
        steps=steps,
        stages=tuple(_planned(stages, keys, run, donor, expected)),
        disk=disk_needed(session, known),
        disk_free=free_disk(out),
        device=str(session.fabric.device),
    )


def _look(out: Path) -> RunDir:
    """The run in ``out``, or one that is yet to be made."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            return read_run(out, whole=False)
        except RunError as error:
            raise RunError(f"{error}; a run would refuse it too: choose a new or empty folder with --out") from error
    return RunDir(out.absolute(), writable=False)


def _planned(
    stages: Sequence[Stage], keys: Mapping[str, str], run: RunDir, donor: RunDir | None, expected: Mapping[str, float]
) -> list[PlannedStage]:
    found: list[PlannedStage] = []
    running: set[str] = set()
    for stage in stages:
        if (record := run.done(stage.name, keys[stage.name])) is not None:
            found.append(PlannedStage(stage.name, True, "done before", record.seconds))
            continue
        if donor is not None and (record := donor.done(stage.name, keys[stage.name])) is not None:
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
