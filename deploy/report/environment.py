"""Jinja environment of all texts that are made from templates: reports, recipes, packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def make_environment(templates: Path | jinja2.BaseLoader, *, html: bool = False, **settings: Any) -> jinja2.Environment:
    """An environment in which an unknown name is an error and a line of a statement alone leaves none.

    Args:
        templates: folder of the templates, or what loads them.
        html: values are escaped; other texts are escaped by those who fill them in.
        settings: further ones of ``jinja2.Environment``.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates) if isinstance(templates, Path) else templates,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=html,
        **settings,
    )
