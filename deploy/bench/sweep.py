"""Models x runtimes x batch sizes x threads: what can run is timed against the baseline, what cannot says why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from slimsight.compress.errors import ConfigError
from slimsight.compress.progress import SILENT, Progress
from slimsight.export.runners import Runner
from slimsight.export.runners.choose import check_runtime, open_runner, why_unavailable

from ..machine import describe_machine, machine_state, steal_share, versions
from ..timing.rounds import Clock, Timing, time_sessions
from .images import Images, open_images
from .models import BenchModel, find_baseline, find_models, image_size
from .probe import Prober, Trial, Tried
from .result import BenchResult, BenchRow, Reference, Skipped
from .rows import to_row

_ASKED_FOR = ("torch-compile",)  # not among the runtimes that are tried unasked: compiling takes minutes


@dataclass(frozen=True)
class BenchSettings:
    """Of a sweep. ``rounds`` of each row, shared out among ``sessions``; ``seconds`` bounds one sweep point.

    Raises:
        ConfigError: a number that is not positive.
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
            if not values or min(values) < 1:
                shown = ", ".join(map(str, values)) or "nothing"
                raise ConfigError(f"{name} {shown}: give whole numbers of 1 or more, e.g. 1,8")
        for name in ("rounds", "sessions", "seconds", "warmup"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a number above 0")
        if self.device not in ("cpu", "cuda"):
            raise ConfigError(f"device '{self.device}': choose from cpu, cuda")


@dataclass(frozen=True)
class SweepEntry:
    """A subject in a runtime."""

    subject: BenchModel
    runtime: str

    @property
    def key(self) -> str:
        return f"{self.subject.name} in {self.runtime}"


Probe = Callable[[Trial], Tried]
Opener = Callable[[Path | nn.Module, str, int], Runner]


def run_sweep(
    subjects: Sequence[BenchModel],
    baseline: BenchModel,
    images: Images,
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
    """Time every subject in every runtime at every point.

    Args:
        wanted: runtimes; empty: all that have a file to open, except torch-compile.
        fixed_batches: images per call of subjects that take no other number.
        probe: tries an entry at a point in a process of its own.
        available: the runtimes and why they cannot run, as of ``why_unavailable()``.

    Raises:
        ConfigError: an unknown runtime, or nothing can run: the message says why.
    """
    for name in wanted:
        check_runtime(name)
    reasons = why_unavailable() if available is None else dict(available)
    entries, skipped = _entries(subjects, wanted, reasons, settings.device)
    rows: list[BenchRow] = []
    facts, before = describe_machine(), machine_state()
    points = [(threads, batch) for threads in settings.threads for batch in settings.batches]
    for threads, batch in progress.track(points, "bench", unit="points"):
        running: list[tuple[SweepEntry, Tried]] = []
        for entry in entries:
            tried = _try(entry, threads, batch, images, settings, fixed_batches, probe)
            if tried.error is None:
                running.append((entry, tried))
            else:
                skipped.append(Skipped(entry.subject.name, entry.runtime, tried.error, batch, threads))
        rows += _time_point(running, baseline, images, threads, batch, settings, opener, progress, clock)
    after = machine_state()
    if not rows:
        first = skipped[0]
        more = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
        raise ConfigError(
            f"nothing can run on this machine: {first.model} in {first.runtime}: {first.reason}{more}; "
            "choose other runtimes with --runtime"
        )
    order = {subject.name: place for place, subject in enumerate(subjects)}
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


def _entries(
    subjects: Sequence[BenchModel], wanted: Sequence[str], reasons: Mapping[str, str | None], device: str
) -> tuple[list[SweepEntry], list[Skipped]]:
    """What to try, and what is known beforehand to be impossible."""
    entries, skipped = [], []
    for name in dict.fromkeys(wanted) or [name for name in reasons if name not in _ASKED_FOR]:
        for subject in subjects:
            if subject.file(name) is None and not wanted and name not in subject.withheld:
                continue
            if (reason := reasons[name]) is not None:
                skipped.append(Skipped(subject.name, name, reason))
            elif subject.file(name) is None:
                skipped.append(Skipped(subject.name, name, subject.missing(name)))
            elif device == "cuda" and name.startswith("torch") and (missing := reasons["onnxruntime-cuda"]) is not None:
                skipped.append(Skipped(subject.name, name, missing))
            else:
                entries.append(SweepEntry(subject, name))
    return entries, skipped


def _try(
    entry: SweepEntry,
    threads: int,
    batch: int,
    images: Images,
    settings: BenchSettings,
    fixed_batches: Mapping[str, int],
    probe: Probe,
) -> Tried:
    subject = entry.subject
    fixed = fixed_batches.get(subject.name)
    if fixed is not None and fixed != batch:
        return Tried(f"it takes batches of {fixed} image{'s' if fixed > 1 else ''}, not {batch}")
    height, width = images.pixels.shape[2:]
    return probe(
        Trial(
            subject.name,
            subject.given,
            {suffix: str(path) for suffix, path in subject.files.items()},
            {runtime: str(path) for runtime, path in subject.engines.items()},
            None if subject.run is None else str(subject.run),
            subject.role,
            entry.runtime,
            threads,
            batch,
            settings.device,
            (height, width),
        )
    )


def _time_point(
    running: Sequence[tuple[SweepEntry, Tried]],
    baseline: BenchModel,
    images: Images,
    threads: int,
    batch: int,
    settings: BenchSettings,
    opener: Opener,
    progress: Progress,
    clock: Clock,
) -> list[BenchRow]:
    """The rows of one sweep point, runtime by runtime: models of one runtime take turns, always with a baseline.

    The baseline is the baseline's model in the same runtime; where it does not run there, in the first where it does;
    where it runs nowhere, the first model that runs.
    """
    rows: list[BenchRow] = []
    everywhere = [entry for entry, _ in running]
    own = [entry for entry in everywhere if entry.subject.name == baseline.name]
    if not own and everywhere:
        own = everywhere[:1]
        progress.note(f"{baseline.name} does not run here: speed-ups refer to {own[0].key}")
    tried = {entry.key: result for entry, result in running}
    for runtime in dict.fromkeys(entry.runtime for entry in everywhere):
        members = [entry for entry in everywhere if entry.runtime == runtime]
        reference = next((entry for entry in own if entry.runtime == runtime), own[0])
        timed = list({entry.key: entry for entry in (reference, *members)}.values())
        runners = {entry.key: _runner(entry, threads, settings.device, opener) for entry in timed}
        progress.note(f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}: {', '.join(runners)}")
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
                    tried[entry.key],
                    subject=entry.subject,
                    file=_file(entry),
                    runtime=entry.runtime,
                    precision=runner.precision,
                    threads=threads,
                    batch=batch,
                    warm=measured.warm,
                    baseline=Reference(reference.subject.name, reference.runtime),
                    seed=settings.seed,
                )
            )
    return rows


def _runner(entry: SweepEntry, threads: int, device: str, opener: Opener) -> Runner:
    found = entry.subject.open(entry.runtime)
    return opener(found.to(device) if isinstance(found, nn.Module) else found, entry.runtime, threads)


def _file(entry: SweepEntry) -> str:
    path = entry.subject.file(entry.runtime)
    assert path is not None
    return path.name if path.is_file() else f"{path.name} ({entry.subject.role})"


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
        runtimes: of ``runners.choose.RUNTIMES``; empty: all that have a file to open, except torch-compile.
        images: a folder or a ``.npy`` file; None: a run's validation images, without a run drawn ones.
        baseline: name of the model that speed-ups refer to, or what was given for it; None: the first.
        allow_code: start what came with a run and was not run or built here (see ``run_dir.allowed_code``).

    Raises:
        SlimError: what was given cannot be used, or nothing of it can run here.
    """
    chosen = settings or BenchSettings()
    subjects = find_models(models, allow_code=allow_code)
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
