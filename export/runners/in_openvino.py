"""The OpenVINO runner: ONNX files on a CPU, or on any device that OpenVINO names, in FP32 unless the file says less."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing, Unsupported

from ..onnx_files.graph import LOGITS_OUTPUT, read_onnx
from ..onnx_files.layers_run import LayersRun, layers_seen
from ..onnx_files.metadata import stated_precision, stored_metadata
from ..onnx_files.quantised import heavy_layers
from ..onnx_files.runtime import INSTALL_OPENVINO, import_openvino
from .base import BaseRunner, NodeTime, Runtime

CPU: Final = "CPU"

_META_DEVICES: Final = ("AUTO", "HETERO", "MULTI", "BATCH")
"""Devices that choose among the others."""

_PRECISION_HINT: Final = "INFERENCE_PRECISION_HINT"
_PRECISION_NAMES: Final = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_INTEGERS: Final = frozenset({"u8", "i8"})
_LAYER_TYPES: Final = frozenset({"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul"})
_ADDED = re.compile(r"(/WithoutBiases|/Dequantization\w+)+$")  # to the names of nodes that OpenVINO splits
_PLACES = re.compile(r"^(Exception from|Check ')|^FrontEnd API failed")  # lines of its messages that name its sources


class OpenVinoRunner(BaseRunner):
    """Runs an ONNX file in OpenVINO: one stream, ``threads`` threads of the CPU, exact FP32.

    By default OpenVINO computes in bfloat16 or FP16 where the device is fast in them: FP32 is asked for, and
    ``precision`` is what the device reports, or what the file states where that is less.

    Args:
        path: the file; one input (batch, 3, H, W) fp32, ``logits`` or the first output (batch, classes).
        threads: of the CPU, not pinned to cores.
        device: as OpenVINO names it: ``CPU``, ``GPU``, ``GPU.1``, ``NPU``, ``AUTO``, ``AUTO:GPU,CPU``.

    Raises:
        RuntimeMissing: on opening, when OpenVINO or the device (its driver) is missing.
        ExportError: on opening, when the file is missing or unusable.
    """

    def __init__(self, path: Path, threads: int = 1, *, device: str = CPU) -> None:
        device = device.upper()
        super().__init__(path.name, f"openvino-{device.lower()}", "fp32")
        self._path, self._threads, self._device = path, threads, device
        self._request: Any = None
        self._output = 0
        self._tensor: Any = None

    def _open(self) -> None:
        ov = import_openvino()
        stated = stated_precision(stored_metadata(read_onnx(self._path, external=False)))  # checked before it is parsed
        compiled = compile_file(self._path, self._threads, self._device)
        inputs = compiled.inputs
        if len(inputs) != 1 or inputs[0].element_type != ov.Type.f32 or inputs[0].partial_shape.rank != 4:
            listed = ", ".join(f"{item.any_name}: {item.element_type} {item.partial_shape}" for item in inputs)
            raise ExportError(f"{self._path} takes {listed}: one float input (batch, 3, H, W) is needed")
        self.precision = _coarser(stated, _reported_precision(compiled, self._path, self._device))
        sizes = list(inputs[0].partial_shape)[1:]
        fixed = all(size.is_static for size in sizes)
        self._image_shape = tuple(size.get_length() for size in sizes) if fixed else None
        named = [LOGITS_OUTPUT in output.names for output in compiled.outputs]
        self._output = named.index(True) if True in named else 0
        self._tensor_of, self._request = ov.Tensor, compiled.create_infer_request()

    def _close(self) -> None:
        self._request = self._tensor = None

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        self._tensor = self._tensor_of(np.ascontiguousarray(images), shared_memory=True)  # kept: it owns no memory
        self._request.set_input_tensor(self._tensor)
        self._request.infer()
        return np.array(self._request.get_output_tensor(self._output).data, np.float32)

    def _to_export_error(self, error: Exception, images: NDArray[np.float32]) -> ExportError:
        return super()._to_export_error(RuntimeError(reason_of(error)), images)


def compile_file(source: Path | bytes, threads: int = 1, device: str = CPU, *, profile: bool = False) -> Any:
    """An ONNX file (or the bytes of one) compiled for a device, in exact FP32.

    Args:
        profile: also keep the time of every layer of a call.

    Raises:
        RuntimeMissing: OpenVINO is missing, or does not see the device.
        ExportError: there is no such file.
        Unsupported: it cannot open or compile the file, for an operator that it lacks, for example.
    """
    ov = import_openvino()
    if isinstance(source, Path) and not source.is_file():
        raise ExportError(f"there is no {source}: export the model to onnx first")
    core = ov.Core()
    _check_device(core, device)
    what = "the graph" if isinstance(source, bytes) else str(source)
    try:
        model = core.read_model(source)
        settings = _settings(core, device, threads) | ({"PERF_COUNT": "YES"} if profile else {})
        return core.compile_model(model, device, settings)
    except (RuntimeError, TypeError) as error:  # TypeError: a file that is none of its formats
        raise Unsupported(
            f"OpenVINO cannot open {what} for {device} ({reason_of(error)}): export it again, or run it in another "
            "runtime"
        ) from error


def _check_device(core: Any, device: str) -> None:
    base, _, members = device.partition(":")
    wanted = [name for name in members.replace("-", "").split(",") if name] if base in _META_DEVICES else [base]
    seen: list[str] = core.available_devices
    for name in wanted:
        plug_in = name.split(".")[0].split("(")[0]
        if name not in seen and not any(one.split(".")[0] == plug_in and "." not in name for one in seen):
            raise RuntimeMissing(
                f"OpenVINO sees no {name} here (it sees {', '.join(seen) or 'nothing'}): install the device's driver, "
                "or choose another device"
            )


def _settings(core: Any, device: str, threads: int) -> dict[str, Any]:
    """The properties to compile with: latency of one call, FP32, threads on a CPU."""
    if device.split(":")[0] not in _META_DEVICES:
        return _device_settings(core, device, threads)
    own = {name: _device_settings(core, name, threads) for name in core.available_devices}
    return {"PERFORMANCE_HINT": "LATENCY", "DEVICE_PROPERTIES": own}


def _device_settings(core: Any, device: str, threads: int) -> dict[str, Any]:
    given: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if "FP32" in core.get_property(device, "OPTIMIZATION_CAPABILITIES"):  # an NPU has none
        given |= {_PRECISION_HINT: "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    if device == CPU:
        # Pinned threads would keep to one core that other work may be using.
        given |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
    return given


def _reported_precision(compiled: Any, path: Path, device: str) -> str:
    """What the device says that it computes FP32 graphs in; of several devices the least precise."""
    if _PRECISION_HINT in compiled.get_property("SUPPORTED_PROPERTIES"):
        reported = [compiled.get_property(_PRECISION_HINT)]
    else:
        by_device: Mapping[str, Any] = compiled.get_property("DEVICE_PROPERTIES")
        reported = [of[_PRECISION_HINT] for of in by_device.values() if _PRECISION_HINT in of]
    names = [_PRECISION_NAMES.get(kind.get_type_name()) for kind in reported]
    if not names or None in names:
        raise ExportError(
            f"OpenVINO does not say in which precision {device} computes {path.name}: choose another device"
        )
    return _coarser("fp32", *(name for name in names if name is not None))


def _coarser(*precisions: str) -> str:
    return max(precisions, key=("fp32", "fp16", "bf16", "int8").index)


def layers_in_openvino(path: Path) -> LayersRun:
    """What each convolution and matrix product of a file runs in on the CPU, from the graph that OpenVINO compiled.

    Raises:
        RuntimeMissing, ExportError: as for ``compile_file``.
    """
    layers = heavy_layers(read_onnx(path).graph)
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    for node in compile_file(path).get_runtime_model().get_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) in _LAYER_TYPES:
            names = about["originalLayersNames"].astype(str).split(",")
            seen[about["runtimePrecision"].astype(str) in _INTEGERS] |= {_ADDED.sub("", name) for name in names}
    return layers_seen(layers, seen[True], seen[False])


def values_in_openvino(
    graph: bytes, names: Sequence[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """``LayerValues`` of OpenVINO on the CPU."""
    compiled = compile_file(graph)
    values = compiled.create_infer_request().infer({0: images})
    by_name = {name: output for output in compiled.outputs if output.element_type.is_real() for name in output.names}
    return {name: np.asarray(values[by_name[name]], np.float32) for name in names if name in by_name}


def times_in_openvino(path: Path, feeds: Mapping[str, NDArray[Any]], rounds: int, threads: int) -> list[NodeTime]:
    """``NodeTimes`` of OpenVINO on the CPU; the name of a node also has those of what was fused into it."""
    compiled = compile_file(path, threads, profile=True)
    origins = {
        node.get_friendly_name(): node.get_rt_info()["originalLayersNames"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
    }
    request = compiled.create_infer_request()
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(rounds):
        request.infer(dict(feeds))
        for event in request.profiling_info:
            if event.status == type(event.status).EXECUTED:
                spent[event.node_name, event.node_type].append(event.real_time.total_seconds() * 1e3)
    return [NodeTime(f"{name},{origins.get(name, '')}", kind, tuple(ms)) for (name, kind), ms in spent.items()]


def reason_of(error: Exception) -> str:
    """What a message of OpenVINO says, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not _PLACES.match(line)]
    return (said or lines or [type(error).__name__])[-1].rstrip(".")


def why_unavailable() -> str | None:
    """Why OpenVINO does not run here; None where it is installed."""
    return None if find_spec("openvino") is not None else f"OpenVINO is not installed: {INSTALL_OPENVINO}"


RUNTIMES = (
    Runtime(
        "openvino",
        (".onnx",),
        lambda path, device, threads: OpenVinoRunner(path, threads, device=device or CPU),
        why_unavailable,
        layers_in_openvino,
        values_in_openvino,
        times_in_openvino,
        ("openvino",),
        CPU,
    ),
)
