"""Writes the JSON Schemas of recipes and budget files from the models that validate them."""

from __future__ import annotations

import json
from typing import Any

from slimsight.compress.files.atomic import write_text

from ..budget import BudgetFile
from ..settings.allowed import without_null
from ..settings.recipe import Recipe
from . import NAMES, schema_file

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def to_schema(name: str) -> dict[str, Any]:
    """JSON Schema of a recipe (``recipe``) or of a budget file (``budget``)."""
    if name == "recipe":
        schema = _simplified(Recipe.model_json_schema())
        _allow_empty_sections_(schema)
    else:
        schema = _simplified(without_null(BudgetFile.model_json_schema()))
    return {"$schema": _DRAFT, **schema, "title": f"slimsight {name}"}


def schema_text(name: str) -> str:
    """The content of the shipped file."""
    return json.dumps(to_schema(name), indent=1) + "\n"


def _simplified(value: Any, *, names: bool = False) -> Any:
    """Without titles (each is its key again) and defaults of whole sections; with the marks of Markdown.

    ``names``: the keys of ``value`` are a file's, not JSON Schema's.
    """
    if isinstance(value, list):
        return [_simplified(item) for item in value]
    if isinstance(value, str):
        return value.replace("``", "`").replace("\n", " ")
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if names or not _is_omitted(key, item)}
    return {key: _simplified(item, names=not names and key in ("properties", "$defs")) for key, item in kept.items()}


def _is_omitted(key: str, item: Any) -> bool:
    return key == "title" or (key == "default" and isinstance(item, dict))


def _allow_empty_sections_(schema: dict[str, Any]) -> None:
    """``gates:`` with all its keys commented out is a recipe too."""
    for part in (schema, *schema["$defs"].values()):
        for key, item in part.get("properties", {}).items():
            if "$ref" in item:
                part["properties"][key] = {"anyOf": [{"$ref": item.pop("$ref")}, {"type": "null"}], **item}


def main() -> None:
    for name in NAMES:
        write_text(schema_file(name), schema_text(name))


if __name__ == "__main__":
    main()
