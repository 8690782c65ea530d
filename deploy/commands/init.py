"""``slimsight init``: a commented recipe for somebody's model and images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compress.errors import ConfigError

from ..terminal import Terminal, console


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
    out: Annotated[Path, typer.Option(help="where to write it")] = Path("recipe.yaml"),
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help=".safetensors or a state dict (.pt, .pth); or pretrained")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what is there")] = False,
) -> None:
    """Look at a model and at images, and write a recipe for them. What is guessed is said, and stands in the recipe.

    Learns nothing. MODEL may be left out when IMAGES is a folder.
    """
    if model is not None and images is None and Path(model).is_dir():
        model, images = None, Path(model)
    if out.exists() and not force:
        raise ConfigError(f"{out} exists and is kept; write elsewhere with --out, or overwrite it with --force")
    if not out.absolute().parent.is_dir():
        raise ConfigError(
            f"there is no folder {out.absolute().parent} to write {out.name} into; make it, or change --out"
        )
    from compress.files import write_text

    from ..cache_place import default_cache
    from ..limits import usable_memory
    from ..recipe import load_recipe
    from ..schemas import schema_file
    from ..starter import look_at_images, look_at_model, to_recipe

    terminal: Terminal = context.obj
    seen = look_at_images(images, cache=default_cache(), progress=terminal.progress)
    given: Path | Literal["pretrained"] | None = None
    if weights is not None:
        given = "pretrained" if weights == "pretrained" else Path(weights)
    net = look_at_model(model, seen, weights=given, progress=terminal.progress)
    starter = to_recipe(seen, net, out=out, memory=usable_memory(), schema=schema_file("recipe"))
    write_text(out, starter.text)
    load_recipe(out)
    screen = console()
    for line in starter.said:
        screen.print(line, soft_wrap=True)
    screen.print(f"\nwritten: {out}", soft_wrap=True)
    screen.print(f"next: slimsight run {out} --dry-run   (what it will do, and for how long)", soft_wrap=True)
    screen.print(f"      slimsight run {out}", soft_wrap=True)
