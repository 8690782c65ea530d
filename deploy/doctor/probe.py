"""Heavy probes, each run in a process of its own: ``python -m slimsight.deploy.doctor.probe NAME``.

One line of JSON on standard output for every finding, written as soon as it is known: a library that takes the
process down with it leaves the lines before.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

_MODULES = (
    "numpy",
    "PIL",
    "yaml",
    "pydantic",
    "safetensors",
    "scipy",
    "sklearn",
    "matplotlib",
    "jinja2",
    "torch",
    "torchvision",
    "lightning_fabric",
    "torch_pruning",
    "fvcore",
)
"""What every run imports, light ones first."""

PLUG_INS = "slimsight.runtimes"
"""As ``export.runners.plug_in.GROUP``, which is not imported here: it needs torch."""

_CPP = "#include <Python.h>\n#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"


def _report(name: str, **facts: Any) -> None:
    os.write(_OUT, (json.dumps({"name": name, **facts}) + "\n").encode())


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _import(name: str) -> Any:
    """The module, reported before and after its import; None where it cannot be imported."""
    _report("importing", module=name)
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken package may raise anything: that is the finding
        _report(name, broken=_reason(error))
        return None
    _report(name, version=str(getattr(module, "__version__", "")))
    return module


def learning() -> None:
    """The packages that every run needs, and what torch sees."""
    for name in _MODULES:
        _import(name)
    _report("importing", module="torch.cuda")
    _torch()


def _torch() -> None:
    import torch

    facts: dict[str, Any] = {"built_for": torch.version.cuda, "threads": torch.get_num_threads()}
    if getattr(torch.version, "hip", None):
        facts["built_for"] = f"ROCm {torch.version.hip}"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        facts["gpus"] = [{"name": gpu.name, "memory": gpu.total_memory} for gpu in names]
        try:
            ones = torch.ones(4, device="cuda")
            facts["computes"] = float((ones + ones).sum()) == 8
        except RuntimeError as error:  # a GPU that this build has no kernels for
            facts["gpu_error"] = _reason(error)
    elif torch.version.cuda:
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]  # torch gives it no types
        except (RuntimeError, AssertionError) as error:
            facts["no_gpu"] = str(error).split(". ")[0].split("\n")[0]
    _report("torch devices", **facts)


def onnxruntime() -> None:
    """ONNX, and one node in ONNX Runtime's providers."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        if _import(name) is None:
            return
    onnx, ort = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    ort.set_default_logger_severity(4)
    image = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", [image], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    for provider in ort.get_available_providers():
        _report("importing", module=provider)
        try:
            session = ort.InferenceSession(model, providers=[provider], enable_fallback=0)
            given = importlib.import_module("numpy").ones(1, "float32")
            ran = session.get_providers()[0] == provider and float(session.run(None, {"x": given})[0][0]) == 1
            _report(provider, ran=ran)
        except Exception as error:  # noqa: BLE001 - the library's errors share no base class
            _report(provider, ran=False, reason=_reason(error))


def openvino() -> None:
    """OpenVINO and the devices that it sees."""
    from slimsight.compress.errors import RuntimeMissing
    from slimsight.export.onnx_files.runtime import import_openvino

    _report("importing", module="openvino")
    try:
        ov = import_openvino()
        _report("openvino", version=str(ov.__version__).split("-")[0])
        _report("devices", seen=list(ov.Core().available_devices))
    except (RuntimeMissing, RuntimeError) as error:
        _report("openvino", broken=str(error), missing=importlib.util.find_spec("openvino") is None)


def plug_ins() -> None:
    """The runtimes of other packages."""
    if not metadata.entry_points(group=PLUG_INS):
        return
    _report("importing", module="slimsight.export.runners.choose")
    from slimsight.export.runners.choose import plug_ins as loaded

    for name, runtime in loaded().items():
        _report(name, reason=runtime.available(), formats=list(runtime.formats))


def tensorrt() -> None:
    """NVIDIA's TensorRT."""
    _engine_builder("tensorrt")


def tensorrt_rtx() -> None:
    """TensorRT for RTX."""
    _engine_builder("tensorrt_rtx")


def _engine_builder(name: str) -> None:
    _report("importing", module=name)
    try:
        trt = importlib.import_module(name)
        _report(name, version=str(trt.__version__))
        logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
        _report("builder", made=trt.Builder(logger) is not None)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a broken package may raise anything: that is the finding
        _report(name, broken=_reason(error))


def compiler() -> None:
    """What torch.compile needs on a CPU: a C++ compiler with OpenMP, and Python's headers."""
    path = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))), None)
    if path is None:
        _report("compiler", missing="there is no C++ compiler")
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cpp"
        source.write_text(_CPP, encoding="utf-8")
        headers = sysconfig.get_path("include")
        command = [path, "-fopenmp", "-shared", "-fPIC", f"-I{headers}", str(source), "-o", str(source) + ".so"]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode == 0:
        _report("compiler", path=path)
    elif "Python.h" in made.stderr:
        _report("compiler", path=path, missing=f"Python's headers are not in {headers}")
    else:
        errors = [line for line in made.stderr.splitlines() if "error" in line] or ["it does not say why"]
        _report("compiler", path=path, missing=f"{path} cannot build a library with OpenMP ({errors[0].strip()[:160]})")


PROBES: dict[str, Callable[[], None]] = {
    "learning": learning,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "plug_ins": plug_ins,
    "tensorrt": tensorrt,
    "tensorrt_rtx": tensorrt_rtx,
    "compiler": compiler,
}

if __name__ == "__main__":
    # Libraries write to both; findings go where standard output went.
    _OUT = os.dup(1)
    with Path(os.devnull).open("w") as nowhere, contextlib.suppress(KeyboardInterrupt):
        os.dup2(nowhere.fileno(), 1)
        PROBES[sys.argv[1]]()
