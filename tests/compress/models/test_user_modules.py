"""A model file finds the modules of its own project: beside it, in its package, and of its own version."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimsight
from slimsight.compress.errors import ModelError
from slimsight.compress.models.user_code import build_from_file, needed_files


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in sys.modules.keys() - before.keys():
        if name.startswith(("sst_", "models")):
            del sys.modules[name]


def project(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def width(path: Path, factory: str = "make") -> int:
    net = build_from_file(f"{path}:{factory}", 10)
    assert isinstance(net, nn.Linear)
    return net.in_features


LINEAR = "from torch import nn\ndef make(): return nn.Linear(WIDTH, 2)\n"
PROJECTS: dict[str, tuple[str, dict[str, str]]] = {
    "relative, in a package": (
        "sst_pkg/models.py",
        {
            "sst_pkg/__init__.py": "",
            "sst_pkg/w.py": "WIDTH = {w}\n",
            "sst_pkg/models.py": "from .w import WIDTH\n" + LINEAR,
        },
    ),
    "relative, without __init__.py": (
        "sst_pkg/models.py",
        {"sst_pkg/w.py": "WIDTH = {w}\n", "sst_pkg/models.py": "from .w import WIDTH\n" + LINEAR},
    ),
    "relative, two up": (
        "sst_pkg/nets/models.py",
        {
            "sst_pkg/__init__.py": "",
            "sst_pkg/common.py": "from .deep.w import WIDTH\n",
            "sst_pkg/deep/w.py": "WIDTH = {w}\n",
            "sst_pkg/nets/__init__.py": "from .models import make\n",
            "sst_pkg/nets/models.py": "from ..common import WIDTH\n" + LINEAR,
        },
    ),
    "by the package's name": (
        "sst_pkg/models.py",
        {
            "sst_pkg/__init__.py": "",
            "sst_pkg/w.py": "WIDTH = {w}\n",
            "sst_pkg/models.py": "from sst_pkg.w import WIDTH\n" + LINEAR,
        },
    ),
    "by the folder's name": (
        "models/net.py",
        {"models/w.py": "WIDTH = {w}\n", "models/net.py": "import models.w\nWIDTH = models.w.WIDTH\n" + LINEAR},
    ),
    "beside it, nested": (
        "net.py",
        {"sst_a/b/c.py": "WIDTH = {w}\n", "net.py": "from sst_a.b.c import WIDTH\n" + LINEAR},
    ),
    "in the factory": (
        "net.py",
        {
            "sst_w.py": "WIDTH = {w}\n",
            "net.py": "from torch.nn import Linear\ndef make():\n    import sst_w\n    return Linear(sst_w.WIDTH, 2)\n",
        },
    ),
    "in a neighbour's function": (
        "net.py",
        {
            "sst_w.py": "WIDTH = {w}\n",
            "sst_build.py": "def width():\n    from sst_w import WIDTH\n    return WIDTH\n",
            "net.py": "from sst_build import width\nWIDTH = width()\n" + LINEAR,
        },
    ),
    "by importlib": (
        "net.py",
        {
            "sst_w.py": "WIDTH = {w}\n",
            "net.py": "import importlib\nWIDTH = importlib.import_module('sst_w').WIDTH\n" + LINEAR,
        },
    ),
    "folders named as slimsight's": (
        "net.py",
        {
            "compress/__init__.py": "WIDTH = {w}\n",
            "export/w.py": "from compress import WIDTH\n",
            "tests/deploy.py": "from export.w import WIDTH\n",
            "net.py": "from tests.deploy import WIDTH\n" + LINEAR,
        },
    ),
}


@pytest.mark.parametrize("name", PROJECTS)
def test_two_versions_of_a_project_in_turn(name: str, tmp_path: Path) -> None:
    file, files = PROJECTS[name]
    for version, w in (("old", 3), ("new", 4)):
        project(tmp_path / version, {path: text.replace("{w}", str(w)) for path, text in files.items()})
    for version, w in (("old", 3), ("new", 4), ("old", 3), ("new", 4), ("new", 4)):
        assert width(tmp_path / version / file) == w
        assert not list((tmp_path / version).rglob("__pycache__"))
    for version in ("old", "new"):
        code = needed_files(f"{tmp_path / version / file}:make", 10)
        assert {place for place, _ in code.values()} <= set((tmp_path / version).rglob("*.py"))
        assert code


@pytest.mark.parametrize("name", ["relative, in a package", "beside it, nested", "by the folder's name"])
def test_an_edit_of_a_neighbour_is_seen_and_classes_stay_otherwise(name: str, tmp_path: Path) -> None:
    file, files = PROJECTS[name]
    project(tmp_path, {path: text.replace("{w}", "3") for path, text in files.items()})
    assert [width(tmp_path / file), width(tmp_path / file)] == [3, 3]
    project(tmp_path, {path: text.replace("{w}", "5") for path, text in files.items()})
    assert width(tmp_path / file) == 5


def test_two_files_of_a_folder_share_their_neighbours_and_see_an_edit(tmp_path: Path) -> None:
    files = {"sst_w.py": "WIDTH = 3\n", "a.py": "from sst_w import WIDTH\n" + LINEAR}
    project(tmp_path, {**files, "b.py": files["a.py"]})
    assert width(tmp_path / "a.py") == 3
    (tmp_path / "sst_w.py").write_text("WIDTH = 6\n")
    assert width(tmp_path / "b.py") == width(tmp_path / "a.py") == 6


def test_a_module_of_the_caller_with_a_neighbour_s_name_is_neither_taken_nor_lost(tmp_path: Path) -> None:
    mine = types.ModuleType("sst_w")
    mine.__file__ = str(project(tmp_path / "mine", {"sst_w.py": ""}) / "sst_w.py")
    sys.modules["sst_w"] = mine
    project(tmp_path / "net", {"sst_w.py": "WIDTH = 7\n", "a.py": "from sst_w import WIDTH\n" + LINEAR})
    assert width(tmp_path / "net" / "a.py") == 7
    assert sys.modules["sst_w"] is mine
    assert width(tmp_path / "net" / "a.py") == 7


@pytest.mark.parametrize("name", ["beside it, nested", "relative, in a package", "in the factory"])
def test_a_project_that_was_moved_leaves_nothing_to_the_next(name: str, tmp_path: Path) -> None:
    file, files = PROJECTS[name]
    for version, w in (("old", 3), ("new", 4)):
        project(tmp_path / version, {path: text.replace("{w}", str(w)) for path, text in files.items()})
        assert width(tmp_path / version / file) == w
        (tmp_path / version).rename(tmp_path / f"{version} moved")
    assert width(tmp_path / "old moved" / file) == 3


def test_modules_of_python_and_of_packages_are_not_replaced(tmp_path: Path) -> None:
    project(tmp_path, {"json.py": "", "torch/__init__.py": "", "a.py": "import json, torch\nWIDTH = 2\n" + LINEAR})
    assert width(tmp_path / "a.py") == 2
    assert sys.modules["torch"] is torch


LATE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, classes)

    def forward(self, images):
        from {module} import scale
        return self.fc(scale(torch.relu(self.b(torch.relu(self.a(images))))).mean((2, 3)))
"""


@pytest.mark.parametrize("module", ["sst_late", ".sst_late"])
def test_imports_in_forward_find_the_model_s_own_neighbours(module: str, tmp_path: Path) -> None:
    nets: dict[str, Any] = {}
    for version, factor in (("old", 2), ("new", 3)):
        text = f"def scale(maps): return maps * {factor}\n"
        folder = project(tmp_path / version / "sst_pkg", {"sst_late.py": text, "net.py": LATE.format(module=module)})
        torch.manual_seed(0)
        nets[version] = build_from_file(f"{folder / 'net.py'}:Net", 3).eval()
    images = torch.rand(2, 3, 8, 8)
    for net in nets.values():
        net.fc.bias.data.zero_()
    for _ in range(2):
        assert torch.allclose(nets["new"](images), nets["old"](images) * 1.5, atol=1e-6)
    traced = slimsight.trace(nets["old"], images)
    assert {group.name for group in traced.graph.groups} == {"a", "b"}
    plan = slimsight.select(traced, {"a": torch.arange(8.0), "b": torch.arange(8.0)}, macs=0.6)
    slim = slimsight.slim(traced, plan)
    slimsight.save(slim, tmp_path / "slim")
    (tmp_path / "old").rename(tmp_path / "away")
    loaded: Tensor = slimsight.load(tmp_path / "slim")(images)
    assert loaded.shape == (2, 3)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("from .gone import WIDTH\n", r"ModuleNotFoundError: No module named 'sst_pkg\.gone' \(.*net\.py, line 1\)"),
        ("from .w import NONE\n", r"ImportError: cannot import name 'NONE' from 'sst_pkg\.w'"),
        ("from ............. import w\n", r"ImportError: attempted relative import|No module named"),
    ],
)
def test_what_is_not_there_is_said_with_the_line(source: str, words: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "sst_pkg", {"w.py": "WIDTH = 3\n", "net.py": source + LINEAR})
    with pytest.raises(ModelError, match=words) as caught:
        width(folder / "net.py")
    assert "\n" not in str(caught.value)
