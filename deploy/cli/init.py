"""``slimsight init``: a commented recipe for somebody's model and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from slimsight.compress.errors import ConfigError

from .terminal import Terminal, console


def init(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="path/to/file.py:factory, torchvision:NAME, resnet20...; none: a ResNet that fits"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="folder with one folder of images per class; none: handwritten digits"),
    ] = None,
    out: Annotated[Path, typer.Option(help="where to write the recipe; budget.yaml lies beside it")] = Path(
        "recipe.yaml"
    ),
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help=".safetensors or a state dict (.pt, .pth); or pretrained")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what is there")] = False,
) -> None:
    """Look at a model and at images, and write a recipe and a budget file for them.

    Learns nothing. What is guessed is said, and stands in the recipe. MODEL may be left out when IMAGES is a folder.
    """
    if model is not None and images is None and Path(model).is_dir():
        images = Path(model)
        model = None
    limits = out.with_name("budget.yaml" if out.stem == "recipe" else f"{out.stem}-budget.yaml")
    for place in (out, limits):
        if place.exists() and not force:
            raise ConfigError(f"{place} exists and is kept; write elsewhere with --out, or overwrite it with --force")
    if not out.absolute().parent.is_dir():
        raise ConfigError(
            f"there is no folder {out.absolute().parent} to write {out.name} into; make it, or change --out"
        )
    terminal: Terminal = context.obj
    terminal.progress.note("looking at the images and the model")  # first: torch takes seconds to import
    from slimsight.compress.files.atomic import write_text

    from ..budget import load_budget
    from ..host import default_cache, usable_memory
    from ..schemas import schema_file
    from ..settings.recipe import load_recipe
    from ..starter import look_at_images, look_at_model, to_recipe

    seen = look_at_images(images, cache=default_cache(), progress=terminal.progress)
    given: Path | Literal["pretrained"] | None = None
    if weights is not None:
        given = "pretrained" if weights == "pretrained" else Path(weights)
    net = look_at_model(model, seen, weights=given, progress=terminal.progress)
    starter = to_recipe(seen, net, out=out, memory=usable_memory(), schema=schema_file)
    write_text(out, starter.text)
    write_text(limits, starter.budget)
    load_recipe(out)
    load_budget(limits)
    screen = console()
    for line in starter.said:
        screen.print(line, soft_wrap=True)
    screen.print(f"\nwritten: {out}, and {limits} for what must hold in the end", soft_wrap=True)
    run = Path("runs") / out.stem
    width = max(len(f"slimsight run {out} --dry-run"), len(f"slimsight check {run} --budget {limits}"))
    for command, what in (
        (f"slimsight run {out} --dry-run", "what it will do, and for how long"),
        (f"slimsight run {out}", f"into {run}; Ctrl-C and the same command again go on"),
        (f"slimsight check {run} --budget {limits}", "exit code 0: all of it holds"),
    ):
        screen.print(f"  {command:<{width}}  # {what}", soft_wrap=True)


def schema(
    kind: Annotated[str, typer.Argument(metavar="recipe|budget", help="of which file")],
) -> None:
    """Print the JSON Schema of recipes or budget files; editors complete and check them by it."""
    from slimsight.compress.registry import nearest

    from ..schemas import NAMES, schema_file

    if kind not in NAMES:
        raise ConfigError(
            f"there is no schema of '{kind}'{nearest(kind, list(NAMES))} (choose from: {', '.join(NAMES)})"
        )
    typer.echo(schema_file(kind).read_text(encoding="utf-8"), nl=False)
