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

def by_position(classes): return nn.Linear(3, classes)
def by_name(pretrained=False, *, classes): return nn.Linear(4 if pretrained else 3, classes)
def without(pretrained=False, **rest): return nn.Linear(4 if pretrained else 3, 2)
def too_many(n, width): return nn.Linear(width, n)
def broken(classes):
    widths = [3]
    return nn.Linear(widths[1], classes)
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


FORMS = """
import functools
from torch import nn

def make(*, num_classes=7, width=3): return nn.Linear(width, num_classes)
def rest(width=3, **more): return nn.Linear(width, more.get("num_classes", 4))
def width(width): return nn.Linear(width, 2)
def num_class(num_class): return nn.Linear(3, num_class)
def plus(classes, depth): return nn.Linear(depth, classes)
def first(n_classes, /): return nn.Linear(3, n_classes)
def second(width=6, classes=5, /, bias=True): return nn.Linear(width, classes, bias)
def both(classes=None, num_classes=8): return nn.Linear(num_classes, classes)
def nothing(): return nn.Linear(3, 2)
def logged(function):
    @functools.wraps(function)
    def inner(*args, **kwargs): return function(*args, **kwargs)
    return inner
decorated = logged(make)
wider = functools.partial(make, width=6)
fixed = functools.partial(make, num_classes=4)
half = functools.partial(plus, depth=9)
unnamed = lambda classes: nn.Linear(3, classes)

class Net(nn.Linear):
    def __init__(self, num_classes, width=3): super().__init__(width, num_classes)
    @classmethod
    def small(cls, classes): return cls(classes, 2)
    @staticmethod
    def large(n_classes): return Net(n_classes, 9)
    def part(self, classes): return self

class Fixed(nn.Linear):
    def __init__(self, width): super().__init__(width, 2)

class Maker:
    width = 5
    def __call__(self, classes): return nn.Linear(self.width, classes)
    def build(self, *, classes): return nn.Linear(self.width + 1, classes)

maker = Maker()
model = Net(3)
table = {"net": Net}
strange = dict.fromkeys
"""


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        ("make", (10, 3)),
        ("rest", (4, 3)),
        ("first", (10, 3)),
        ("second", (10, 6)),
        ("both", (10, 8)),
        ("nothing", (2, 3)),
        ("decorated", (10, 3)),
        ("wider", (10, 6)),
        ("fixed", (4, 3)),
        ("half", (10, 9)),
        ("unnamed", (10, 3)),
        ("Net", (10, 3)),
        ("Net.small", (10, 2)),
        ("Net.large", (10, 9)),
        ("maker", (10, 5)),
        ("maker.build", (10, 6)),
    ],
)
def test_only_the_documented_names_get_the_number_of_classes(
    factory: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "forms.py").write_text(FORMS)
    net = build_from_file(f"{tmp_path / 'forms.py'}:{factory}", 10)
    assert isinstance(net, nn.Linear)
    assert tuple(net.weight.shape) == shape


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("width", r"needs arguments \(width\); .* classes, num_classes or n_classes, and nothing to any other"),
        ("num_class", r"needs arguments \(num_class\); .* rename it"),
        ("Fixed", r"needs arguments \(width\)"),
        ("plus", r"needs arguments \(depth\)"),
        ("Net.part", r"needs arguments \(self\)"),
        ("Net.none", r"has no 'Net\.none'"),
        ("model", r"'model' in model file .* is a Net, a model and not a factory"),
        ("table", r"'table' in model file .* is a dict, not a factory"),
    ],
)
def test_factories_of_other_arguments_are_refused(factory: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "forms.py").write_text(FORMS)
    with pytest.raises(ConfigError, match=words) as caught:
        build_from_file(f"{tmp_path / 'forms.py'}:{factory}", 10)
    assert "\n" not in str(caught.value)


def test_a_factory_without_a_signature_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("class Odd:\n    __signature__ = 3\n    def __call__(self): pass\nodd = Odd()\n")
    with pytest.raises(ConfigError, match=r"what arguments model factory 'odd' of .* takes is not known: wrap it"):
        build_from_file(f"{tmp_path / 'odd.py'}:odd", 10)


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
        (":too_many", ConfigError, r"needs arguments \(n, width\); the number of classes is given to a parameter"),
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
