"""Where packages are written: deterministic zips, and folders in which nothing of the user's is lost."""

import zipfile

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.package.write import PACKAGE_MARK, write_package

CONTENT = {PACKAGE_MARK: b"{}", "onnx/model.onnx": b"weights", "predict.py": b"print()\n"}


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_has_the_same_bytes_whatever_the_order_and_the_time(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    write_package(tmp_path / "a.zip", CONTENT, force=False)
    by_path = {name: CONTENT[name] for name in reversed(CONTENT)} | {"onnx/model.onnx": tmp_path / "model.onnx"}
    write_package(tmp_path / "b.ZIP", by_path, force=False)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.ZIP").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == [*sorted(CONTENT), "SHA256SUMS"]
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o644}
        assert archive.read("onnx/model.onnx") == b"weights"


def test_force_replaces_what_was_written_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_package(out, CONTENT | {"engine.py": b"old", "deep/er/file": b""}, force=False)
    (out / "onnx/notes.txt").write_text("mine", encoding="utf-8")
    (out / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds a package: give --force"):
        write_package(out, CONTENT, force=False)
    write_package(out, CONTENT | {"predict.py": b"new"}, force=True)
    left = files(out)
    assert left.keys() == {*CONTENT, "SHA256SUMS", "onnx/notes.txt"}
    assert (left["predict.py"], left["onnx/notes.txt"]) == (b"new", b"mine")
    assert (out / "empty").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing temporary stays"


def test_what_somebody_changed_or_added_is_not_replaced(tmp_path):
    out = tmp_path / "out"
    write_package(out, CONTENT, force=False)
    (out / "README.md").write_text("mine", encoding="utf-8")
    before = files(out)
    with pytest.raises(ConfigError, match=r"README.md exists, and no package wrote it"):
        write_package(out, CONTENT | {"README.md": b"card"}, force=True)
    assert files(out) == before
    (out / "predict.py").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"predict.py in .* was changed since it was packaged: it is kept"):
        write_package(out, CONTENT, force=True)
    assert (out / "predict.py").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("sums", [None, "", "nonsense\n", f"{'0' * 64}  ../../outside\n", f"{'0' * 64}  notes.txt\n"])
def test_a_folder_of_others_is_kept_whatever_it_holds(tmp_path, sums):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    if sums is not None:
        (out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    before = files(out)
    for force in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no package of slimsight: it is kept"):
            write_package(out, CONTENT, force=force)
    assert files(out) == before


def test_a_zip_of_others_is_kept_and_a_package_needs_force(tmp_path):
    other, own = tmp_path / "other.zip", tmp_path / "own.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("thesis.txt", "years")
    (tmp_path / "text.zip").write_text("no zip", encoding="utf-8")
    for path in (other, tmp_path / "text.zip"):
        before = path.read_bytes()
        with pytest.raises(ConfigError, match="is no package as slimsight wrote it: it is kept"):
            write_package(path, CONTENT, force=True)
        assert path.read_bytes() == before
    write_package(own, CONTENT, force=False)
    with pytest.raises(ConfigError, match="give --force to replace that package"):
        write_package(own, CONTENT, force=False)
    write_package(own, CONTENT | {"predict.py": b"new"}, force=True)
    with zipfile.ZipFile(own) as archive:
        assert archive.read("predict.py") == b"new"
    with zipfile.ZipFile(own, "a") as archive:
        archive.writestr("notes.txt", "mine")
    with pytest.raises(ConfigError, match="is no package as slimsight wrote it: it is kept"):
        write_package(own, CONTENT, force=True)
    with zipfile.ZipFile(own, "w") as archive:
        archive.writestr("SHA256SUMS", f"{'0' * 64}  {PACKAGE_MARK}\n")
        archive.writestr(PACKAGE_MARK, "edited")
    with pytest.raises(ConfigError, match="is no package as slimsight wrote it: it is kept"):
        write_package(own, CONTENT, force=True)


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_package(tmp_path / "link", CONTENT, force=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/predict.py").read_bytes() == b"print()\n"
