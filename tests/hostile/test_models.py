"""Weights, ONNX files and exported programs of a stranger."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import nn

from compress.errors import ExportError
from export import onnx_shapes
from export.pt2_contents import harmless_archive
from export.to_torch_export import load_program

# --- safetensors -------------------------------------------------------------------------------------------------


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
    assert "is no readable safetensors file" in said


def test_weights_of_another_model(place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    save_file({"net.\x1b[2J": torch.ones(3)}, run / "stages" / "classifier" / "model.safetensors")
    said = refused("explain", run, place.write("x.png", b""), "--with", "gradient")
    assert "do not fit the model of its recipe: tensor 'conv1.weight' is missing" in said


# --- pickles -----------------------------------------------------------------------------------------------------


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


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
        "fewer numbers than that",
    ),
    "sparse": (lambda place: saved({"a": torch.eye(3).to_sparse()}), "a form that no weight has"),
    "no tensors": (lambda place: saved({"\x1b[2J": 1}), r"'\x1b[2J' is int"),
    "noise": (lambda place: bytes(range(256)), "is damaged, or no torch file"),
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickle(what: str, place: Any, refused: Callable[..., str]) -> None:
    make, why = PICKLES[what]
    place.write("theirs.pt", make(place))
    recipe = "data: {source: digits, image_size: 16}\nmodel: {name: resnet20, weights: theirs.pt}\nthreads: 1"
    said = refused("run", place.write("recipe.yaml", recipe), "--out", place.folder / "out")
    assert why in said or "holds more than tensors" in said
    assert "torch.save(model.state_dict(), ...)" in said


# --- ONNX --------------------------------------------------------------------------------------------------------


def outside(location: str, **more: str) -> Callable[[Any, onnx.ModelProto], None]:
    def change(place: Any, model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location.replace("OUTSIDE", str(place.outside)), **more}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def by_link(place: Any, model: onnx.ModelProto) -> None:
    (place.folder / "weights.bin").symlink_to(place.victim)
    outside("weights.bin")(place, model)


def short(place: Any, model: onnx.ModelProto) -> None:
    place.write("weights.bin", b"1234")
    outside("weights.bin")(place, model)


def sized(*dims: int) -> Callable[[Any, onnx.ModelProto], None]:
    def change(place: Any, model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def mismatched(place: Any, model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.raw_data = bytes(8)


def taking(*shape: int) -> Callable[[Any, onnx.ModelProto], None]:
    def change(place: Any, model: onnx.ModelProto) -> None:
        for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            dim.dim_value = size

    return change


def functions(*bodies: tuple[str, list[str]]) -> Callable[[Any, onnx.ModelProto], None]:
    """Functions by name and what they call."""

    def change(place: Any, model: onnx.ModelProto) -> None:
        for name, calls in bodies:
            nodes = [helper.make_node(call, ["x"], [f"y{i}"], domain="f") for i, call in enumerate(calls)]
            model.functions.append(helper.make_function("f", name, ["x"], ["y0"], nodes, [helper.make_opsetid("f", 1)]))
        model.graph.node[0].op_type, model.graph.node[0].domain = bodies[0][0], "f"

    return change


def node(**fields: Any) -> Callable[[Any, onnx.ModelProto], None]:
    def change(place: Any, model: onnx.ModelProto) -> None:
        for key, value in fields.items():
            setattr(model.graph.node[0], key, value)

    return change


def without_inputs(place: Any, model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[:]


ONNX: dict[str, tuple[Callable[[Any, onnx.ModelProto], None], str]] = {
    "weights anywhere": (outside("OUTSIDE/victim.txt"), "not below its own folder"),
    "weights above": (outside("../outside/victim.txt"), "not below its own folder"),
    "weights by a link": (by_link, "not below its own folder"),
    "weights in a device": (outside("/dev/zero"), "not below its own folder"),
    "weights nowhere": (outside(""), "not below its own folder"),
    "fewer weights than said": (short, "does not hold as much"),
    "weights from a negative place": (outside("model.onnx", offset="-1"), "does not hold as much"),
    "a tensor of an exabyte": (sized(2**30, 2**30), "which no machine holds"),
    "a negative size": (sized(-1, 108), "which no machine holds"),
    "data of another size": (mismatched, "do not fit"),
    "images of a terabyte": (taking(1, 3, 2**20, 2**20), "no machine holds"),
    "batches of a terabyte": (taking(2**30, 3, 16, 16), "no machine holds"),
    "images of a gigapixel": (taking(1, 3, 2**15, 2**15), "which no batch of images has"),
    "a function that calls itself": (functions(("a", ["b"]), ("b", ["a"])), "calls itself"),
    "functions that unfold to 4 to the 15": (
        functions(*((f"f{i}", [f"f{i + 1}"] * 4) for i in range(15)), ("f15", ["g"])),
        "unfolds to more than 1,000,000 nodes",
    ),
    "a compiled engine": (node(op_type="EPContext", domain="com.microsoft"), "holds a compiled engine"),
    "a layer without inputs": (without_inputs, "its shapes do not fit"),
    "an operator of nobody's": (node(op_type="\x1b[2J\n::error::"), "the shapes in it are not known"),
}


@pytest.mark.parametrize("what", ONNX)
def test_onnx(what: str, place: Any, refused: Callable[..., str]) -> None:
    change, why = ONNX[what]
    model = onnx.load(place.run() / "slim" / "model.onnx")
    change(place, model)
    file, budget = place.write("model.onnx", model.SerializeToString()), place.write("budget.yaml", "macs: 1M")
    assert why in refused("check", file, "--budget", budget)


@pytest.mark.parametrize("content", [b"", b"\x00", bytes(range(256)) * 9, b"\x0a" * 5_000])
def test_no_onnx(content: bytes, place: Any, refused: Callable[..., str]) -> None:
    file, budget = place.write("model.onnx", content), place.write("budget.yaml", "macs: 1M")
    assert str(file) in refused("check", file, "--budget", budget)
    assert str(file) in refused("bench", file)


def test_a_loop_without_an_end(place: Any, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that only running the graph would show, behind a loop of 2 to the 62 rounds."""
    monkeypatch.setattr(onnx_shapes, "_SECONDS", 0.3)
    model = onnx.load(place.run() / "slim" / "model.onnx")
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(helper.make_tensor("rounds", TensorProto.INT64, [], [2**62]))
    loop = helper.make_node("Loop", ["rounds", "", "image"], ["looped"], "loop", body=body)
    model.graph.node.insert(0, loop)
    model.graph.node[1].input[0] = "looped"
    file, budget = place.write("model.onnx", model.SerializeToString()), place.write("budget.yaml", "macs: 1M")
    assert "the shapes in it are not known" in refused("check", file, "--budget", budget)


# --- programs of torch.export ------------------------------------------------------------------------------------


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
        "no part of a network",
    ),
    "legacy weights": (added("data/weights/model.pt", lambda place: saved(place.bomb)), "no part of a network"),
    "a compiled library": (added("data/aotinductor/model/x.so", lambda place: b"\x7fELF"), "no part of a network"),
    "an expression": (in_graph(SYMBOL, "exec(\\u0027CODE\\u0027) or Symbol('s"), "more than arithmetic"),
    "an attribute in an expression": (in_graph(SYMBOL, "Symbol.__init__.x or Symbol('s"), "more than arithmetic"),
    "a tower of powers": (in_graph(SYMBOL, "9**9**9**9+Symbol('s"), "too long"),
    "a call of anything": (in_graph("torch.ops.aten.relu.default", "torch.serialization.os.system"), "it calls"),
    "a file opened": (in_graph("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), "it calls"),
    "code as a name": (in_graph('"name": "relu"', '"name": "relu; CODE #"'), "is no name"),
    "code as an input": (in_graph('"name": "input"', '"name": "input=CODE"'), "is no name"),
    "code as a parameter": (in_graph('"0.weight"', '"0.weight\\"); CODE #"'), "is no name"),
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
