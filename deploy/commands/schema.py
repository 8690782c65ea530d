"""``slimsight schema``: what editors complete recipes and budget files by."""

from __future__ import annotations

from typing import Annotated

import typer

from slimsight.compress.errors import ConfigError


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
