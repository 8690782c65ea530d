"""What a command writes never takes the place of a device or a link; what it reads again must be a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..conftest import Said


def test_init_refuses_what_is_no_file_before_it_looks_at_anything(tmp_path: Path, say: Callable[..., Said]) -> None:
    link = tmp_path / "recipe.yaml"
    link.symlink_to("/dev/null")
    said = say("init", "--out", link, "--force")
    assert said.code == 2
    assert "recipe.yaml is no regular file, and the recipe is read again; give a file with --out" in said.error
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert link.is_symlink()
    assert not Path("/dev/null").is_file()
