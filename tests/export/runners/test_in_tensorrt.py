"""The runner of engines: what it refuses, how it binds its buffers, and (with a GPU) what it computes."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError
from slimsight.export.engines.flavour import Machine
from slimsight.export.engines.key import EngineKey, sha256, sidecar, write_sidecar
from slimsight.export.half.overflow import run_graph
from slimsight.export.runners import TensorRtRunner, in_tensorrt
from slimsight.export.tensorrt_build.export import BatchProfile, export_engine
from slimsight.export.to_onnx import export_onnx

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")

CLASSES = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An ONNX file and its engine."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    folder = tmp_path_factory.mktemp("engine")
    source, path = folder / "model.onnx", folder / "model.engine"
    export_onnx(model.eval(), torch.rand(1, 3, 8, 8), source)
    export_engine(source, path, flavour="tensorrt-rtx", profile=BatchProfile(1, 2, 4))
    return source, path


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_opening_says_so_and_damage_is_said_first(engine: tuple[Path, Path], tmp_path: Path) -> None:
    runner = TensorRtRunner(engine[1], "tensorrt-rtx")
    with pytest.raises(ExportError, match=r"model\.engine runs on a CUDA device, and there is none here: open it on"):
        runner.__enter__()
    with pytest.raises(ExportError, match=r"model\.engine is not open"):
        runner.run(np.zeros((1, 3, 8, 8), np.float32))
    short = tmp_path / "short.engine"
    short.write_bytes(engine[1].read_bytes()[:-1])
    sidecar(short).write_text(sidecar(engine[1]).read_text())
    with pytest.raises(ExportError, match="is not the engine that was built"), TensorRtRunner(short, "tensorrt-rtx"):
        pass
    old = json.loads(sidecar(engine[1]).read_text())
    old["key"]["version"] = "1.2.0"
    short.write_bytes(engine[1].read_bytes())
    sidecar(short).write_text(json.dumps(old))
    with pytest.raises(ExportError, match=r"was built by TensorRT for RTX 1\.2\.0, here is TensorRT for RTX 1\.\d"):
        TensorRtRunner(short, "tensorrt-rtx").__enter__()


class HostContext:
    """Execution on the host: logits are the images' mean times the class's number, routes are ones."""

    calls: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.calls["shapes"] += 1
        self.shape = tuple(shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"images": self.shape, "logits": (self.shape[0], CLASSES), "routes": (self.shape[0], 2)}[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        images = self._view("images", np.float32, self.shape)
        assert stream == 7
        self._view("logits", np.float32, (self.shape[0], CLASSES))[:] = images.mean((1, 2, 3))[:, None] * np.arange(
            CLASSES
        )
        self._view("routes", np.int64, (self.shape[0], 2))[:] = 1
        return True

    def _view(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        import ctypes

        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_char * count).from_address(self.addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)


class HostEngine:
    """An engine of three tensors, for 1 to 4 images."""

    tensors: ClassVar[dict[str, str]] = {"images": "FLOAT", "logits": "FLOAT", "routes": "INT64"}
    num_io_tensors = 3

    def get_tensor_name(self, place: int) -> str:
        return list(self.tensors)[place]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self.tensors[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]

    def create_execution_context(self) -> HostContext:
        return HostContext()

    def create_engine_inspector(self) -> Any:
        layers = [{"Inputs": [{"Datatype": "Half"}], "Outputs": [{"Datatype": "Half"}]}]
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))


class Event:
    """A CUDA event, on the host."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        HostContext.calls["events"] += 1

    def elapsed_time(self, end: Event) -> float:
        return 1.5


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a CUDA device that is really the host, and an engine for it."""
    machine = Machine("NVIDIA L4", "8.9", "13.0")
    fake = SimpleNamespace(
        __version__="10.13.3",
        ILogger=trt.ILogger,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: HostEngine()),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        LayerInformationFormat=SimpleNamespace(JSON=1),
    )
    monkeypatch.setattr(in_tensorrt, "import_runtime", lambda flavour: fake)
    monkeypatch.setattr(in_tensorrt, "this_machine", lambda: machine)
    monkeypatch.setattr(TensorRtRunner, "_device", "cpu")
    stream = SimpleNamespace(cuda_stream=7, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    key = EngineKey("tensorrt", "10.13.3", "NVIDIA L4", "8.9", "13.0", "", "fp16", (1, 2, 4), "")
    write_sidecar(path, key, sha256(b"plan"), {"precision": "fp32"})
    return path


def test_buffers_are_made_once_per_batch_size_and_bound_when_it_changes(host: Path) -> None:
    HostContext.calls.clear()
    random = np.random.default_rng(0)
    runner = TensorRtRunner(host)
    assert (runner.name, runner.runtime, runner.device_ms) == ("model.engine", "tensorrt-cuda", None)
    with runner:
        assert runner.precision == "fp16"  # what the engine says, not what stands beside it
        kept = []
        for batch in (1, 4, 4, 1, 1):
            images = random.random((batch, 3, 8, 8), dtype=np.float32)
            logits = runner.run(images)
            np.testing.assert_allclose(logits, images.mean((1, 2, 3))[:, None] * np.arange(CLASSES), rtol=1e-5)
            kept.append((logits, logits.copy()))
        for logits, copy in kept:
            np.testing.assert_array_equal(logits, copy)  # not overwritten by the next call
        assert runner.device_ms == 1.5
        assert sorted(runner._buffers) == [1, 4]
        assert HostContext.calls == {"shapes": 3, "events": 10}
        with pytest.raises(ExportError, match=r"model\.engine takes 1 to 4 images per call, not 5"):
            runner.run(np.zeros((5, 3, 8, 8), np.float32))
        with pytest.raises(ExportError, match=r"takes images of \(3, 8, 8\), not \(3, 9, 8\)"):
            runner.run(np.zeros((1, 3, 9, 8), np.float32))
    assert runner._buffers == {}


def test_an_engine_of_another_gpu_is_not_opened(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_tensorrt, "this_machine", lambda: Machine("NVIDIA H200", "9.0", "13.0"))
    with pytest.raises(ExportError, match=r"built on NVIDIA L4 \(compute capability 8\.9\), here is NVIDIA H200"):
        TensorRtRunner(host).__enter__()


def test_what_the_runtime_finds_invalid_is_refused_with_its_reasons(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = in_tensorrt.import_runtime("tensorrt")
    reasons = int(trt.EngineInvalidityDiagnostics.UNSUPPORTED_CC) | int(trt.EngineInvalidityDiagnostics.OLD_CUDA_DRIVER)
    fake.EngineValidity, fake.EngineInvalidityDiagnostics = trt.EngineValidity, trt.EngineInvalidityDiagnostics
    judged = SimpleNamespace(get_engine_validity=lambda data: (trt.EngineValidity.INVALID, reasons))
    monkeypatch.setattr(fake, "Runtime", lambda logger: judged)
    with pytest.raises(ExportError, match=r"cannot run here \(unsupported cc, old cuda driver\): export it again here"):
        TensorRtRunner(host).__enter__()
    failing = SimpleNamespace(deserialize_cuda_engine=lambda data: None)
    monkeypatch.setattr(fake, "Runtime", lambda logger: failing)
    with pytest.raises(ExportError, match=r"TensorRT cannot open .* \(it does not say why\): export it again here"):
        TensorRtRunner(host).__enter__()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_compute_what_onnx_runtime_computes(engine: tuple[Path, Path], tmp_path: Path, precision: Any) -> None:
    path = tmp_path / "model.engine"
    built = export_engine(engine[0], path, flavour="tensorrt-rtx", precision=precision, profile=BatchProfile(1, 2, 4))
    assert built.read_from == "inspector"
    with TensorRtRunner(path, "tensorrt-rtx") as runner:
        assert runner.precision == precision
        for batch in (1, 4, 1):
            images = np.random.default_rng(batch).random((batch, 3, 8, 8), dtype=np.float32)
            expected = run_graph(onnx.load(engine[0]), images)[0]
            atol = 1e-5 if precision == "fp32" else 5e-3
            np.testing.assert_allclose(runner.run(images), expected, rtol=0, atol=atol)
            assert runner.device_ms is not None
            assert runner.device_ms > 0
