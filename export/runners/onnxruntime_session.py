"""Sessions of ONNX Runtime: how they are opened, and what is read from them: precision, values and times of nodes."""

from __future__ import annotations

import importlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimsight.compress.errors import ExportError, RuntimeMissing, first_error_line

from ..onnx_files.graph import read_onnx, runtime_errors
from ..onnx_files.layers_run import LayersRun, compare_layers
from ..onnx_files.quantised import heavy_layers
from ..onnx_files.runtime import import_onnxruntime
from .base import NodeTime
from .cuda import GPU_INDEX, gpu_stream

CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)


def open_session(
    source: Path | bytes,
    threads: int,
    provider: str = CPU_PROVIDER,
    *,
    profile: Path | None = None,
    optimised: bool = True,
    optimised_to: Path | None = None,
) -> Any:
    """A session that runs nodes one after the other on ``threads`` threads.

    Args:
        source: a file, or the bytes of one.
        profile: prefix of the profile's path; ``session.end_profiling()`` returns the full path.
        optimised: False runs the graph as it is stored, node by node.
        optimised_to: where the optimised graph is written, to be read back.

    Raises:
        RuntimeMissing: ONNX Runtime is missing, or its provider cannot start.
        ExportError: it cannot open the file.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if provider != CPU_PROVIDER:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised_to is not None:
        options.optimized_model_filepath = str(optimised_to)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    model = source if isinstance(source, bytes) else str(source)
    try:
        # No fall-back: it would print, and run on the CPU what was meant for a GPU.
        return ort.InferenceSession(model, options, providers=_providers(provider), enable_fallback=0)
    except runtime_errors() as error:
        what = "the graph" if isinstance(source, bytes) else source
        raise ExportError(f"ONNX Runtime cannot open {what} ({first_error_line(error)}): export it again") from error
    except RuntimeError as error:  # a provider's libraries: errors about files have classes of their own
        raise cannot_start(provider) from error


def _providers(provider: str) -> list[Any]:
    if provider == CPU_PROVIDER:
        return [CPU_PROVIDER]
    # What TensorRT cannot take stays on the GPU; see _nodes_on_cpu for the CPU.
    names = [provider, CUDA_PROVIDER] if provider == TENSORRT_PROVIDER else [provider]
    options = {"device_id": str(GPU_INDEX), "user_compute_stream": str(gpu_stream().cuda_stream)}
    # By default CUDA computes fp32 in TF32.
    return [(name, options | ({"use_tf32": "0"} if name == CUDA_PROVIDER else {})) for name in names]


def cannot_start(provider: str) -> RuntimeMissing:
    return RuntimeMissing(
        f"ONNX Runtime cannot start {provider}: its driver or libraries are missing here; install them, or use "
        f"{CPU_PROVIDER}"
    )


def layers_in_onnxruntime(path: Path, provider: str = CPU_PROVIDER) -> LayersRun:
    """What each convolution and matrix product of a file runs in, in a session with the default optimisations.

    A file's Q/DQ nodes say what was meant; what runs is decided on opening. A layer may stay in FP32 where no integer
    kernel fits, and one that the file keeps in FP32 may be quantised again, by one scale for its whole weight
    (WeightBiasQuantization). The graph that ONNX Runtime optimised says which.

    Raises:
        ExportError: the file is missing, or ONNX Runtime cannot open it.
    """
    with TemporaryDirectory(prefix="slimsight-optimised-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(path, 1, provider, optimised_to=optimised)
        graph = importlib.import_module("onnx").load(optimised).graph
    return compare_layers(heavy_layers(read_onnx(path).graph), graph)


def values_in_onnxruntime(
    graph: bytes, names: Sequence[str], images: NDArray[np.float32], provider: str = CPU_PROVIDER
) -> dict[str, NDArray[np.float32]]:
    """``LayerValues`` of ONNX Runtime, without its optimisations."""
    session = open_session(graph, 1, provider, optimised=False)
    (input_,) = session.get_inputs()
    floats = {item.name for item in session.get_outputs() if item.type in ("tensor(float)", "tensor(float16)")}
    wanted = [name for name in names if name in floats]
    values = session.run(wanted, {input_.name: images})
    return {name: np.asarray(value, np.float32) for name, value in zip(wanted, values, strict=True)}


def times_in_onnxruntime(
    path: Path, feeds: Mapping[str, NDArray[Any]], rounds: int, threads: int, provider: str = CPU_PROVIDER
) -> list[NodeTime]:
    """``NodeTimes`` of ONNX Runtime, from its profile."""
    with TemporaryDirectory(prefix="slimsight-profile-") as folder:
        session = open_session(path, threads, provider, profile=Path(folder) / "profile")
        for _ in range(rounds):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["name"].endswith("_kernel_time"):
            spent[event["name"], event["args"]["op_name"]].append(event["dur"] / 1e3)
    return [NodeTime(name, operator, tuple(ms)) for (name, operator), ms in spent.items()]
