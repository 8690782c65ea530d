"""Export of an ONNX file as a TensorRT engine, reused where nothing changed, and checked by reading it back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing
from slimsight.compress.files.atomic import atomic_path

from ..engines.flavour import FLAVOUR_NAMES, Flavour, Machine, import_runtime, this_machine
from ..engines.key import EngineKey, read_sidecar, sha256, sidecar, write_sidecar
from ..engines.readback import (
    EngineLayer,
    check_layers,
    count_types,
    dtype_name,
    inspected_layers,
    integer_nodes,
    logged_layers,
    multiplications,
    network_layers,
)
from ..engines.result import BatchProfile, EngineResult, EngineTensor, Precision, ReadFrom
from ..half.precision import ImageGraph, PrecisionGraph, to_precision
from .build import BuiltEngine, build_engine

__all__ = ["BatchProfile", "EngineResult", "EngineTensor", "Flavour", "Precision", "export_engine"]


def export_engine(
    onnx: Path,
    path: Path,
    *,
    flavour: Flavour = "tensorrt",
    precision: Precision = "fp32",
    profile: BatchProfile | None = None,
    samples: NDArray[Any] | None = None,
) -> EngineResult:
    """Build an engine from an ONNX file, or reuse the one at ``path`` that was built from it for this machine.

    Beside the engine: its key and this result (``<path>.json``), and for ``tensorrt`` the timing cache
    (``<path>.timing``), which makes the next build faster. TensorRT for RTX times no kernels while it builds.

    Args:
        onnx: the file; one float32 input (batch, 3, H, W).
        path: the engine.
        precision: ``fp16`` converts the graph itself, as strongly typed networks need; inputs and outputs stay
            float32. ``fp32`` means FP32: TF32 is off. ``int8`` takes an INT8 file in the form s8.
        profile: batch sizes; None: the graph's own where it is fixed, else 1 to 32, tuned for 1.
        samples: (N, 3, H, W) images, uint8 or floating point in [0, 1], on which overflow in FP16 is measured;
            without them only constants are checked.

    Raises:
        RuntimeMissing: the runtime is missing, or a GPU (``tensorrt`` only).
        ExportError: the file is missing, the graph does not parse or does not fit the profile, the builder fails, or
            the engine computes in another precision than requested.
        RunError: the disk is full or the folder is not writable.
    """
    start = time.perf_counter()
    if precision not in get_args(Precision):
        raise ExportError(f"'{precision}' is not a precision of engines: choose from {', '.join(get_args(Precision))}")
    trt, machine = import_runtime(flavour), this_machine()
    if flavour == "tensorrt" and not machine.has_gpu:
        raise RuntimeMissing(
            "TensorRT builds engines on the GPU that runs them, and there is no CUDA device here: "
            "export on the target, or to tensorrt-rtx, which builds anywhere"
        )
    graph = ImageGraph(onnx)
    if precision != "fp16" or samples is None or len(samples) == 0:
        samples = None
    batches = graph.to_profile(profile)
    key = EngineKey(
        flavour,
        trt.__version__,
        machine.gpu,
        machine.capability,
        machine.driver,
        sha256(onnx.read_bytes()),
        precision,
        (batches.min, batches.opt, batches.max),
        "" if samples is None else sha256(np.ascontiguousarray(samples).tobytes()),
    )
    stored = _stored_result(path, key)
    if stored is not None:
        return replace(stored, path=path, reused=True, seconds=time.perf_counter() - start)
    converted = to_precision(graph, precision, samples)
    timing = path.with_name(f"{path.name}.timing") if flavour == "tensorrt" else None
    built = build_engine(trt, flavour, converted.data, onnx.name, key.batches, timing=timing)
    result = _checked_result(trt, built, converted, key, machine, path)
    result = replace(result, seconds=time.perf_counter() - start)
    _write_engine(path, key, bytes(built.blob), result)
    return result


def _stored_result(path: Path, key: EngineKey) -> EngineResult | None:
    """The stored result of the engine at ``path``, if the engine is intact and has this key."""
    try:
        stored, result = read_sidecar(path)
        return EngineResult.from_dict(result) if stored == key else None
    except (ExportError, KeyError, TypeError, ValueError):
        return None  # absent, damaged or of another version: build it again


def _checked_result(
    trt: Any, built: BuiltEngine, graph: PrecisionGraph, key: EngineKey, machine: Machine, path: Path
) -> EngineResult:
    """Check the types of network and engine against the requested precision; returns both in a result."""
    network = network_layers(built.network)
    heavy = multiplications(network)
    source: ReadFrom = "inspector" if machine.has_gpu else "build log"
    layers = _engine_layers(trt, built, key.flavour, source)
    integer: tuple[str, ...] = ()
    if graph.precision == "int8":
        integer = _integer_layers(layers, graph, FLAVOUR_NAMES[key.flavour], path)
    else:
        check = partial(
            check_layers, fp16_nodes=graph.fp16_nodes, fp32_nodes=graph.fp32_nodes, pure=graph.precision == "fp32"
        )
        check(heavy, what=f"the network that {FLAVOUR_NAMES[key.flavour]} parsed", strict=True)
        check(layers, what=f"the engine that {FLAVOUR_NAMES[key.flavour]} built", strict=False)
    return EngineResult(
        path=path,
        flavour=key.flavour,
        version=key.version,
        precision=graph.precision,
        profile=BatchProfile(*key.batches),
        inputs=tuple(map(_engine_tensor, (built.network.get_input(i) for i in range(built.network.num_inputs)))),
        outputs=tuple(map(_engine_tensor, (built.network.get_output(i) for i in range(built.network.num_outputs)))),
        layers=count_types(heavy),
        engine_layers=count_types(layers),
        read_from=source,
        conditionals=sum(layer.kind == "CONDITION" for layer in network),
        kept_fp32=graph.kept_fp32,
        top1_agreement=graph.top1_agreement,
        p99_abs=graph.p99_abs,
        route_agreement=graph.route_agreement,
        machine=machine.to_dict(),
        size_bytes=built.blob.nbytes,
        seconds=0.0,
        reused=False,
        integer_layers=integer,
        float_layers=tuple(node for node in graph.int8_nodes if node not in integer),
    )


def _integer_layers(layers: Sequence[EngineLayer], graph: PrecisionGraph, runtime: str, path: Path) -> tuple[str, ...]:
    """The graph's quantised layers that an engine computes from integers.

    Raises:
        ExportError: it shows none.
    """
    integer = integer_nodes(layers, graph.int8_nodes)
    if not integer:
        raise ExportError(
            f"the engine that {runtime} built for {path.name} shows none of {len(graph.int8_nodes)} convolutions and "
            "matrix products in integers: use another version of the runtime, or build it in fp16"
        )
    return integer


def _engine_layers(trt: Any, built: BuiltEngine, flavour: Flavour, source: ReadFrom) -> list[EngineLayer]:
    """The built engine's layers, from the inspector where a GPU can open it, else from the build log."""
    if source == "build log":
        return logged_layers(built.messages)
    engine = trt.Runtime(built.builder.logger).deserialize_cuda_engine(built.blob)
    if engine is None:
        raise ExportError(
            f"{FLAVOUR_NAMES[flavour]} cannot open the engine that it has just built: is this GPU supported?"
        )
    return inspected_layers(trt, engine)


def _engine_tensor(tensor: Any) -> EngineTensor:
    return EngineTensor(tensor.name, tuple(tensor.shape), dtype_name(tensor.dtype))


def _write_engine(path: Path, key: EngineKey, blob: bytes, result: EngineResult) -> None:
    """Write the engine, then its sidecar, so that an engine never has the key of another one beside it."""
    sidecar(path).unlink(missing_ok=True)
    with atomic_path(path) as part:
        part.write_bytes(blob)
    write_sidecar(path, key, sha256(blob), result.to_dict())
