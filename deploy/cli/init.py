"""``slimsight init`` and ``schema``: a commented recipe for a model and images, and the JSON Schemas for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.destination import check_name, follow_links, is_replaceable

from .terminal import Terminal, console

_TITLE = '"title": "slimsight '
"""In the schemas that slimsight writes."""


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
        typer.Argument(
            metavar="IMAGES",
            help="folder with one folder of images per class, or with --weights of images alone; none: handwritten "
            "digits",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="where to write the recipe; budget.yaml lies beside it")] = Path(
        "recipe.yaml"
    ),
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help=".safetensors or a state dict (.pt, .pth); or pretrained")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what is there")] = False,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="folders say nothing of classes: slim by what the model itself predicts")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="go on without images that cannot be read: they are listed in a file")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="plan a short run: channels ranked by gradients, half of the finetuning")
    ] = False,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="plan a long run: gates steered by an explainer, twice the finetuning")
    ] = False,
) -> None:
    """Examine a model and images, and write a recipe and a budget file for them.

    Learns nothing. Guesses are printed, and marked in the recipe. MODEL may be left out when IMAGES is a folder.
    """
    if quick and thorough:
        raise ConfigError("--quick and --thorough were both given: leave one out")
    if model is not None and images is None and Path(model).is_dir():
        images = Path(model)
        model = None
    budget = out.with_name("budget.yaml" if out.stem == "recipe" else f"{out.stem}-budget.yaml")
    skip_list = out.with_name("skip.txt" if out.stem == "recipe" else f"{out.stem}-skip.txt") if skip_broken else None
    check_name(str(out))
    for path in (out, budget, *([skip_list] if skip_list is not None and not _is_skip_list(skip_list) else [])):
        if path.exists() and not (path.is_file() and is_replaceable(follow_links(path))):
            raise ConfigError(f"{path} is no regular file, and the recipe is read again; give a file with --out")
        if path.exists() and not force:
            raise ConfigError(f"{path} exists and is kept; write elsewhere with --out, or overwrite it with --force")
    if not out.absolute().parent.is_dir():
        raise ConfigError(
            f"there is no folder {out.absolute().parent} to write {out.name} into; make it, or change --out"
        )
    terminal: Terminal = context.obj
    terminal.progress.note("looking at the images and the model")  # before torch is imported, which takes seconds
    from slimsight.compress.files.atomic import write_text

    from ..budget import load_budget
    from ..host import usable_memory, writable_cache
    from ..schemas import NAMES, schema_file
    from ..settings.recipe import load_recipe
    from ..starter import examine_images, examine_model, to_recipe

    labels: Literal["folders", "none"] | None = "folders" if weights is None else None
    if no_labels:
        labels = "none"
    image_facts = examine_images(
        images, cache=writable_cache(), labels=labels, skip_list=skip_list, progress=terminal.progress
    )
    source: Path | Literal["pretrained"] | None = None
    if weights is not None:
        source = "pretrained" if weights == "pretrained" else Path(weights)
    model_facts = examine_model(model, image_facts, weights=source, progress=terminal.progress)
    effort: Literal["quick", "default", "thorough"] = "quick" if quick else "thorough" if thorough else "default"
    starter = to_recipe(image_facts, model_facts, out=out, memory=usable_memory(), schema=_schema_place, effort=effort)
    load_recipe(out, text=starter.text)  # before anything is written
    for name in NAMES:
        _write_schema(out.absolute().parent / _schema_place(name), schema_file(name).read_text(encoding="utf-8"))
    write_text(out, starter.text)
    write_text(budget, starter.budget)
    load_budget(budget)
    screen = console()
    for line in starter.messages:
        screen.print(line, soft_wrap=True)
    screen.print(f"\nwritten: {out}, and {budget} for what must hold in the end", soft_wrap=True)
    run = Path("runs") / out.stem
    width = max(len(f"slimsight run {out} --dry-run"), len(f"slimsight check {run} --budget {budget}"))
    for command, what in (
        (f"slimsight run {out} --dry-run", "what it will do, and for how long"),
        (f"slimsight run {out}", f"into {run}; Ctrl-C and the same command again go on"),
        (f"slimsight check {run} --budget {budget}", "exit code 0: all of it holds"),
    ):
        screen.print(f"  {command:<{width}}  # {what}", soft_wrap=True)


def _schema_place(name: str) -> Path:
    """Where a recipe's or a budget's schema lies, from the file's folder: with the project it goes to colleagues."""
    return Path(".schemas") / f"{name}.schema.json"


def _write_schema(path: Path, text: str) -> None:
    """Write a schema of this version, unless somebody else's file is there."""
    from slimsight.compress.files.atomic import write_text

    if not path.exists() or (path.is_file() and _TITLE in path.read_text(encoding="utf-8", errors="replace")):
        write_text(path, text)


def _is_skip_list(path: Path) -> bool:
    """Whether an earlier ``init`` wrote ``path``: such a list may be written again."""
    if not path.is_file():
        return False
    from slimsight.compress.data.broken import is_skip_list

    return is_skip_list(path)


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
