"""``slimsight trust``: tests of whether the explanations of a run's model can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.destination import check_folder_destination

from .terminal import AllowCode, Terminal, console

_TESTS = "sanity,perturbation,insertion_deletion,tiles"


def trust(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    with_: Annotated[
        str,
        typer.Option("--with", metavar="NAME,...", help="explainers; default: the run's own; learned ones: NAME=FILE"),
    ] = "",
    tests: Annotated[str, typer.Option(metavar="TEST,...", help="of these, and boxes, roar")] = _TESTS,
    images: Annotated[int | None, typer.Option(help="images, spread over the classes; default: up to 200")] = None,
    split: Annotated[str, typer.Option(help="val or test")] = "val",
    boxes: Annotated[Path | None, typer.Option(help="table for the test boxes: file,x0,y0,x1,y1 (CSV or JSON)")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="of each training of roar; default: the recipe's")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for trust.json and pictures; default: RUN/trust")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Test explanations of the original model, always beside random maps. Run again to resume or to add explainers."""
    from ..report.canvas import refuse_foreign_pictures
    from ..run.session import Session, writable_cache
    from ..run_dir import read_run
    from ..run_dir.allowed_code import load_run_recipe
    from ..trust.figures import draw_trust, trust_notes, trust_pictures, trust_table
    from ..trust.run import CONTROL, TRUST_FILE, measure_trust

    terminal: Terminal = context.obj
    if out is not None:
        check_folder_destination(out, "--out")
    if split not in ("val", "test"):
        raise ConfigError(f"the split is '{split}': choose val or test")
    run = read_run(run_dir)
    session = Session(load_run_recipe(run, allow_code=allow_code), run, terminal.progress, writable_cache())
    folder = out or run_dir / "trust"
    refuse_foreign_pictures(trust_pictures(folder, _split_names(tests)))
    trusted = measure_trust(
        session,
        folder / TRUST_FILE,
        names=_split_names(with_),
        tests=_split_names(tests),
        count=images,
        split=split,
        boxes=boxes,
        epochs=epochs,
    )
    pictures = draw_trust(folder, trusted["rows"], control=CONTROL)
    results = trust_table(trusted["rows"])
    table = Table(*results.head, box=None, pad_edge=False)
    for row in results.rows:
        table.add_row(*map(str, row))
    shown = console()
    shown.print(table)
    shown.print(
        f"\nmean ± standard error over images ({trusted['images']} of {split}); areas under curves; arrows: better",
        soft_wrap=True,
    )
    for note in trust_notes(trusted["rows"]):
        shown.print(note, soft_wrap=True)
    shown.print(f"figures: {folder / TRUST_FILE}" + "".join(f", {path.name}" for path in pictures), soft_wrap=True)


def _split_names(text: str) -> list[str]:
    return [word for word in (part.strip() for part in text.split(",")) if word]
