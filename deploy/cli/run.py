"""``slimsight run``: a recipe and its images in; slim model, artefacts and report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from slimsight.compress.amounts import as_duration
from slimsight.compress.errors import ConfigError

from ..run.processes import (
    as_arguments,
    check_batch_sizes,
    check_devices,
    exit_with_launcher,
    is_leader,
    launch,
    launched_processes,
)
from .terminal import Terminal, console, end_with_verdict, print_checks

if TYPE_CHECKING:
    from ..report import Report
    from ..run.dry_run import DryRun


_UNJUDGED = ["checks.accuracy_drop=null", "checks.agreement=null"]


def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file, e.g. configs/digits.yaml")],
    out: Annotated[Path | None, typer.Option(help="run directory; default: runs/<recipe's name>")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a setting")] = None,
    reuse: Annotated[Path | None, typer.Option(help="take finished stages over from this run")] = None,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="show what would be done and for how long; write nothing there")
    ] = False,
    no_accuracy_check: Annotated[
        bool,
        typer.Option(
            "--no-accuracy-check",
            help="measure accuracy (without labels: agreement), do not judge it; the same as --set "
            "checks.accuracy_drop=null --set checks.agreement=null",
        ),
    ] = False,
    devices: Annotated[
        int | None, typer.Option(metavar="N", help="processes on this machine, one for each GPU; several: torchrun")
    ] = None,
) -> None:
    """Slim the recipe's model within its budget; prove, export, time and report. Run again to resume."""
    from ..settings.recipe import load_recipe

    terminal: Terminal = context.obj
    overrides = [*(set_ or ()), *(_UNJUDGED if no_accuracy_check else [])]
    loaded = load_recipe(recipe, overrides)  # before torch is imported: a mistake is reported at once
    check_devices(devices)
    check_batch_sizes(loaded, launched_processes() or devices or 1)
    if dry and (devices or launched_processes() or 1) > 1:
        raise ConfigError("--dry-run times one process: leave --devices out")
    if devices is not None and devices > 1 and not launched_processes():
        raise typer.Exit(launch(as_arguments(recipe, out, overrides, reuse), devices))
    exit_with_launcher()
    from ..run.pipeline import run_recipe

    folder = out or Path("runs") / recipe.stem
    if dry:
        from ..run.dry_run import dry_run

        _print_dry_run(dry_run(loaded, folder, reuse=reuse, progress=terminal.progress))
        return
    if not is_leader():
        from ..run.pipeline import follow_leader

        follow_leader(loaded, folder)
        return
    report = run_recipe(
        loaded,
        folder,
        name=recipe.name,
        reuse=reuse,
        progress=terminal.progress,
        on_open=terminal.log_to,
        stop=terminal.stop,
    )
    _print_summary(report)
    _print_files(folder)
    end_with_verdict(report.verdict, folder / "report.html")


_FILES = {
    "report.html": "the report, for a browser",
    "report.md": "the same as text",
    "report.json": "the same for programs",
    "recipe.yaml": "the recipe with all defaults: the same run again",
    "slim/model.onnx": "the slim model for ONNX Runtime and TensorRT",
    "slim/model.int8.onnx": "the same in INT8, for ONNX Runtime",
    "slim/model.int8.trt.onnx": "the same in INT8, for TensorRT",
    "slim/model.pt2": "the slim model for torch.export.load",
    "slim/model.safetensors": "its weights; with slim/plan.json, the channels kept",
    "slim/explainer.safetensors": "weights of its explainer",
    "dynamic/routed.onnx": "the dynamic variant that skips channels, image by image",
    "original.onnx": "the original, as it was timed",
    "run.log": "everything that was printed",
}
"""Files that a run may write, by their path in its directory."""


def _print_files(root: Path) -> None:
    out = console()
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, what in _FILES.items():
        if (root / name).is_file():
            table.add_row(name, what)
    out.print()
    out.print(f"in {root}:", soft_wrap=True)
    out.print(table)
    out.print()


def _print_summary(report: Report) -> None:
    from ..report.shares import wilson
    from ..report.units import as_bytes, as_count, as_macs, as_ms, as_percent, as_times

    before, after = report.original, report.slim
    table = Table("", "original", "slim", "", box=None, pad_edge=False)
    for name, old, new, as_text in (
        ("MACs", before.macs, after.macs, as_macs),
        ("parameters", before.params, after.params, as_count),
        ("size of the weights", before.size_bytes, after.size_bytes, as_bytes),
    ):
        table.add_row(name, as_text(old), as_text(new), f"{as_percent(new / old)} kept")
    for name, was, now in (
        ("validation accuracy", before.val_accuracy, after.val_accuracy),
        ("test accuracy", before.test_accuracy, after.test_accuracy),
    ):
        if was is not None and now is not None:
            table.add_row(name, as_percent(was), as_percent(now), f"{100 * (now - was):+.2f} points")
        elif name == "test accuracy" and report.data is not None and report.data.without_test:
            table.add_row(name, "", "", "no test images")
    if not report.labelled and (found := report.agreement) is not None and found.test is not None:
        for name, of in (("agreement, validation", found), ("agreement, test", found.test)):
            low, high = wilson(of.top1, of.images)
            interval = f"{as_percent(low)} to {as_percent(high)}, {of.images:,} images"
            table.add_row(name, "", as_percent(of.top1), interval)
    for row in report.latency:
        timed = [(f"latency, batch {row.batch}", row.slim_ms, row.speedup)]
        if row.int8_ms is not None and row.int8_speedup is not None:
            timed.append(("the same, slim in INT8", row.int8_ms, row.int8_speedup))
        for name, slim, speed in timed:
            change = f"{as_times(speed.median)} as fast ({as_times(speed.low)} to {as_times(speed.high)})"
            table.add_row(name, as_ms(row.original_ms.median), as_ms(slim.median), change)
    if (drift := report.saliency) is not None:
        table.add_row("explanations", "", f"moved {drift.center_drift_px:.2f} px", f"{as_percent(drift.iou)} overlap")
    out = console()
    out.print(table)
    out.print()
    print_checks(report.verdict)


def _print_dry_run(plan: DryRun) -> None:
    from slimsight.compress.gates import as_amount

    from ..report.units import as_bytes, as_macs, as_ms, as_percent

    known, out = plan.known, console()
    limits = [
        f"{as_amount(name, limit)}{f' ({as_percent(limit / known.macs, 1)})' if name == 'macs' else ''}"
        for name, limit in plan.known.limits.items()
    ]
    split = ", ".join(f"{count:,} {name}" if count else f"no {name} images" for name, count in plan.images.items())
    facts = Table("", "", box=None, pad_edge=False, show_header=False)
    facts.add_row("images", f"{plan.classes} classes at {plan.size} px: {split}")
    facts.add_row("original", f"{as_macs(known.macs)} MACs, {known.groups} channel groups that can shrink")
    facts.add_row("target", f"{' and '.join(limits) or 'latency alone'}; down to {as_macs(known.smallest)} is possible")
    if known.gate_steps is not None:
        needed = f"about {known.gate_steps:,} are needed to come to the target"
        facts.add_row("gates", f"{plan.gate_steps:,} steps; {needed}")
    facts.add_row("folder", f"{plan.out}: about {as_bytes(plan.disk)}; {as_bytes(plan.disk_free)} are free")
    out.print(facts)
    out.print()
    stages = Table("stage", "", "time", "why", box=None, pad_edge=False)
    for stage in plan.stages:
        about = "" if stage.reused else "about "
        stages.add_row(stage.name, "reused" if stage.reused else "runs", about + as_duration(stage.seconds), stage.why)
    out.print(stages)
    out.print(f"\nexpected: about {as_duration(plan.seconds)}", soft_wrap=True)
    timed = f"{as_ms(1e3 * plan.steps.step)} an image with backward, {as_ms(1e3 * plan.steps.forward)} without"
    out.print(
        f"from batches of {plan.steps.batch} timed just now on {plan.device}: {timed}; early stopping makes it "
        "shorter, other work on this machine longer",
        soft_wrap=True,
    )
