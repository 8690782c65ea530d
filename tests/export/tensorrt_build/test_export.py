"""Engines built for real by TensorRT for RTX, which needs no GPU for that, and read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from slimsight.compress.errors import ExportError
from slimsight.export.engines.flavour import Machine
from slimsight.export.tensorrt_build import export as to_tensorrt
from slimsight.export.tensorrt_build.export import BatchProfile, EngineResult, export_engine

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution, a mean and a linear layer."""
    path = tmp_path_factory.mktemp("small") / "small.onnx"
    node, random = onnx.helper.make_node, np.random.default_rng(0)
    constants = {"w": random.normal(size=(4, 3, 3, 3)), "v": random.normal(size=(4, 5))}
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["images", "w"], ["a"], name="conv"),
            node("Relu", ["a"], ["b"], name="relu"),
            node("GlobalAveragePool", ["b"], ["c"], name="mean"),
            node("Flatten", ["c"], ["d"], name="flat"),
            node("Gemm", ["d", "v"], ["logits"], name="linear"),
        ],
        "small",
        [onnx.helper.make_tensor_value_info("images", 1, ["batch", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("logits", 1, ["batch", 5])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def rtx(source: Path, path: Path, **options: Any) -> EngineResult:
    return export_engine(source, path, flavour="tensorrt-rtx", **options)


def test_a_matching_engine_is_reused_and_any_other_is_built_anew(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.engine"
    first = rtx(small, path)
    written = path.stat().st_mtime_ns
    again = rtx(small, path)
    assert again.reused
    assert path.stat().st_mtime_ns == written
    assert again == EngineResult(**{**first.__dict__, "reused": True, "seconds": again.seconds})
    stored = json.loads((tmp_path / "small.engine.json").read_text())
    assert stored["key"]["version"] == first.version
    assert stored["key"]["gpu"] == stored["key"]["driver"] == first.machine["gpu"]
    assert stored["result"] == json.loads(json.dumps(first.to_dict()))
    assert not rtx(small, path, precision="fp16").reused
    assert not rtx(small, path, precision="fp16", profile=BatchProfile(1, 2, 4)).reused
    assert rtx(small, path, precision="fp16", profile=BatchProfile(1, 2, 4)).reused
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    assert not rtx(small, path, precision="fp16", profile=BatchProfile(1, 2, 4), samples=pixels).reused
    path.write_bytes(path.read_bytes()[:-10])
    assert not rtx(small, path, precision="fp16", profile=BatchProfile(1, 2, 4), samples=pixels).reused
    (tmp_path / "small.engine.json").write_text('{"schema": 1}')
    assert not rtx(small, path, precision="fp16", profile=BatchProfile(1, 2, 4), samples=pixels).reused
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]


def test_values_beyond_fp16_stay_in_fp32_in_the_engine_too(small: Path, tmp_path: Path) -> None:
    proto = onnx.load(small)
    (weight,) = (tensor for tensor in proto.graph.initializer if tensor.name == "w")
    weight.CopyFrom(onnx.numpy_helper.from_array(1e4 * onnx.numpy_helper.to_array(weight), "w"))
    loud = tmp_path / "loud.onnx"
    onnx.save(proto, loud)
    images = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    built = rtx(loud, tmp_path / "loud.engine", precision="fp16", samples=images)
    assert {"a", "b"} <= set(built.kept_fp32)
    assert built.layers == {"float16": 1, "float32": 1} or built.layers == {"float32": 2}
    assert built.top1_agreement == 1.0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 1, 4), "batch sizes 2, 1, 4: need 1 <= min <= opt <= max"),
        ((1, 8, 4), "batch sizes 1, 8, 4: need 1 <= min <= opt <= max"),
        ((0, 1, 1), "batch sizes 0, 1, 1: need 1 <= min <= opt <= max"),
    ],
)
def test_batch_sizes_out_of_order_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        BatchProfile(*sizes)


def test_what_cannot_be_built_is_refused_in_one_sentence(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.engine"

    def changed(**fields: Any) -> Path:
        proto = onnx.load(small)
        for name, value in fields.items():
            if name == "batch":
                proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = value
            elif name == "kind":
                proto.graph.input[0].type.tensor_type.elem_type = value
            else:
                node = next(node for node in proto.graph.node if node.name == name)
                node.op_type = value
        target = tmp_path / "changed.onnx"
        target.write_bytes(proto.SerializeToString())
        return target

    (tmp_path / "short.onnx").write_bytes(small.read_bytes()[:300])
    wrong = onnx.load(small)
    wrong.graph.initializer[0].dims[:] = [4, 1, 9, 3]
    (tmp_path / "wrong.onnx").write_bytes(wrong.SerializeToString())
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (tmp_path / "absent.onnx", {}, r"there is no .*absent\.onnx: export the model to onnx first"),
        (tmp_path / "short.onnx", {}, r"short\.onnx is not an? (valid )?ONNX"),
        (small, {"precision": "int4"}, "'int4' is not a precision of engines: choose from fp32, fp16"),
        (small, {"flavour": "trt"}, "'trt' is not a TensorRT flavour: choose from tensorrt, tensorrt-rtx"),
        (
            changed(batch=2),
            {"profile": BatchProfile(1, 2, 4)},
            r"takes 2 image\(s\) per call, batch sizes 1, 2, 4 were",
        ),
        (tmp_path / "wrong.onnx", {}, r"cannot take node 'conv' \(Conv\) of wrong\.onnx: "),
    ]
    for source, options, message in cases:
        with pytest.raises(ExportError, match=message) as raised:
            export_engine(source, path, **{"flavour": "tensorrt-rtx", **options})
        assert "\n" not in str(raised.value)
    with pytest.raises(ExportError, match=r"takes images: engines take one float32 input"):
        rtx(changed(kind=onnx.TensorProto.DOUBLE), path)
    with pytest.raises(
        ExportError, match=r"cannot take node 'relu' \(Det\) of changed\.onnx: there is no such operator"
    ):
        rtx(changed(relu="Det"), path)
    assert not path.exists()


def test_a_builder_without_memory_is_refused_with_the_remedy(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_rtx

    builder = tensorrt_rtx.Builder

    class Exhausted:
        """A builder that says what TensorRT's says when the device is full."""

        def __init__(self, logger: Any) -> None:
            self.logger, self.real = logger, builder(logger)

        def build_serialized_network(self, network: Any, config: Any) -> None:
            text = (
                "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 9 bytes.)"
            )
            self.logger.log(tensorrt_rtx.ILogger.ERROR, text)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    monkeypatch.setattr(tensorrt_rtx, "Builder", Exhausted)
    with pytest.raises(
        ExportError, match=r"ran out of memory while building small\.onnx for up to 8 images: lower the"
    ):
        rtx(small, tmp_path / "x.engine", profile=BatchProfile(1, 1, 8))


def test_what_is_missing_is_named_with_how_to_get_it(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_rtx

    for flavour, module in (("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(ExportError, match=rf"is missing .*: pip install 'slimsight\[{flavour}\]'"):
                export_engine(small, tmp_path / "x.engine", flavour=flavour)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
        with pytest.raises(ExportError, match="no CUDA device here: export on the target, or to tensorrt-rtx"):
            export_engine(small, tmp_path / "x.engine", flavour="tensorrt")


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, datatype: str, machine: Machine) -> None:
    """The other flavour, built by this one, on a machine whose engines say that they compute in ``datatype``."""
    import tensorrt_rtx

    tensors = [{"Name": "x", "Format/Datatype": datatype}]
    layers = [
        {"Name": name, "LayerType": "CaskConvolution", "Inputs": tensors, "Outputs": tensors, "Metadata": metadata}
        for name, metadata in (("a", "[ONNX Layer: conv]\u001e[ONNX Layer: relu]"), ("b", "[ONNX Layer: linear]"))
    ]
    inspector = SimpleNamespace(get_engine_information=lambda kind: json.dumps({"Layers": layers}))
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda blob: engine)
    fake = SimpleNamespace(**{**vars(tensorrt_rtx), "__version__": "10.13.3", "Runtime": lambda logger: runtime})
    monkeypatch.setitem(sys.modules, "tensorrt", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(to_tensorrt, "this_machine", lambda: machine)


def test_on_a_gpu_the_engine_is_read_by_its_inspector_and_times_of_kernels_are_kept(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.engine"
    on_a_gpu(monkeypatch, "Half", Machine("NVIDIA L4", "8.9", "13.0"))
    built = export_engine(small, path, precision="fp16")
    assert (built.flavour, built.version, built.read_from) == ("tensorrt", "10.13.3", "inspector")
    assert built.engine_layers == {"float16": 2}
    assert built.machine == {"gpu": "NVIDIA L4", "capability": "8.9", "driver": "13.0"}
    timing = tmp_path / "small.engine.timing"
    assert timing.stat().st_size > 0
    assert export_engine(small, path, precision="fp16").reused
    timing.write_bytes(b"not a cache")  # left aside, and written anew
    on_a_gpu(monkeypatch, "Half", Machine("NVIDIA L4", "8.9", "13.2"))
    assert not export_engine(small, path, precision="fp16").reused  # another driver
    assert timing.read_bytes() != b"not a cache"
    on_a_gpu(monkeypatch, "Half", Machine("NVIDIA H200", "9.0", "13.2"))
    assert not export_engine(small, path, precision="fp16").reused  # another GPU


def test_an_engine_of_another_precision_than_asked_for_is_refused(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.engine"
    for datatype, precision, message in (
        ("Row major linear FP32 format", "fp16", "TensorRT built computes node 'conv' in float32 where float16 was"),
        ("Half", "fp32", "TensorRT built computes node 'conv' in float16 where float32 was asked for"),
    ):
        on_a_gpu(monkeypatch, datatype, Machine("NVIDIA L4", "8.9", "13.0"))
        with pytest.raises(ExportError, match=message):
            export_engine(small, path, precision=precision)  # type: ignore[arg-type]
    assert not path.exists()
