"""``slimsight inspect``: which channel groups of a model can shrink, and what its layers cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from slimsight.compress.amounts import MOST_CLASSES, read_image_shape
from slimsight.compress.files.destination import check_file_destination

from .terminal import AllowCode, Terminal, console

if TYPE_CHECKING:
    from ..inspection import Inspection

_SHOWN_LAYERS = 10


def inspect(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="torchvision:NAME, timm:NAME, path/to/file.py:factory, or a run")
    ],
    input_: Annotated[str, typer.Option("--input", metavar="CxHxW", help="one image, e.g. 3x224x224")],
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MOST", help="plan for it, prove the plan: macs=50%, params=1M, size=2MB"),
    ] = None,
    align: Annotated[int, typer.Option(min=1, max=1_000_000, help="widths of the plan in multiples of this")] = 1,
    classes: Annotated[int, typer.Option(min=2, max=MOST_CLASSES, help="for a factory that takes their number")] = 1000,
    limit: Annotated[float, typer.Option(min=1, max=86_400, help="seconds for the proof of the groups")] = 300,
    json: Annotated[Path | None, typer.Option(help="write the findings to this file")] = None,
    allow_code: AllowCode = False,
) -> None:
    """What can shrink in a model, what cannot and why, what costs most, and how small it can get. Learns nothing."""
    from slimsight.compress.files.atomic import write_json
    from slimsight.compress.surgery import ProofCache

    from ..host import proof_folder
    from ..inspection import inspect_model, load_model, read_limits

    terminal: Terminal = context.obj
    if json is not None:
        check_file_destination(json, "--json")
    shape, wanted = read_image_shape(input_), read_limits(budget) if budget else None
    net = load_model(model, classes, allow_code=allow_code)
    inspection = inspect_model(
        model,
        net,
        shape,
        budget=wanted,
        align=align,
        limit=limit,
        proofs=ProofCache(proof_folder()),
        progress=terminal.progress,
    )
    if json is not None:
        write_json(json, inspection.to_dict())
    _print_inspection(inspection)


def _print_inspection(inspection: Inspection) -> None:
    from ..report.units import as_bytes, as_count, as_error, as_macs, as_percent

    out = console()
    out.print(f"{inspection.model} at {'x'.join(map(str, inspection.input))}")
    facts = Table("", "", box=None, pad_edge=False, show_header=False)
    facts.add_row("MACs", as_macs(inspection.macs))
    for operator, macs in inspection.attention_macs.items():
        facts.add_row(f"products of activations ({operator})", f"{as_macs(macs)}, without weights: in no other figure")
    facts.add_row("parameters", as_count(inspection.params))
    facts.add_row("size of the weights", as_bytes(inspection.size_bytes))
    facts.add_row("channel groups that can shrink", f"{inspection.groups}, proven in {inspection.seconds:.0f} s")
    facts.add_row(
        "smallest reachable",
        f"{as_macs(inspection.smallest_macs)} ({as_percent(inspection.smallest_macs / inspection.macs, 1)})",
    )
    out.print(facts)
    if len(inspection.outputs) > 1:
        out.print("\noutputs (N images)")
        for name, shape in inspection.outputs.items():
            out.print(f"  {name}: {'x'.join('N' if size is None else str(size) for size in shape)}", soft_wrap=True)
    out.print("\nlayers that cost most")
    layers = Table("", "MACs", "share", box=None, pad_edge=False, show_header=False)
    for layer in inspection.layers[:_SHOWN_LAYERS]:
        layers.add_row(layer.name, as_macs(layer.macs), as_percent(layer.macs / inspection.macs, 1))
    out.print(layers)
    out.print(f"\nfrozen groups: {len(inspection.frozen_groups)}")
    for group in inspection.frozen_groups:
        out.print(f"  {group['name']}: {group['reason']}", soft_wrap=True)
    if (plan := inspection.plan) is not None:
        out.print("\nplan by magnitude")
        proof = Table("", "", box=None, pad_edge=False, show_header=False)
        proof.add_row("MACs", f"{as_macs(plan.macs)} ({as_percent(plan.macs_kept)} kept)")
        proof.add_row("parameters", f"{as_count(plan.params)} ({as_percent(plan.params / inspection.params, 1)} kept)")
        same = "the same" if plan.cost_model_macs == plan.fvcore_macs else "NOT the same"
        proof.add_row("cost model and fvcore", f"{same}: {plan.cost_model_macs:,} and {plan.fvcore_macs:,}")
        proof.add_row(
            "slim model against closed gates",
            f"{as_error(plan.max_rel)} in float64, {as_error(plan.max_rel_float32)} in float32 (relative)",
        )
        if len(plan.outputs) > 1:
            for name, difference in plan.outputs.items():
                proof.add_row(f"  {name}", f"{as_error(difference)} in float64")
        out.print(proof)
