"""Generated pages match the code, the picture is well-formed, and the index lists every page."""

from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

from pydantic import BaseModel

from slimsight.deploy.settings.recipe import Recipe
from slimsight.deploy.settings.reference import render_recipes

from .pages import PAGES, ROOT


def settings(model: type[BaseModel], path: str = "") -> list[str]:
    """The dotted name of every setting."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        inner = isinstance(field.default, BaseModel)
        found += settings(type(field.default), f"{path}{name}.") if inner else [f"{path}{name}"]
    return found


def test_the_reference_of_recipes_is_what_the_code_says() -> None:
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert page == render_recipes(), "python -m slimsight.deploy.settings.reference > docs/recipes.md"
    assert re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE) == settings(Recipe)


def test_the_command_that_makes_it_prints_it() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "slimsight.deploy.settings.reference"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert made.stdout == render_recipes()


def test_the_picture_is_one_file_of_its_own() -> None:
    text = (ROOT / "docs/concepts.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.get("role") == "img"
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    assert len(text) < 6000
    assert not re.search(r"(href|src|url\()\s*=?\s*[\"']?https?:", text), "nothing is fetched"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"]({name})" in index, name
