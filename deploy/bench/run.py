"""The whole of ``slimsight bench``: from what was given on a command line to a result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimsight.compress.progress import SILENT, Progress

from .images import open_images
from .models import find_baseline, find_subjects, image_size
from .probe import Prober
from .result import BenchResult
from .sweep import Settings, run_sweep


def run_bench(
    models: Sequence[str | Path],
    *,
    runtimes: Sequence[str] = (),
    settings: Settings | None = None,
    images: Path | None = None,
    baseline: str | None = None,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> BenchResult:
    """Time models against each other.

    Args:
        models: run directories, ``.onnx``, ``.engine`` and ``.pt2`` files, in any mix.
        runtimes: of ``slimsight.export.runners.choose.TAKES``; empty: all that have a file to open, except torch-compile.
        images: a folder or a ``.npy`` file; None: a run's validation images, without a run drawn ones.
        baseline: name of the model that speed-ups refer to, or what was given for it; None: the first.
        allow_code: start what came with a run and was not run or built here (see ``slimsight.deploy.own_code``).

    Raises:
        SlimError: what was given cannot be used, or nothing of it can run here.
    """
    chosen = settings or Settings()
    subjects = find_subjects(models, allow_code=allow_code)
    reference = find_baseline(subjects, baseline)
    size, fixed = image_size(subjects)
    run = next((subject.run for subject in subjects if subject.run is not None), None)
    pixels = open_images(images, run, size, seed=chosen.seed, progress=progress)
    with Prober() as probe:
        return run_sweep(
            subjects,
            reference,
            pixels,
            wanted=runtimes,
            settings=chosen,
            fixed_batches=fixed,
            probe=probe,
            progress=progress,
        )
