"""Measured times of single layers in a runtime: many in one graph, each node's time from its profile; cached."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

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
from .layer_graph import KernelPrecision, write_layers

ROUNDS = 24
"""Runs of every graph. The mean of the middle half of a node's times counts: profiles are in whole microseconds."""

LAYERS_PER_GRAPH = 120
"""Layers in one graph, so that each meets the processor's caches as in a network, after many other layers."""

TIMING_METHOD = 2
"""Version of this measurement. Increase it when layers are timed in another way: cached times are then ignored."""

_NODE_NAME = re.compile(r"(?:layer|out)(\d+)(?!\d)")
_LAYER = re.compile("Conv|Gemm|MatMul|Deconvolution|FullyConnected")


def time_layers(
    wanted: Sequence[TimedLayer],
    *,
    threads: int = 1,
    batch: int = 1,
    run: NodeTimes = times_in_onnxruntime,
    precision: KernelPrecision = "fp32",
    progress: Progress = SILENT,
) -> dict[TimedLayer, float]:
    """Time of each layer in ms, with its bias and ReLU, without the layout conversions around it.

    Args:
        run: times the nodes of a graph in a runtime.
        precision: of the layers' kernels; int8: in integers, from and to 8 bits, as in an INT8 file.

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
            times |= _time_chunk(chunk, Path(folder), threads, batch, run, precision)
    return times


def _time_chunk(
    chunk: Sequence[TimedLayer], folder: Path, threads: int, batch: int, run: NodeTimes, precision: KernelPrecision
) -> dict[TimedLayer, float]:
    feeds = write_layers(chunk, folder / "layers.onnx", batch, precision=precision)
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


def cached_times(
    wanted: Sequence[TimedLayer],
    file: Path,
    *,
    threads: int,
    batch: int,
    run: NodeTimes = times_in_onnxruntime,
    precision: KernelPrecision = "fp32",
    progress: Progress = SILENT,
) -> Mapping[TimedLayer, float]:
    """The times of ``wanted`` in ms from a cache file; missing ones are measured and added."""
    known = _read_times(file, progress)
    missing = sorted({layer for layer in wanted if layer.key not in known})
    if missing:
        progress.note(f"timing {len(missing)} layers, once on this machine: {file}")
        measured = time_layers(missing, threads=threads, batch=batch, run=run, precision=precision, progress=progress)
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
