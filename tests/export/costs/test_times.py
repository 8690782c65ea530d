import multiprocessing
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.compress.gates.latency import TimedLayer, timed_layer
from slimsight.compress.gates.layers import read_layers
from slimsight.compress.progress import Silent
from slimsight.export.costs import times as layer_times
from slimsight.export.costs.layer_graph import write_layers
from slimsight.export.costs.times import cached_times, layers_share, time_layers
from slimsight.export.runners import open_session
from slimsight.export.runners.in_openvino import times_in_openvino
from slimsight.export.runners.onnxruntime_session import times_in_onnxruntime


class Wavy(nn.Module):
    """A convolution, and many sines if it is ``wavy``: operators that are no layers."""

    def __init__(self, waves: int) -> None:
        super().__init__()
        self.conv, self.waves = nn.Conv2d(3, 64, 3, padding=1), waves

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        for _ in range(self.waves):
            x = torch.sin(x)
        return x


def test_the_share_of_layers_is_that_of_their_operators(tmp_path: Path) -> None:
    images = np.zeros((1, 3, 48, 48), dtype=np.float32)
    shares = []
    for waves in (1, 40):
        file = tmp_path / f"{waves}.onnx"
        torch.onnx.export(Wavy(waves).eval(), (torch.from_numpy(images),), str(file), dynamo=True, verbose=False)
        shares.append(layers_share(file, images))
    assert 0 < shares[1] < 0.5 * shares[0] < 0.5
    torch.onnx.export(nn.ReLU(), (torch.from_numpy(images),), str(tmp_path / "none.onnx"), dynamo=True, verbose=False)
    with pytest.raises(ExportError, match="shows no convolution and no matrix product"):
        layers_share(tmp_path / "none.onnx", images)


MODULES: dict[str, nn.Module] = {
    "padded": nn.Conv2d(8, 12, 3, padding=1),
    "unpadded": nn.Conv2d(8, 12, 3),
    "strided": nn.Conv2d(8, 16, 7, stride=2, padding=3),
    "dilated": nn.Conv2d(8, 12, 3, padding=2, dilation=2),
    "same": nn.Conv2d(8, 12, (2, 4), padding="same"),
    "flat": nn.Conv2d(8, 12, (1, 7), padding=(0, 3)),
    "grouped": nn.Conv2d(8, 12, 3, padding=1, groups=4),
    "depthwise": nn.Conv2d(16, 16, 3, padding=1, groups=16),
    "transposed": nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=2),
    "linear": nn.Linear(40, 24),
}


class Notes(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def of_module(layer: nn.Module, side: int = 14) -> TimedLayer:
    """``layer`` as it is on maps of ``side`` x ``side`` pixels."""
    linear = isinstance(layer, nn.Linear)
    example = torch.zeros(1, layer.in_features) if linear else torch.zeros(1, layer.in_channels, side, side)
    (shape,) = read_layers(nn.Sequential(layer), example)
    return timed_layer(shape, shape.inputs, shape.outputs, linear=linear)


LAYERS = [of_module(module) for module in MODULES.values()]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_node_computes_what_its_layer_does(tmp_path: Path) -> None:
    """With the node's weights, the module that a layer was read from gives what ONNX Runtime gives."""
    path = tmp_path / "layers.onnx"
    feeds = write_layers(LAYERS, path, batch=2)
    graph = onnx.load(str(path)).graph
    weights = {tensor.name: torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    nodes = {node.name: node for node in graph.node}
    found = open_session(path, 1).run([f"out{number}" for number in range(len(LAYERS))], feeds)
    for number, (name, module) in enumerate(MODULES.items()):
        fed, weight, bias = nodes[f"layer{number}"].input
        module.load_state_dict({"weight": weights[weight], "bias": weights[bias]})
        with torch.no_grad():
            expected = module(torch.from_numpy(feeds[fed]))
        expected = expected if name == "linear" else expected.relu()
        np.testing.assert_allclose(found[number], expected.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_in_int8_layers_run_in_integers_and_compute_what_they_should(tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    feeds = write_layers(LAYERS, path, batch=2, precision="int8")
    seen = {node.name.split("_")[0]: node.operator for node in times_in_onnxruntime(path, feeds, 1, 1)}
    in_integers = {"QLinearConv", "QGemm"}
    for number, layer in enumerate(LAYERS):
        # ONNX Runtime has no transposed convolution in integers: the time is that of the float one.
        assert seen[f"layer{number}"] in ({"ConvTranspose"} if layer.transposed else in_integers), layer.key
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    number, layer = next((k, layer) for k, layer in enumerate(LAYERS) if layer.kernel and not layer.transposed)
    maps = "maps" + "x".join(map(str, (layer.inputs * layer.groups, *layer.size)))
    (found,) = open_session(path, 1).run([f"rounded{number}"], feeds)
    weight, bias = (torch.from_numpy(stored[f"{name}_{number}"].astype(np.float64)) for name in ("weight", "bias"))
    pads = layer.padding[: len(layer.kernel)]
    sums = torch.conv2d(
        torch.from_numpy(feeds[maps].astype(np.float64)), weight, bias, layer.stride, pads, layer.dilation, layer.groups
    )
    expected = (sums * 1e-3).round().clamp(0, 255).numpy()  # the zero point is the ReLU
    assert np.abs(found - expected).max() <= 1
    assert time_layers(LAYERS[:2], precision="int8").keys() == {*LAYERS[:2]}


def test_every_kind_of_layer_gets_a_time_and_more_work_takes_longer() -> None:
    small, large = of_module(nn.Conv2d(8, 8, 3, padding=1)), of_module(nn.Conv2d(128, 128, 3, padding=1))
    found = time_layers([*LAYERS, small, large])
    assert found.keys() == {*LAYERS, small, large}
    assert min(found.values()) > 0
    assert found[large] > 5 * found[small]  # 256 times the MACs


def test_graphs_hold_as_many_layers_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "LAYERS_PER_GRAPH", 4)
    monkeypatch.setattr(layer_times, "ROUNDS", 3)
    assert time_layers(LAYERS).keys() == set(LAYERS)


def test_a_layer_without_a_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that renames nodes must not give layers the times of others."""
    monkeypatch.setattr(layer_times, "_NODE_NAME", re.compile(r"renamed(\d+)"))
    with pytest.raises(ExportError, match=r"0 entries for 3x3 /1x1 \+1x1x1x1 d1x1 @14x14 g1 8-12, not \d+ for each"):
        time_layers(LAYERS[:1])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[TimedLayer]:
    """The layers that were really timed, in order."""
    asked: list[TimedLayer] = []
    real: Callable[..., dict[TimedLayer, float]] = time_layers

    def counting(wanted: Sequence[TimedLayer], **options: object) -> dict[TimedLayer, float]:
        asked.extend(wanted)
        return real(wanted, **options)

    monkeypatch.setattr(layer_times, "time_layers", counting)
    monkeypatch.setattr(layer_times, "ROUNDS", 3)
    return asked


def test_times_are_taken_once_and_the_file_grows(timed: list[TimedLayer], tmp_path: Path) -> None:
    file = tmp_path / "made" / "times.json"
    first = cached_times([*LAYERS[:3], LAYERS[0]], file, threads=1, batch=1)
    assert sorted(timed) == sorted(LAYERS[:3])
    assert first == {layer: read_json(file)["times"][layer.key] for layer in LAYERS[:3]}

    timed.clear()
    assert cached_times(LAYERS[1:3], file, threads=1, batch=1) == {layer: first[layer] for layer in LAYERS[1:3]}
    assert timed == []

    more = cached_times(LAYERS[2:5], file, threads=1, batch=1)
    assert sorted(timed) == sorted(LAYERS[3:5])
    assert more[LAYERS[2]] == first[LAYERS[2]]
    assert read_json(file)["times"].keys() == {layer.key for layer in LAYERS[:5]}


def test_times_of_an_earlier_version_count_and_damaged_ones_are_named(timed: list[TimedLayer], tmp_path: Path) -> None:
    file, progress = tmp_path / "times.json", Notes()
    write_json(file, {LAYERS[0].key: 2.0})
    assert cached_times(LAYERS[:1], file, threads=1, batch=1, progress=progress) == {LAYERS[0]: 2.0}
    cached_times(LAYERS[:2], file, threads=1, batch=1)
    file.write_text(file.read_text().replace("2.0", "3.0"))
    timed.clear()
    cached_times(LAYERS[:1], file, threads=1, batch=1, progress=progress)
    assert timed == LAYERS[:1]
    assert progress.notes[0] == (
        f"{file} was changed since it was written: its seal does not fit: layers are timed again"
    )


def test_two_that_time_at_once_keep_what_both_have_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each starts with an empty file, and the other one writes while it measures."""
    context, file = multiprocessing.get_context("fork"), tmp_path / "times.json"
    monkeypatch.setattr(
        layer_times, "time_layers", lambda wanted, **_: met.wait(20) >= 0 and dict.fromkeys(wanted, 1.0)
    )
    met = context.Barrier(2)
    both = [
        context.Process(target=cached_times, args=([layer], file), kwargs={"threads": 1, "batch": 1})
        for layer in LAYERS[:2]
    ]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert read_json(file)["times"] == {layer.key: 1.0 for layer in LAYERS[:2]}


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_times_every_kind_of_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fuses nodes and renames some: each layer still gets its own time."""
    monkeypatch.setattr(layer_times, "ROUNDS", 8)
    small, large = of_module(nn.Conv2d(8, 8, 3, padding=1)), of_module(nn.Conv2d(128, 128, 3, padding=1))
    found = time_layers([*LAYERS, small, large], run=times_in_openvino)
    assert found.keys() == {*LAYERS, small, large}
    assert min(found.values()) > 0
    assert found[large] > 5 * found[small]  # 256 times the MACs
    write_layers([small, large], tmp_path / "two.onnx", 1)
    graph = onnx.load(str(tmp_path / "two.onnx"))
    del graph.graph.node[2:], graph.graph.output[1:], graph.graph.input[1:]
    onnx.save(graph, str(tmp_path / "one.onnx"))
    assert 0 < layers_share(tmp_path / "one.onnx", np.zeros((1, 8, 14, 14), np.float32), run=times_in_openvino) <= 1
