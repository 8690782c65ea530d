from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from torch import nn

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.models.user_code import build_from_file, is_file_name

SOURCE = """
from dataclasses import dataclass
from torch import nn
from torch.nn import Linear

@dataclass
class Widths:
    hidden: int = 4

class Net(nn.Module):
    def __init__(self, num_classes=5, width=3):
        super().__init__()
        self.head = nn.Linear(width, num_classes)

def by_position(n): return nn.Linear(3, n)
def by_name(pretrained=False, *, classes): return nn.Linear(4 if pretrained else 3, classes)
def without(pretrained=False, **rest): return nn.Linear(4 if pretrained else 3, 2)
def too_many(n, width): return nn.Linear(width, n)
def broken(n):
    widths = [3]
    return nn.Linear(widths[1], n)
def not_a_module(): return 7
number = 3
_hidden = without
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_net.py"
    path.write_text(SOURCE)
    return path


def test_which_names_are_files() -> None:
    assert is_file_name("nets/a.py:make")
    assert is_file_name("a.py")
    assert not is_file_name("resnet20")
    assert not is_file_name("torchvision:resnet18")


@pytest.mark.parametrize(
    ("factory", "shape"),
    [("by_position", (10, 3)), ("by_name", (10, 3)), ("without", (2, 3)), ("Linear", None)],
)
def test_arguments_follow_the_signature(model_file: Path, factory: str, shape: tuple[int, int] | None) -> None:
    if shape is None:
        with pytest.raises(ConfigError, match=r"'Linear' of .* needs arguments \(in_features, out_features\)"):
            build_from_file(f"{model_file}:{factory}", 10)
        return
    net = build_from_file(f"{model_file}:{factory}", 10)
    assert isinstance(net, nn.Linear)
    assert tuple(net.weight.shape) == shape


def test_a_class_is_a_factory(model_file: Path) -> None:
    net = build_from_file(f"{model_file}:Net", 10)
    assert net.get_submodule("head").out_features == 10


def test_same_content_same_class_and_edits_are_seen(model_file: Path) -> None:
    first, second = (build_from_file(f"{model_file}:Net", 10) for _ in range(2))
    assert type(first) is type(second)
    model_file.write_text(SOURCE.replace("width=3", "width=6"))
    assert build_from_file(f"{model_file}:Net", 10).get_submodule("head").in_features == 6


def test_neighbours_can_be_imported_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "slimsight_test_neighbour.py").write_text("from torch import nn\nhead = nn.Identity\n")
    (tmp_path / "a.py").write_text("def make():\n    from slimsight_test_neighbour import head\n    return head()\n")
    before = list(sys.path)
    assert isinstance(build_from_file(f"{tmp_path / 'a.py'}:make", 10), nn.Identity)
    assert sys.path == before
    del sys.modules["slimsight_test_neighbour"]


def test_two_versions_of_a_project_are_two_models(tmp_path: Path) -> None:
    """``check new/model.py:make --against old/model.py:make``: each imports the blocks beside it."""
    for version, width in (("old", 3), ("new", 4)):
        (tmp_path / version / "blocks").mkdir(parents=True)
        (tmp_path / version / "blocks" / "heads.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / version / "slimsight_test_widths.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / version / "model.py").write_text(
            "from blocks.heads import WIDTH\nimport slimsight_test_widths\nfrom torch import nn\n"
            "def make(): return nn.Linear(WIDTH, slimsight_test_widths.WIDTH)\n"
        )
    for version, width in (("old", 3), ("new", 4), ("old", 3), ("new", 4)):
        net = build_from_file(f"{tmp_path / version / 'model.py'}:make", 10)
        assert (net.in_features, net.out_features) == (width, width)


def test_a_package_replaces_the_other_version_s_folder_of_modules(tmp_path: Path) -> None:
    """The old version's package has no ``__init__.py``, the new one's has."""
    for version, width in (("old", 3), ("new", 4)):
        package = tmp_path / version / "slimsight_test_package"
        package.mkdir(parents=True)
        (package / "heads.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / version / "model.py").write_text(
            "from slimsight_test_package.heads import WIDTH\nfrom torch import nn\n"
            "def make(): return nn.Linear(WIDTH, 2)\n"
        )
    (tmp_path / "new" / "slimsight_test_package" / "__init__.py").write_text("")
    for version, width in (("old", 3), ("new", 4)):
        assert build_from_file(f"{tmp_path / version / 'model.py'}:make", 10).in_features == width


def test_a_file_may_change_the_path_itself(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "slimsight_test_lib.py").write_text("from torch import nn\nhead = nn.Identity\n")
    (tmp_path / "a.py").write_text(
        "import sys\nfrom pathlib import Path\nhere = Path(__file__).parent\n"
        "sys.path = [folder for folder in sys.path if folder != str(here)]\nsys.path.insert(0, str(here / 'lib'))\n"
        "from slimsight_test_lib import head as make\nsys.path.pop(0)\ndef build(): return make()\n"
    )
    before = list(sys.path)
    assert isinstance(build_from_file(f"{tmp_path / 'a.py'}:build", 10), nn.Identity)
    assert sys.path == before


@pytest.mark.parametrize(
    ("suffix", "kind", "message"),
    [
        (
            ":by_nme",
            ConfigError,
            r"has no 'by_nme'; did you mean 'by_name'\? \(it defines: Widths, Net, by_position,",
        ),
        ("", ConfigError, r"needs the name of a factory \(it defines: .*\); give path/to/file\.py:factory"),
        (":", ConfigError, r"needs the name of a factory \(it defines: "),
        (":number", ConfigError, r"'number' in model file .* is a int, not a factory \(it defines: "),
        (":too_many", ConfigError, r"needs arguments \(n, width\); it may take only the number of classes"),
        (
            ":not_a_module",
            ModelError,
            r"'not_a_module' of .* returned int; it must return a torch\.nn\.Module",
        ),
        (
            ":broken",
            ModelError,
            r"'broken' of .* failed: IndexError: list index out of range \(.*my_net\.py, line 21\)",
        ),
    ],
)
def test_errors_name_the_file_and_the_remedy(
    model_file: Path, suffix: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build_from_file(f"{model_file}{suffix}", 10)


def test_missing_file(tmp_path: Path) -> None:
    name = f"{tmp_path / 'gone.py'}:make"
    with pytest.raises(ConfigError, match=re.escape(f"model '{name}': there is no file {tmp_path / 'gone.py'}; give")):
        build_from_file(name, 10)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nimport no_such_package_here\n", r"ModuleNotFoundError: .* \(.*bad\.py, line 2\)"),
        ("def make(:\n", r"SyntaxError: .* \(.*bad\.py, line 1\)"),
        ("import sys\n\nsys.exit()\n", r"SystemExit \(.*bad\.py, line 3\)"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, source: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    before = set(sys.modules)
    with pytest.raises(ModelError, match=r"model file .*bad\.py cannot be imported: " + message):
        build_from_file(f"{path}:make", 10)
    assert set(sys.modules) == before


def test_a_file_without_callables(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"has no 'make' \(it defines no function or class\)"):
        build_from_file(f"{path}:make", 10)
