"""Weights and pickled checkpoints of a stranger."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from .conftest import saved


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


SAFETENSORS = {
    "a header longer than the file": safetensors({}, length=2**40),
    "a header of no JSON": safetensors(b"\x00" * 8),
    "nested too deep": safetensors(b'{"a":' * 50_000),
    "data beyond the end": safetensors({"a": entry([4], 0, 16)}, bytes(4)),
    "tensors on top of each other": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "a shape of a petabyte": safetensors({"a": entry([2**25, 2**25], 0, 8)}, bytes(8)),
    "a shape that overflows": safetensors({"a": entry([2**33, 2**33], 0, 0)}),
    "no type": safetensors({"a": entry([2], 0, 8, "F33")}, bytes(8)),
    "nothing": b"",
}


@pytest.mark.parametrize("what", SAFETENSORS)
def test_safetensors(what: str, place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    (run / "slim" / "model.safetensors").write_bytes(SAFETENSORS[what])
    said = refused("explain", run, place.write("x.png", b""), "--with", "gradient")
    assert "is not a readable safetensors file" in said


def test_weights_of_another_model(place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    save_file({"net.\x1b[2J": torch.ones(3)}, run / "stages" / "classifier" / "model.safetensors")
    said = refused("explain", run, place.write("x.png", b""), "--with", "gradient")
    assert "do not fit the model of its recipe: tensor 'conv1.weight' is missing" in said


# --- pickles -----------------------------------------------------------------------------------------------------


def deflated() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name in zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(2_000_000)}))).namelist():
            made.writestr(name, bytes(8_000_000))
    return file.getvalue()


PICKLES: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "code": (lambda place: saved({"a": place.bomb}), "holds more than tensors"),
    "code, as torch saved before 1.6": (
        lambda place: saved(place.bomb, _use_new_zipfile_serialization=False),
        "holds more than tensors",
    ),
    "a whole model": (lambda place: saved(nn.Conv2d(3, 3, 3)), "holds more than tensors"),
    "a bomb": (lambda place: deflated(), "unpack to more than the file holds"),
    "a trillion numbers, one of them stored": (
        lambda place: saved({"a": torch.zeros(1).expand(10**6, 10**6)}),
        "but fewer stored numbers",
    ),
    "sparse": (lambda place: saved({"a": torch.eye(3).to_sparse()}), "an unsupported layout"),
    "no tensors": (lambda place: saved({"\x1b[2J": 1}), r"'\x1b[2J' is int"),
    "noise": (lambda place: bytes(range(256)), "is damaged, or not a torch file"),
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickle(what: str, place: Any, refused: Callable[..., str]) -> None:
    make, why = PICKLES[what]
    place.write("theirs.pt", make(place))
    recipe = "data: {source: digits, image_size: 16}\nmodel: {name: resnet20, weights: theirs.pt}\nthreads: 1"
    said = refused("run", place.write("recipe.yaml", recipe), "--out", place.folder / "out")
    assert why in said or "holds more than tensors" in said
    assert "torch.save(model.state_dict(), ...)" in said
