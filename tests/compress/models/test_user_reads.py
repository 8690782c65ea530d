"""Which files a model's factory reads, however it reads them; and which files are no part of a model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from safetensors.torch import save_file

from slimsight.compress.errors import ModelError
from slimsight.compress.models.user_code import needed_files

HEAD = "import json, os, sys\nimport numpy as np, torch\nfrom pathlib import Path\nfrom torch import nn\n"
HERE = "HERE = Path(__file__).parent\n"


def write_model(folder: Path, reading: str, at_import: str = "") -> str:
    """A model file whose factory does ``reading``."""
    folder.mkdir(exist_ok=True)
    source = f"{HEAD}{HERE}{at_import}\ndef build(classes):\n    {reading}\n    return nn.Linear(2, classes)\n"
    (folder / "m.py").write_text(source, encoding="utf-8")
    return f"{folder / 'm.py'}:build"


WAYS = {
    "text": "Path(HERE, 'data.any').read_text()",
    "bytes": "open(HERE / 'data.any', 'rb').read(1)",
    "numpy": "np.load(HERE / 'data.any')",
    "mapped": "np.load(HERE / 'data.any', mmap_mode='r')",
    "torch": "torch.load(HERE / 'data.any')",
    "safetensors": "import safetensors.torch; safetensors.torch.load_file(HERE / 'data.any')",
    "a descriptor": "os.close(os.open(HERE / 'data.any', os.O_RDONLY))",
    "executed": "exec(open(HERE / 'data.any').read(), {})",
    "an odd path": "open(os.path.join(HERE, '.', 'x', '..', 'data.any')).read(0)",
    "bytes as its name": "open(os.fsencode(HERE / 'data.any'), 'rb').read(1)",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading(tmp_path: Path, way: str) -> None:
    name = write_model(tmp_path / "p", WAYS[way])
    data = tmp_path / "p" / "data.any"
    (tmp_path / "p" / "x").mkdir()
    write: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.save({}, data),
        "safetensors": lambda: save_file({"a": torch.zeros(1)}, data),
    }
    if way in ("numpy", "mapped"):
        with data.open("wb") as file:
            np.save(file, np.zeros(2))
    else:
        write.get(way, lambda: data.write_text("1"))()
    before = needed_files(name, 3)
    assert {key: path for key, (path, _) in before.items()} == {"data.any": data}
    data.write_bytes(data.read_bytes() + b"\n" if way in ("text", "executed") else data.read_bytes()[:-1] + b"x")
    assert safetensors.safe_open is safetensors.torch.safe_open
    assert safetensors.safe_open.__name__ == "safe_open"  # as it was


def test_another_content_has_another_digest_and_the_module_is_executed_again(tmp_path: Path) -> None:
    name = write_model(tmp_path / "p", "nn.Linear(1, WIDTH)", "WIDTH = int((HERE / 'width.txt').read_text())")
    (tmp_path / "p" / "width.txt").write_text("3")
    first = needed_files(name, 3)["width.txt"][1]
    assert needed_files(name, 3)["width.txt"][1] == first  # read once, at the import, and known ever since
    (tmp_path / "p" / "width.txt").write_text("x")
    with pytest.raises(ModelError, match="ValueError: invalid literal for int"):
        needed_files(name, 3)
    (tmp_path / "p" / "width.txt").write_text("5")
    assert needed_files(name, 3)["width.txt"][1] not in (None, first)


def test_files_of_the_project_and_those_given_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    for folder in (root / "models", root / "configs", root / ".hidden", elsewhere):
        folder.mkdir(parents=True)
    (root / "pyproject.toml").touch()
    for path in (root / "configs" / "a.json", root / ".hidden" / "b", elsewhere / "c", elsewhere / "d"):
        path.write_text("1")
    monkeypatch.chdir(elsewhere)
    reading = (
        f"[open(p).read() for p in (HERE / '../configs/a.json', HERE / '../.hidden/b', 'c', {str(elsewhere / 'd')!r})]"
    )
    name = write_model(root / "models", reading)
    assert sorted(needed_files(name, 3)) == ["../../elsewhere/c", "../configs/a.json"]


def test_what_is_no_part_of_a_model(tmp_path: Path) -> None:
    """Files that it writes, modules that it imports (they have names of their own), and those of installed packages."""
    reading = "(HERE / 'log').write_text('x'); (HERE / 'log').read_text(); open(json.__file__).read(); import near"
    name = write_model(tmp_path / "p", reading)
    (tmp_path / "p" / "near.py").write_text("")
    assert sorted(needed_files(name, 3)) == ["near"]


def test_other_threads_and_other_times_are_not_watched(tmp_path: Path) -> None:
    reading = "import threading; t = threading.Thread(target=lambda: open(HERE / 'a').read()); t.start(); t.join()"
    name = write_model(tmp_path / "p", reading)
    (tmp_path / "p" / "a").write_text("")
    (tmp_path / "p" / "b").write_text("")
    (tmp_path / "p" / "b").read_text()
    assert needed_files(name, 3) == {}
