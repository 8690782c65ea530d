"""``slimsight bench``: models timed against each other, in every runtime."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from slimsight.compress.amounts import MOST_BATCH, MOST_ROUNDS, MOST_SESSIONS, MOST_THREADS, read_count
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.destination import check_file_destination
from slimsight.compress.files.untrusted import printable

from .terminal import AllowCode, Terminal, console

if TYPE_CHECKING:
    from ..bench import BenchResult, BenchRow


def bench(
    context: typer.Context,
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="run directories, .onnx, .engine and .pt2 files, in any mix")
    ],
    runtime: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="more than once; default: all that fit, but torch-compile")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N", help="images per call")] = "1",
    threads: Annotated[str, typer.Option(metavar="N,N", help="threads of the host")] = "1",
    rounds: Annotated[
        int, typer.Option(min=1, max=MOST_ROUNDS, help="timed calls of each row, shared out among the sessions")
    ] = 400,
    sessions: Annotated[int, typer.Option(min=1, max=MOST_SESSIONS, help="how often all models are opened anew")] = 10,
    seconds: Annotated[float, typer.Option(help="most for the timed rounds of one runtime at one point")] = 60.0,
    images: Annotated[
        Path | None, typer.Option(help="folder of images or .npy; default: the run's, without a run drawn ones")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what ratios refer to; default: the first")
    ] = None,
    device: Annotated[str, typer.Option(help="of torch and torch-compile: cpu or cuda")] = "cpu",
    json: Annotated[Path | None, typer.Option(help="write all of it to this file")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw it into this file (PNG)")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="draws orders and resamples")] = 0,
    allow_code: AllowCode = False,
) -> None:
    """Time models against each other: interleaved, with intervals, in every runtime that can run here."""
    if "torch" not in sys.modules:
        # Threads of one model that spin after their work would take the core from the model timed next.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from slimsight.compress.files.atomic import write_json

    from ..bench import BenchSettings, run_bench

    for option, file in (("--json", json), ("--plot", plot)):
        if file is not None:
            check_file_destination(file, option)
    settings = BenchSettings(
        batches=_read_counts("batch", batch),
        threads=_read_counts("threads", threads),
        rounds=rounds,
        sessions=sessions,
        seconds=seconds,
        device=device,
        seed=seed,
    )
    terminal: Terminal = context.obj
    result = run_bench(
        models,
        runtimes=runtime or (),
        settings=settings,
        images=images,
        baseline=baseline,
        allow_code=allow_code,
        progress=terminal.progress,
    )
    _print_result(result)  # before the files: an unwritable path must not lose the measurement
    if json is not None:
        write_json(json, result.to_dict())
    if plot is not None:
        from ..bench.plot import draw_bench

        draw_bench(result, plot)


def _read_counts(name: str, text: str) -> tuple[int, ...]:
    most = MOST_BATCH if name == "batch" else MOST_THREADS
    counts = [read_count(part, most) for part in text.split(",")]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        raise ConfigError(f"--{name} is '{printable(text)}': give whole numbers from 1 to {most:,}, e.g. --{name} 1,8")
    return tuple(dict.fromkeys(known))


def _print_result(result: BenchResult) -> None:
    out = console()
    rows = [_row_texts(row) for row in result.rows]
    columns = [name for name in rows[0] if any(texts[name] for texts in rows)]  # no empty column
    table = Table(*columns, box=None, pad_edge=False)
    for texts in rows:
        table.add_row(*(texts[name] for name in columns))
    out.print(table)
    if result.skipped:
        out.print("\nnot run")
        missing = Table("model", "runtime", "where", "why", box=None, pad_edge=False)
        for item in result.skipped:
            where = "" if item.batch is None else f"batch {item.batch}, threads {item.threads}"
            missing.add_row(item.model, item.runtime, where, item.reason)
        out.print(missing)
    out.print(f"\nspeed-up: times as fast as {result.baseline}, with its 95 % interval over sessions", soft_wrap=True)
    for row in result.rows:
        if row.baseline.runtime != row.runtime:
            base = f"{row.baseline.model} in {row.baseline.runtime}"
            out.print(f"* {row.model} in {row.runtime}, {row.point}: times as fast as {base}", soft_wrap=True)
    out.print(f"images: {result.images['count']}, {result.images['source']}; {_machine_text(result)}", soft_wrap=True)
    for row in result.rows:
        for reason in row.noise:
            out.print(f"noisy: {row.model} in {row.runtime}, {row.point}: {reason}", soft_wrap=True)
    out.print(f"verdict: {result.verdict}")


def _row_texts(row: BenchRow) -> dict[str, str]:
    """A row's texts by column; empty where there is no value."""
    from ..report.units import as_bytes, as_macs, as_ms, as_percent

    memory = [as_bytes(size) for size in (row.host_memory_bytes, row.device_memory_bytes) if size is not None]
    speedup = ""
    if row.speedup is not None:
        mark = " *" if row.baseline.runtime != row.runtime else ""
        speedup = f"{row.speedup.median:.3f} ({row.speedup.low:.3f} to {row.speedup.high:.3f}){mark}"
    return {
        "model": row.model,
        "MACs": "" if row.macs is None else as_macs(row.macs),
        "test": "" if row.test_accuracy is None else as_percent(row.test_accuracy),
        "runtime": row.runtime,
        "batch": str(row.batch),
        "threads": str(row.threads),
        "median": as_ms(row.host_ms.median),
        "p90": as_ms(row.host_ms.p90),
        "p99": as_ms(row.host_ms.p99),
        "mean": as_ms(row.mean_ms),
        "images/s": f"{row.images_per_second:,.0f}",
        "memory": " + ".join(memory),
        "on the device": "" if row.device_ms is None else as_ms(row.device_ms.median),
        "speed-up": speedup,
        "verdict": row.verdict,
    }


def _machine_text(result: BenchResult) -> str:
    machine = result.machine
    load = " to ".join(f"{machine[when]['load_average'][0]:.1f}" for when in ("before", "after"))
    taken = "" if machine["stolen"] is None else f", {100 * machine['stolen']:.1f} % of the time stolen by other guests"
    return f"{machine['processor']}, {machine['usable_cores']} cores, load {load}{taken}"
