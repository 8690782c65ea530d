"""The reference of every setting of a recipe, as Markdown, from the models that validate recipes.

``python -m slimsight.deploy.settings.reference > docs/recipes.md`` writes the page.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from .allowed import Allowed, Schema
from .recipe import Recipe

_HEAD = """# Every setting of a recipe

<!-- Made by `python -m slimsight.deploy.settings.reference`; what it says comes from the code that reads recipes. -->

A recipe is a YAML file. Every setting has a default; an unknown key, a wrong value and a key given twice are errors,
all reported together. `--set gates.steps=500` overrides one setting on the command line. Relative paths count from the
recipe's folder in the file, and from the current folder in `--set`.

A run writes the recipe with every default filled in to `recipe.yaml` in its folder.
"""


def render_recipes() -> str:
    """The page: a heading and a table for each section, in the order in which a resolved recipe has them."""
    return "\n".join([_HEAD, *_section_lines(Recipe, Recipe.model_json_schema(), ())])


def _section_lines(model: type[BaseModel], schema: Schema, path: tuple[str, ...]) -> Iterator[str]:
    """Its own settings first, then the sections in it."""
    parts = {name: field.default for name, field in model.model_fields.items()}
    inner = {name: default for name, default in parts.items() if isinstance(default, BaseModel)}
    if path:
        yield f"{'#' * (len(path) + 1)} `{'.'.join(path)}`\n"
        yield f"{_section_text(model, path)}\n"
    rows = [_table_row(model, name, schema, path) for name in parts if name not in inner]
    if rows:
        yield "| setting | takes | default | |\n|---|---|---|---|"
        yield "\n".join(rows) + "\n"
    for name, default in inner.items():
        yield from _section_lines(type(default), schema, (*path, name))


def _section_text(model: type[BaseModel], path: tuple[str, ...]) -> str:
    """The class's docstring without the name of the section, which is the heading."""
    text = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    return text.replace(f" (``{path[-1]}``)", "").replace("``", "`")


def _table_row(model: type[BaseModel], name: str, full: Schema, path: tuple[str, ...]) -> str:
    schema: Schema = full if model is Recipe else full["$defs"][model.__name__]
    allowed = Allowed(full, "recipe").words(schema["properties"][name])
    default = json.dumps(model.model_construct().model_dump(mode="json")[name])
    about = model.model_fields[name].description or ""
    key = ".".join((*path, name))
    cells = (f"`{key}`", allowed, f"`{default.strip(chr(34))}`", about)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(render_recipes())
