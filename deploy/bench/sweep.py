"""The sweep of a bench: models x runtimes x batch sizes x threads, each timed against the baseline or skipped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from slimsight.compress.amounts import MOST_BATCH, MOST_ROUNDS, MOST_SESSIONS, MOST_THREADS, as_duration
from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.runners import Runner
from slimsight.export.runners.choose import find_runtime, open_runner, why_unavailable

from ..machine import describe_machine, machine_state, steal_share, versions
from ..report.units import plural
from ..timing.rounds import Clock, Timing, time_sessions
from .images import BenchImages, open_bench_images
from .models import BenchModel, common_image_size, find_baseline, find_models
from .probe import Prober, Trial, TrialResult
from .result import BenchResult, BenchRow, Skipped, SpeedupReference, to_row

_ONLY_ON_REQUEST = ("torch-compile",)  # runtimes that are used only if asked for: compiling takes minutes
_MOST = {"rounds": MOST_ROUNDS, "sessions": MOST_SESSIONS, "seconds": 86_400, "warmup": 3600}


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a sweep. ``rounds`` of each row, divided among ``sessions``; ``seconds`` limits one sweep point.

    Raises:
        ConfigError: a number is not positive, or the device is unknown.
    """

    batches: tuple[int, ...] = (1,)
    threads: tuple[int, ...] = (1,)
    rounds: int = 400
    sessions: int = 10
    seconds: float = 60.0
    warmup: float = 5.0
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "threads"):
            values: tuple[int, ...] = getattr(self, name)
            most = MOST_BATCH if name == "batches" else MOST_THREADS
            if not values or not 1 <= min(values) <= max(values) <= most:
                shown = ", ".join(map(str, values)) or "nothing"
                raise ConfigError(f"{name} {shown}: give whole numbers from 1 to {most:,}, e.g. 1,8")
        for name, most in _MOST.items():
            if not 0 < getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a number above 0 and at most {most:,}")
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"device '{self.device}': choose from cpu, cuda")


@dataclass(frozen=True)
class SweepEntry:
    """A model in a runtime: what is timed at each sweep point."""

    model: BenchModel
    runtime: str

    @property
    def key(self) -> str:
        return f"{self.model.name} in {self.runtime}"


Probe = Callable[[Trial], TrialResult]
Opener = Callable[[Path | nn.Module, str, int], Runner]


def run_sweep(
    models: Sequence[BenchModel],
    baseline: BenchModel,
    images: BenchImages,
    *,
    wanted: Sequence[str] = (),
    settings: BenchSettings,
    fixed_batches: Mapping[str, int],
    probe: Probe,
    opener: Opener = open_runner,
    available: Mapping[str, str | None] | None = None,
    progress: Progress = SILENT,
    clock: Clock = time.perf_counter_ns,
) -> BenchResult:
    """Time every model in every runtime at every sweep point.

    Args:
        wanted: runtimes; empty: all that have a file to open, except torch-compile.
        fixed_batches: batch size by name of models whose file fixes it.
        probe: runs a trial of an entry at a point in a process of its own.
        available: the runtimes and why they cannot run, as returned by ``why_unavailable()``.

    Raises:
        ConfigError: an unknown runtime, or nothing can run.
    """
    reasons = why_unavailable() if available is None else dict(available)
    reasons |= {name: reasons[find_runtime(name)[0].name] for name in wanted}  # those with a device
    entries, skipped = _plan_entries(models, wanted, reasons, settings.device)
    rows: list[BenchRow] = []
    facts, before = describe_machine(), machine_state()
    points = [(threads, batch) for threads in settings.threads for batch in settings.batches]
    if entries:
        progress.note(_announcement(entries, len(points), settings))
    for threads, batch in progress.track(points, "bench", unit="points"):
        running: list[tuple[SweepEntry, TrialResult]] = []
        for entry in entries:
            tried = _probe_entry(entry, threads, batch, images, settings, fixed_batches, probe)
            if tried.error is None:
                running.append((entry, tried))
            else:
                skipped.append(Skipped(entry.model.name, entry.runtime, tried.error, batch, threads))
        rows += _time_sweep_point(running, baseline, images, threads, batch, settings, opener, progress, clock)
    after = machine_state()
    if not rows:
        first = skipped[0]
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise ConfigError(
            f"nothing can run on this machine: {first.model} in {first.runtime}: {first.reason}{more}; "
            "choose other runtimes with --runtime"
        )
    order = {model.name: position for position, model in enumerate(models)}
    rows.sort(key=lambda row: (row.threads, row.batch, list(reasons).index(row.runtime), order[row.model]))
    return BenchResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=settings.seed,
        baseline=baseline.name,
        images={"source": images.source, "count": len(images.pixels), "size": list(images.pixels.shape[2:])},
        settings=asdict(settings),
        versions=versions(),
        machine={**facts, "before": before, "after": after, "stolen": steal_share(before, after)},
        runtimes=reasons,
        rows=tuple(rows),
        skipped=tuple(skipped),
    )


def _plan_entries(
    models: Sequence[BenchModel], wanted: Sequence[str], reasons: Mapping[str, str | None], device: str
) -> tuple[list[SweepEntry], list[Skipped]]:
    """The entries to try, and those that are known beforehand not to run."""
    entries, skipped = [], []
    for name in dict.fromkeys(wanted) or [name for name in reasons if name not in _ONLY_ON_REQUEST]:
        for model in models:
            if model.path_for(name) is None and not wanted and name not in model.withheld:
                continue
            if (reason := reasons[name]) is not None:
                skipped.append(Skipped(model.name, name, reason))
            elif model.path_for(name) is None:
                skipped.append(Skipped(model.name, name, model.missing_reason(name)))
            elif device == "cuda" and name.startswith("torch") and (missing := reasons["onnxruntime-cuda"]) is not None:
                skipped.append(Skipped(model.name, name, missing))
            else:
                entries.append(SweepEntry(model, name))
    return entries, skipped


def _announcement(entries: Sequence[SweepEntry], points: int, settings: BenchSettings) -> str:
    """What will be timed, and the time that it takes at most: rounds end earlier where calls are fast."""
    runtimes = len({entry.runtime for entry in entries})
    names = len({entry.model.name for entry in entries})
    most = points * runtimes * (settings.seconds + settings.sessions * settings.warmup)
    return (
        f"bench: {plural(names, 'model')} in {plural(runtimes, 'runtime')} at {plural(points, 'point')}: at most about "
        f"{as_duration(most)} of timing (--seconds {settings.seconds:g} for each runtime and point, --sessions "
        f"{settings.sessions})"
    )


def _probe_entry(
    entry: SweepEntry,
    threads: int,
    batch: int,
    images: BenchImages,
    settings: BenchSettings,
    fixed_batches: Mapping[str, int],
    probe: Probe,
) -> TrialResult:
    fixed = fixed_batches.get(entry.model.name)
    if fixed is not None and fixed != batch:
        return TrialResult(f"it takes batches of {plural(fixed, 'image')}, not {batch}")
    height, width = images.pixels.shape[2:]
    return probe(Trial(entry.model, entry.runtime, threads, batch, settings.device, (height, width)))


def _time_sweep_point(
    running: Sequence[tuple[SweepEntry, TrialResult]],
    baseline: BenchModel,
    images: BenchImages,
    threads: int,
    batch: int,
    settings: BenchSettings,
    opener: Opener,
    progress: Progress,
    clock: Clock,
) -> list[BenchRow]:
    """Time the entries of one sweep point: all models of one runtime, and the baseline, in the same rounds.

    The reference is the baseline in the same runtime; where it does not run there, in the first runtime where it does;
    where it runs in none, the first model that runs.
    """
    rows: list[BenchRow] = []
    entries = [entry for entry, _ in running]
    references = [entry for entry in entries if entry.model.name == baseline.name]
    if not references and entries:
        references = entries[:1]
        progress.note(f"{baseline.name} does not run here: speed-ups refer to {references[0].key}")
    trials = {entry.key: result for entry, result in running}
    for runtime in dict.fromkeys(entry.runtime for entry in entries):
        members = [entry for entry in entries if entry.runtime == runtime]
        reference = next((entry for entry in references if entry.runtime == runtime), references[0])
        timed = list({entry.key: entry for entry in (reference, *members)}.values())
        runners = {entry.key: _open_entry(entry, threads, settings.device, opener) for entry in timed}
        progress.note(f"batch {batch}, {plural(threads, 'thread')}: {', '.join(runners)}")
        measured = time_sessions(
            runners,
            images.pixels,
            sessions=settings.sessions,
            rounds=settings.rounds,
            warmup=settings.warmup,
            seed=settings.seed + len(rows),
            batch=batch,
            seconds=settings.seconds,
            progress=progress,
            clock=clock,
        )
        against: Timing = measured.timings[reference.key]
        for entry in members:
            runner = runners[entry.key]
            rows.append(
                to_row(
                    measured.timings[entry.key],
                    None if entry.key == reference.key else against,
                    trials[entry.key],
                    model=entry.model,
                    file=_file_label(entry),
                    runtime=entry.runtime,
                    precision=runner.precision,
                    threads=threads,
                    batch=batch,
                    warm=measured.warm,
                    baseline=SpeedupReference(reference.model.name, reference.runtime),
                    seed=settings.seed,
                )
            )
    return rows


def _open_entry(entry: SweepEntry, threads: int, device: str, opener: Opener) -> Runner:
    model = entry.model.open(entry.runtime)
    return opener(model.to(device) if isinstance(model, nn.Module) else model, entry.runtime, threads)


def _file_label(entry: SweepEntry) -> str:
    path = entry.model.path_for(entry.runtime)
    assert path is not None
    return path.name if path.is_file() else f"{path.name} ({entry.model.role})"


def run_bench(
    models: Sequence[str | Path],
    *,
    runtimes: Sequence[str] = (),
    settings: BenchSettings | None = None,
    images: Path | None = None,
    baseline: str | None = None,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> BenchResult:
    """Time models against each other.

    Args:
        models: run directories, ``.onnx``, ``.engine`` and ``.pt2`` files, in any mix.
        runtimes: names that ``runners.choose`` knows; empty: all that have a file to open, except torch-compile.
        images: a folder or a ``.npy`` file; None: a run's validation images, without a run random ones.
        baseline: name or given path of the model that speed-ups refer to; None: the first.
        allow_code: run code that came with a run and was not run or built here (see ``run_dir.allowed_code``).

    Raises:
        SlimError: an argument cannot be used, or no model can run here.
    """
    chosen = settings or BenchSettings()
    bench_models = find_models(models, allow_code=allow_code)
    reference = find_baseline(bench_models, baseline)
    size, fixed = common_image_size(bench_models)
    run = next((model.run for model in bench_models if model.run is not None), None)
    pixels = open_bench_images(images, run, size, seed=chosen.seed, progress=progress)
    with Prober() as probe:
        return run_sweep(
            bench_models,
            reference,
            pixels,
            wanted=runtimes,
            settings=chosen,
            fixed_batches=fixed,
            probe=probe,
            progress=progress,
        )
