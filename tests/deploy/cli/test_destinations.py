"""What a command writes never takes the place of a device or a link; what it reads again must be a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.atomic import write_json
from slimsight.compress.files.destination import check_file_destination, check_folder_destination
from slimsight.deploy.schemas import schema_file

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


def test_names_that_lead_to_what_is_not_utf8_are_refused_before_anything_is_written(
    tmp_path: Path, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    for name, target in (("link", b"caf\xe9"), ("m.py", b"caf\xe9/m.py"), ("recipe.yaml", b"new\xe9.yaml")):
        (tmp_path / name).symlink_to(os.fsdecode(target))
    for arguments in (("link",), ("m.py:build",), ("resnet20", "link"), ("--out", "link/r.yaml"), ("--force",)):
        said = say("init", *arguments)
        assert said.code == 2
        assert "leads to" in said.error
        assert r"\xe9" in said.error
        assert "whose name, or that of a folder above it, is not UTF-8: rename that" in said.error
    names = {os.fsencode(path.name) for path in tmp_path.rglob("*")}
    assert names == {b"caf\xe9", b"link", b"m.py", b"recipe.yaml"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "m.onnx", "--json"),
        ("bench", "m.onnx", "--plot"),
        ("check", "m.onnx", "--budget", "b.yaml", "--json"),
        ("check", "m.onnx", "--budget", "b.yaml", "--junit"),
        ("check", "m.onnx", "--budget", "b.yaml", "--summary"),
        ("inspect", "resnet20", "--input", "3x8x8", "--json"),
        ("doctor", "--json"),
        ("report", "run", "--out"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, say: Callable[..., Said], arguments: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    option = arguments[-1]
    for place, reason in (
        (tmp_path, f"{option} {tmp_path} is a folder; give the file to write"),
        (tmp_path / "file" / "a" / "b", f"{tmp_path / 'file'} is no folder; choose another place"),
        (tmp_path / "circle", f"{option} {tmp_path / 'circle'} cannot be written: Too many levels of symbolic links"),
    ):
        said = say(*arguments, place)
        assert said.code == 2
        assert reason in said.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "file"]


@pytest.mark.parametrize("command", [("explain", "run", "i.png"), ("trust", "run"), ("export", "run")])
def test_a_folder_that_cannot_be_made_is_refused_before_any_work(
    tmp_path: Path, say: Callable[..., Said], command: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    for place in (
        tmp_path / "file",
        tmp_path / "file" / "a",
        tmp_path / "pipe",
        tmp_path / "nowhere",
        Path("/dev/null"),
    ):
        said = say(*command, "--out", place)
        assert said.code == 2
        assert f"--out {place} cannot be written: " in said.error
        assert "is no folder; choose another place" in said.error


def test_places_that_a_result_may_go_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "nowhere").symlink_to(tmp_path / "new" / "absent")
    for place in ("pipe", "file", "link", "nowhere", "a/b/c"):
        check_file_destination(tmp_path / place, "--json")
    for device in ("/dev/null", "/dev/stdout"):
        check_file_destination(Path(device), "--json")
    for folder in (tmp_path, tmp_path / "a" / "b", Path("relative")):
        check_folder_destination(folder, "--out")


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write everywhere
    with pytest.raises(
        ConfigError, match=rf"--json {tmp_path}/a cannot be written: {tmp_path} is not writable; choose"
    ):
        check_file_destination(tmp_path / "a", "--json")
    with pytest.raises(ConfigError, match=f"--out {tmp_path} cannot be written: {tmp_path} is not writable"):
        check_folder_destination(tmp_path, "--out")


def test_results_go_into_devices_pipes_and_links(tmp_path: Path, say: Callable[..., Said]) -> None:
    """``doctor`` writes JSON, ``inspect`` too: here by the function that they and all others write with."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(tmp_path / "pipe", [1])
        assert os.read(reader, 100) == b"[\n  1\n]\n"
    finally:
        os.close(reader)
    (tmp_path / "nowhere").symlink_to(tmp_path / "new" / "absent")
    write_json(tmp_path / "nowhere", [2])
    write_json(Path("/dev/null"), [3])
    assert (tmp_path / "new" / "absent").read_text(encoding="utf-8") == "[\n  2\n]\n"
    assert (tmp_path / "nowhere").is_symlink()
    assert not Path("/dev/null").is_file()


def test_init_writes_schemas_that_go_with_the_project(
    tmp_path: Path, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".schemas").mkdir()
    (tmp_path / ".schemas" / "budget.schema.json").write_text("mine", encoding="utf-8")
    (tmp_path / ".schemas" / "recipe.schema.json").write_text('{"title": "slimsight recipe"}', encoding="utf-8")
    assert say("init").code == 0
    first = (tmp_path / "recipe.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=.schemas/recipe.schema.json"
    shipped = schema_file("recipe").read_text(encoding="utf-8")
    assert (tmp_path / ".schemas" / "recipe.schema.json").read_text(encoding="utf-8") == shipped  # of this version
    assert (tmp_path / ".schemas" / "budget.schema.json").read_text(encoding="utf-8") == "mine"
    for name in ("recipe.yaml", "budget.yaml"):
        assert str(Path(sys.prefix)) not in (tmp_path / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in (tmp_path / name).read_text(encoding="utf-8")
