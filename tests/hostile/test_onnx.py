"""ONNX files of a stranger."""

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from slimsight.export.costs import onnx_shapes


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
        "expands to more than 1,000,000 nodes",
    ),
    "a compiled engine": (node(op_type="EPContext", domain="com.microsoft"), "holds a compiled engine"),
    "a layer without inputs": (without_inputs, "its shapes do not fit"),
    "an operator of nobody's": (node(op_type="\x1b[2J\n::error::"), "may hold weights, and its MACs are not counted"),
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
