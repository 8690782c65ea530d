"""slimsight as a user installs it: what the wheel and the sdist hold, and the commands outside of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def build_wheel(source: Path, to: Path) -> zipfile.ZipFile:
    (wheel,) = WheelBuilder(str(source)).build(directory=str(to), versions=["standard"])
    return zipfile.ZipFile(wheel)


def test_the_wheel_holds_slimsight_alone_and_an_sdist_builds_the_same(tmp_path: Path) -> None:
    with build_wheel(ROOT, tmp_path / "wheel") as wheel:
        names = wheel.namelist()
        files = {name: wheel.read(name) for name in names}
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"slimsight"}
    assert {name.partition("/")[0] for name in names} == {"slimsight", f"slimsight-{version()}.dist-info"}
    tracked = subprocess.run(
        ["git", "ls-files", "compress", "export", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = {f"slimsight/{name}" for name in tracked.stdout.splitlines()}
    ours |= {f"slimsight/{path.name}" for path in (ROOT / "slimsight").iterdir() if path.is_file()}
    assert {name for name in names if name.startswith("slimsight/")} == ours
    assert {
        "slimsight/py.typed",
        "slimsight/deploy/report/templates/report.md.j2",
        "slimsight/deploy/package/templates/verify.py.j2",
    } < ours
    assert files["slimsight/deploy/cli/main.py"] == (ROOT / "deploy/cli/main.py").read_bytes()

    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path / "sdist"), versions=["standard"])
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    with build_wheel(source, tmp_path / "again") as wheel:
        assert {name: wheel.read(name) for name in wheel.namelist()} == files


def version() -> str:
    from importlib.metadata import version

    return version("slimsight")


def test_an_editable_install_offers_slimsight_alone(tmp_path: Path) -> None:
    """By a path, not by an import hook: pytest would warn of its module in every project of the environment."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["editable"])
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if ".dist-info/" not in name)
        assert name.endswith(".pth")
        (folder,) = archive.read(name).decode().split()
    assert [path.resolve() for path in Path(folder).iterdir()] == [ROOT / "slimsight"]


def test_links_written_as_text_files_are_one_sentence(tmp_path: Path) -> None:
    """Git on Windows writes them so where it may not make links."""
    shutil.copytree(ROOT / "slimsight", tmp_path / "slimsight", ignore=lambda *_: {"compress", "export", "deploy"})
    for name in ("compress", "export", "deploy"):
        (tmp_path / "slimsight" / name).write_text(f"../{name}")
    command = [sys.executable, "-c", "import slimsight"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    last = found.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {tmp_path / 'slimsight'} has text files where git keeps symbolic links")
    assert "git config core.symlinks true" in last


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """Start Python with the installed slimsight, in an empty folder."""

    def start(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(installed), "SLIMSIGHT_CACHE": str(tmp_path / "cache")}
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    return start


def test_pip_adds_slimsight_and_nothing_else(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert names == {"slimsight", f"slimsight-{version()}.dist-info", "bin"}
    assert [path.name for path in (installed / "bin").iterdir()] == ["slimsight"]
    assert not [path for path in installed.rglob("*") if path.is_symlink()]


def test_it_is_imported_from_there(run: Run, installed: Path) -> None:
    found = run("-c", "import slimsight; print(slimsight.__version__, slimsight.__file__)")
    assert found.stdout.split() == [version(), str(installed / "slimsight/__init__.py")]


def test_commands_work_outside_of_a_checkout(run: Run, installed: Path, tmp_path: Path) -> None:
    for start in (("-m", "slimsight"), (installed / "bin/slimsight",)):
        assert run(*start, "--version").stdout == f"slimsight {version()}\n"
    for command in ("init", "run", "report"):
        assert f"slimsight {command}" in run("-m", "slimsight", command, "--help").stdout
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, (4, 3, 3, 3), [0.5] * 108)
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ("batch", 3, 8, 8))
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("batch", 4, 6, 6))
    node = onnx.helper.make_node("Conv", ["images", "w"], ["logits"])
    graph = onnx.helper.make_graph([node], "tiny", [images], [logits], [weights])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "tiny.onnx")
    for limit, code in (("4k", 0), ("1k", 1)):
        (tmp_path / "budget.yaml").write_text(f"macs: {limit}\n")
        found = run("-m", "slimsight", "check", "tiny.onnx", "--budget", "budget.yaml")
        assert found.returncode == code, found.stderr
    assert run("-m", "slimsight", "schema", "recipe").stdout.startswith("{")
