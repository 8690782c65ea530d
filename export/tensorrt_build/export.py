"""An ONNX file as a TensorRT engine, for TensorRT and for TensorRT for RTX, with what is inside read back."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing
from slimsight.compress.files.atomic import atomic_path

from ..engines.flavour import NAMES, Flavour, Machine, import_runtime, this_machine
from ..engines.key import EngineKey, read_sidecar, sha256, sidecar, write_sidecar
from ..engines.readback import (
    EngineLayer,
    check_layers,
    count_types,
    dtype_name,
    inspected_layers,
    logged_layers,
    multiplications,
    network_layers,
)
from ..engines.result import BatchProfile, EngineResult, EngineTensor, Precision, ReadFrom
from ..half.prepare import EngineGraph, Prepared, prepare
from .build import Built, build

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

    Beside the engine: its key and this result (``<path>.json``), and for ``tensorrt`` measured kernel times
    (``<path>.timing``), which make the next build faster. TensorRT for RTX times no kernels while it builds.

    Args:
        onnx: the file; one float32 input (batch, 3, H, W).
        path: the engine.
        precision: ``fp16`` casts the graph itself, as strongly typed networks take it; inputs and outputs stay
            float32. ``fp32`` means FP32: TF32 is off.
        profile: batch sizes; None is the graph's own where it is fixed, else 1 to 32, tuned for 1.
        samples: (N, 3, H, W) images, uint8 or floating point in [0, 1], that show which values FP16 cannot hold;
            without them only constants are looked at.

    Raises:
        RuntimeMissing: the runtime is missing, or a GPU (``tensorrt`` only).
        ExportError: the file is missing, the graph does not parse or does not fit the profile, the builder fails, or
            what was built is not what was asked for.
        RunError: the disk is full or the place is not writable.
    """
    start = time.perf_counter()
    if precision not in get_args(Precision):
        raise ExportError(f"'{precision}' is no precision of engines: choose from {', '.join(get_args(Precision))}")
    trt, machine = import_runtime(flavour), this_machine()
    if flavour == "tensorrt" and not machine.has_gpu:
        raise RuntimeMissing(
            "TensorRT builds engines on the GPU that runs them, and there is no CUDA device here: "
            "export on the target, or to tensorrt-rtx, which builds anywhere"
        )
    graph = EngineGraph(onnx)
    if precision == "fp32" or samples is None or len(samples) == 0:
        samples = None
    batches = graph.profile(profile)
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
    known = _matching(path, key)
    if known is not None:
        return replace(known, path=path, reused=True, seconds=time.perf_counter() - start)
    made = prepare(graph, precision, samples)
    timing = path.with_name(f"{path.name}.timing") if flavour == "tensorrt" else None
    built = build(trt, flavour, made.data, onnx.name, key.batches, timing=timing)
    result = _proven(trt, built, made, key, machine, path)
    result = replace(result, seconds=time.perf_counter() - start)
    _store(path, key, bytes(built.blob), result)
    return result


def _matching(path: Path, key: EngineKey) -> EngineResult | None:
    """What is known of the engine at ``path``, if it is whole and has this key."""
    try:
        stored, result = read_sidecar(path)
        return EngineResult.from_dict(result) if stored == key else None
    except (ExportError, KeyError, TypeError, ValueError):
        return None  # absent, damaged or of another version: it is built anew


def _proven(trt: Any, built: Built, made: Prepared, key: EngineKey, machine: Machine, path: Path) -> EngineResult:
    """What network and engine say of themselves, held against what was asked for."""
    network = network_layers(built.network)
    heavy = multiplications(network)
    check = partial(check_layers, in_half=made.in_half, in_single=made.in_single, pure=made.precision == "fp32")
    check(heavy, what=f"the network that {NAMES[key.flavour]} parsed", strict=True)
    source: ReadFrom = "inspector" if machine.has_gpu else "build log"
    layers = _engine_layers(trt, built, key.flavour, source)
    check(layers, what=f"the engine that {NAMES[key.flavour]} built", strict=False)
    return EngineResult(
        path=path,
        flavour=key.flavour,
        version=key.version,
        precision=made.precision,
        profile=BatchProfile(*key.batches),
        inputs=tuple(map(_tensor, (built.network.get_input(i) for i in range(built.network.num_inputs)))),
        outputs=tuple(map(_tensor, (built.network.get_output(i) for i in range(built.network.num_outputs)))),
        layers=count_types(heavy),
        engine_layers=count_types(layers),
        read_from=source,
        conditionals=sum(layer.kind == "CONDITION" for layer in network),
        kept_fp32=made.wide,
        top1_agreement=made.top1_agreement,
        p99_abs=made.p99_abs,
        route_agreement=made.route_agreement,
        machine=machine.to_dict(),
        size_bytes=built.blob.nbytes,
        seconds=0.0,
        reused=False,
    )


def _engine_layers(trt: Any, built: Built, flavour: Flavour, source: ReadFrom) -> list[EngineLayer]:
    """The built engine's layers, by itself where a GPU can open it, else by its builder."""
    if source == "build log":
        return logged_layers(built.messages)
    engine = trt.Runtime(built.builder.logger).deserialize_cuda_engine(built.blob)
    if engine is None:
        raise ExportError(f"{NAMES[flavour]} cannot open the engine that it has just built: is this GPU supported?")
    return inspected_layers(trt, engine)


def _tensor(tensor: Any) -> EngineTensor:
    return EngineTensor(tensor.name, tuple(tensor.shape), dtype_name(tensor.dtype))


def _store(path: Path, key: EngineKey, blob: bytes, result: EngineResult) -> None:
    """Write the engine, then its key: an engine never stands beside the key of another one."""
    sidecar(path).unlink(missing_ok=True)
    with atomic_path(path) as part:
        part.write_bytes(blob)
    write_sidecar(path, key, sha256(blob), result.to_dict())
