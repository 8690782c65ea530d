"""Measured times of single layers in a runtime: many in one graph, each node's time from its profile; cached."""

from __future__ import annotations

import importlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import Damaged, ExportError
from slimsight.compress.files.atomic import make_folder
from slimsight.compress.files.locks import locked
from slimsight.compress.files.sealed import read_sealed, write_sealed
from slimsight.compress.gates.latency import TimedLayer
from slimsight.compress.progress import SILENT, Progress

from ..onnx_files.graph import read_onnx, runtime_inputs
from ..runners.base import NodeTimes
from ..runners.onnxruntime_session import times_in_onnxruntime

ROUNDS = 24
"""Runs of every graph. The mean of the middle half of a node's times counts: profiles are in whole microseconds."""

LAYERS_PER_GRAPH = 120
"""Layers in one graph, so that each meets the processor's caches as in a network, after many other layers."""

TIMING_METHOD = 2
"""Version of this measurement. Increase it when layers are timed in another way: cached times are then ignored."""

_NODE_NAME = re.compile(r"(?:layer|out)(\d+)(?!\d)")
_LAYER = re.compile("Conv|Gemm|MatMul|Deconvolution|FullyConnected")
_OPSET = 18


def time_layers(
    wanted: Sequence[TimedLayer],
    *,
    threads: int = 1,
    batch: int = 1,
    run: NodeTimes = times_in_onnxruntime,
    progress: Progress = SILENT,
) -> dict[TimedLayer, float]:
    """Time of each layer in ms, with its bias and ReLU, without the layout conversions around it.

    Args:
        run: times the nodes of a graph in a runtime.

    Raises:
        ExportError: the runtime cannot open their graph, or its profile lacks one of them.
    """
    order = np.random.default_rng(0).permutation(len(wanted)).tolist()
    chunks = [
        [wanted[k] for k in order[start : start + LAYERS_PER_GRAPH]] for start in range(0, len(order), LAYERS_PER_GRAPH)
    ]
    times: dict[TimedLayer, float] = {}
    for chunk in progress.track(chunks, "timing layers", unit="graphs"):
        with TemporaryDirectory() as folder:
            times |= _time_chunk(chunk, Path(folder), threads, batch, run)
    return times


def _time_chunk(
    chunk: Sequence[TimedLayer], folder: Path, threads: int, batch: int, run: NodeTimes
) -> dict[TimedLayer, float]:
    feeds = _write_graph(chunk, folder / "layers.onnx", batch)
    spent: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for node in run(folder / "layers.onnx", feeds, ROUNDS, threads):
        match = None if node.operator.startswith("Reorder") else _NODE_NAME.search(node.name)
        if match:
            spent[int(match[1])].append(node.ms)
    result = {}
    for number, layer in enumerate(chunk):
        entries = sum(map(len, spent[number]))
        if not entries or entries % ROUNDS:
            raise ExportError(
                f"the runtime's profile has {entries} entries for {layer.key}, not {ROUNDS} for each node"
            )
        result[layer] = _middle(np.sum([_by_round(ms) for ms in spent[number]], axis=0))
    return result


def _by_round(ms: Sequence[float]) -> NDArray[np.float64]:
    """A node's time in each round (ROUNDS,), in which it may run several times."""
    total: NDArray[np.float64] = np.asarray(ms).reshape(ROUNDS, -1).sum(1)
    return total


def layers_share(
    path: Path, images: NDArray[np.float32], *, threads: int = 1, run: NodeTimes = times_in_onnxruntime
) -> float:
    """Share of the time of an ONNX file's operators that its convolutions and matrix products take, in (0, 1].

    All are timed in the same runs, so that other work on the machine slows all of them and hardly changes the share.

    Args:
        images: (batch, C, H, W) float32, the file's only input.
        run: times the nodes of a graph in a runtime.

    Raises:
        ExportError: the runtime cannot open the file, or it has none of these operators.
    """
    (taken,) = runtime_inputs(read_onnx(path, external=False).graph)
    nodes = run(path, {taken.name: images}, ROUNDS, threads)
    times = [(node.operator, _middle(np.asarray(node.ms))) for node in nodes]
    layers = sum(time for operator, time in times if _LAYER.search(operator))
    if not layers:
        raise ExportError(f"the runtime's profile of {path.name} shows no convolution and no matrix product")
    return layers / sum(time for _, time in times)


def _middle(durations: NDArray[np.float64]) -> float:
    """Mean of the middle half."""
    quarter = len(durations) // 4
    return float(np.sort(durations)[quarter : len(durations) - quarter].mean())


def _write_graph(chunk: Sequence[TimedLayer], path: Path, batch: int) -> dict[str, Any]:
    """Write a graph with one node (and its ReLU) per layer; returns its inputs by name."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper, kind = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
    draw = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    inputs, nodes, weights, outputs = [], [], [], []

    def constant(name: str, shape: tuple[int, ...]) -> str:
        weights.append(numpy_helper.from_array(draw.standard_normal(shape, dtype=np.float32), name))
        return name

    for number, layer in enumerate(chunk):
        channels = layer.inputs * layer.groups
        shape = (channels, *layer.size)
        maps = "maps" + "x".join(map(str, shape))
        if maps not in feeds:
            feeds[maps] = draw.standard_normal((batch, *shape), dtype=np.float32)
            inputs.append(helper.make_tensor_value_info(maps, kind, ["batch", *shape]))
        filters = (channels, layer.outputs // layer.groups) if layer.transposed else (layer.outputs, layer.inputs)
        weight = constant(f"weight_{number}", (*filters, *layer.kernel))
        bias = constant(f"bias_{number}", (layer.outputs,))
        if layer.kernel:
            options: dict[str, Any] = {
                "kernel_shape": list(layer.kernel),
                "strides": list(layer.stride),
                "pads": list(layer.padding),
                "dilations": list(layer.dilation),
                "group": layer.groups,
            }
            operator = "ConvTranspose" if layer.transposed else "Conv"
            node = helper.make_node(operator, [maps, weight, bias], [f"sum{number}"], name=f"layer{number}", **options)
            nodes += [node, helper.make_node("Relu", [f"sum{number}"], [f"out{number}"], name=f"layer{number}_relu")]
        else:
            nodes.append(
                helper.make_node("Gemm", [maps, weight, bias], [f"out{number}"], name=f"layer{number}", transB=1)
            )
        outputs.append(helper.make_tensor_value_info(f"out{number}", kind, None))
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.save(model, str(path))
    return feeds


def cached_times(
    wanted: Sequence[TimedLayer],
    file: Path,
    *,
    threads: int,
    batch: int,
    run: NodeTimes = times_in_onnxruntime,
    progress: Progress = SILENT,
) -> Mapping[TimedLayer, float]:
    """The times of ``wanted`` in ms from a cache file; missing ones are measured and added."""
    known = _read_times(file, progress)
    missing = sorted({layer for layer in wanted if layer.key not in known})
    if missing:
        progress.note(f"timing {len(missing)} layers, once on this machine: {file}")
        measured = time_layers(missing, threads=threads, batch=batch, run=run, progress=progress)
        make_folder(file.parent)
        with locked(file.parent):  # another run may have added its own meanwhile
            known = _read_times(file, SILENT) | {layer.key: ms for layer, ms in measured.items()} | known
            write_sealed(file, {"times": known})
    return {layer: known[layer.key] for layer in wanted}


def _read_times(file: Path, progress: Progress) -> dict[str, float]:
    """ms by layer key; files of earlier versions have no checksum and no ``times`` entry."""
    try:
        stored = read_sealed(file, older=True)
        times: dict[str, float] = stored.get("times", stored)
        if not all(isinstance(ms, float) for ms in times.values()):
            raise Damaged(file, "was changed since it was written")
    except FileNotFoundError:
        return {}
    except Damaged as damage:
        progress.note(f"{damage}: layers are timed again")
        return {}
    return times
