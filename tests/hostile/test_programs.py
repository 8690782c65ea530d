"""Exported programs of a stranger."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError
from slimsight.export.pt2.contents import harmless_archive
from slimsight.export.pt2.export import load_program

from .conftest import saved


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes), path)
    return path


Parts = dict[str, bytes]


def in_graph(old: str, new: str) -> Callable[[Any, Parts], None]:
    def change(place: Any, parts: Parts) -> None:
        name = next(name for name in parts if name.endswith("models/model.json"))
        text = parts[name].decode()
        assert old in text
        code = json.dumps(place.code)[1:-1].replace("'", "\\u0027")
        parts[name] = text.replace(old, new.replace("CODE", code)).encode()

    return change


def in_config(old: str, new: str) -> Callable[[Any, Parts], None]:
    def change(place: Any, parts: Parts) -> None:
        name = next(name for name in parts if name.endswith("model_weights_config.json"))
        text = parts[name].decode()
        assert old in text
        parts[name] = text.replace(old, new).encode()

    return change


def added(name: str, content: Callable[[Any], bytes]) -> Callable[[Any, Parts], None]:
    def change(place: Any, parts: Parts) -> None:
        root = next(iter(parts)).partition("/")[0]
        parts[f"{root}/{name}"] = content(place)

    return change


SYMBOL = "Symbol('s"
PROGRAMS: dict[str, tuple[Callable[[Any, Parts], None], str]] = {
    "pickled inputs": (
        added("data/sample_inputs/model.pt", lambda place: saved(((place.bomb,), {}))),
        "example inputs",
    ),
    "pickled weights": (in_config('"use_pickle": false', '"use_pickle": true'), "is a pickle"),
    "pickled constants": (
        added("data/constants/opaque_obj_0", lambda place: saved(place.bomb)),
        "not part of a network",
    ),
    "legacy weights": (added("data/weights/model.pt", lambda place: saved(place.bomb)), "not part of a network"),
    "a compiled library": (added("data/aotinductor/model/x.so", lambda place: b"\x7fELF"), "not part of a network"),
    "an expression": (in_graph(SYMBOL, "exec(\\u0027CODE\\u0027) or Symbol('s"), "more than arithmetic"),
    "an attribute in an expression": (in_graph(SYMBOL, "Symbol.__init__.x or Symbol('s"), "more than arithmetic"),
    "a tower of powers": (in_graph(SYMBOL, "9**9**9**9+Symbol('s"), "too long"),
    "a call of anything": (in_graph("torch.ops.aten.relu.default", "torch.serialization.os.system"), "it calls"),
    "a file opened": (in_graph("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), "it calls"),
    "code as a name": (in_graph('"name": "relu"', '"name": "relu; CODE #"'), "is not a valid name"),
    "code as an input": (in_graph('"name": "input"', '"name": "input=CODE"'), "is not a valid name"),
    "code as a parameter": (in_graph('"0.weight"', '"0.weight\\"); CODE #"'), "is not a valid name"),
    "a module to import": (in_graph("builtins.dict", "collections.OrderedDict"), "inputs come"),
    "weights of a petabyte": (in_config('"as_int": 10}', '"as_int": 1000000000000000}'), "fewer numbers"),
    "no graph": (added("models/model.json", lambda place: b"[" * 50_000), "nested too deeply"),
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_program(what: str, place: Any, program: Path, refused: Callable[..., str]) -> None:
    change, why = PROGRAMS[what]
    with zipfile.ZipFile(program) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(place, parts)
    with zipfile.ZipFile(place.folder / "model.pt2", "w") as made:
        for name, content in parts.items():
            made.writestr(name, content)
    said = refused("check", place.folder / "model.pt2", "--budget", place.write("budget.yaml", "macs: 1M"))
    assert why in said


def test_guards_are_not_run(place: Any, program: Path) -> None:
    """They are code: left out, not refused, because torch writes some itself."""
    with zipfile.ZipFile(program) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    in_graph('"guards_code": []', '"guards_code": ["[CODE]"]')(place, parts)
    file = place.folder / "model.pt2"
    with zipfile.ZipFile(file, "w") as made:
        for name, content in parts.items():
            made.writestr(name, content)
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = load_program(file).module()(images)
    assert place.touched() == []
    assert torch.equal(logits, load_program(program).module()(images))


def test_a_packed_archive_and_one_that_is_a_pipe(place: Any, program: Path) -> None:
    with zipfile.ZipFile(place.folder / "packed.pt2", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/data/weights/weight_0", bytes(10_000_000))
    with pytest.raises(ExportError, match="unpack to more than the file holds"):
        harmless_archive(place.folder / "packed.pt2")
    with pytest.raises(ExportError, match="a named pipe"):
        harmless_archive(place.pipe("pipe.pt2"))


def test_what_is_opened_is_the_program(program: Path) -> None:
    """Nothing that decides what it computes is left out on the way."""
    images = np.random.default_rng(0).random((3, 3, 8, 8), np.float32)
    plain = torch.export.load(program).module()(torch.from_numpy(images))
    assert torch.equal(load_program(program).module()(torch.from_numpy(images)), plain)
