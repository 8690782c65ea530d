"""``slimsight explain``: what a run's original and slim model look at in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimsight.compress.files.destination import check_folder_destination

from .terminal import AllowCode, Terminal, console


def explain(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="image files, of any size")],
    with_: Annotated[
        str | None, typer.Option("--with", metavar="NAME,...", help="explainers; default: the one the run trained")
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME|INDEX", help="the images' true class; default: their folder's"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the pictures; default: RUN/explained")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Show what the original and the slim model look at, side by side, one picture per image.

    Both explain the images' true class, or what the original predicts where no folder and no --class says it.
    """
    from ..explain.compare import ModelPair, compare_images, drift_text, top_classes
    from ..explain.inputs import parse_class, parse_explainers
    from ..run.session import Session, writable_cache
    from ..run_dir import read_run
    from ..run_dir.allowed_code import load_run_recipe

    terminal: Terminal = context.obj
    if out is not None:
        check_folder_destination(out, "--out")
    run = read_run(run_dir)
    session = Session(load_run_recipe(run, allow_code=allow_code), run, terminal.progress, writable_cache())
    models = ModelPair.of(session)
    names = parse_explainers(with_, models.own, session.why_no_explainer)
    classes = session.splits.classes
    truth = None if class_ is None else parse_class(class_, classes)
    folder = out or run_dir / "explained"
    compared = compare_images(session, models, images, names, truth=truth, out=folder)
    # Printed when all are drawn: until then the time left is shown.
    shown = list(terminal.progress.track(compared, f"explain by {', '.join(names)}", total=len(images), unit="images"))
    screen = console()
    for explained in shown:
        screen.print(
            f"{explained.path}: true class {explained.truth or 'not known'}, explained {explained.explained}",
            soft_wrap=True,
        )
        screen.print(
            f"  original: {top_classes(explained.original, classes)}; slim: {top_classes(explained.slim, classes)}",
            soft_wrap=True,
        )
        for each in explained.drifts:
            screen.print(f"  {each.explainer}: {', '.join(drift_text(each))}", soft_wrap=True)
        screen.print(f"  picture: {explained.picture}", soft_wrap=True)
