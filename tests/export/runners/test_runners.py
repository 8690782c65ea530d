from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError, RuntimeMissing
from slimsight.export.runners import (
    CPU_PROVIDER,
    CUDA_PROVIDER,
    TENSORRT_PROVIDER,
    CompiledRunner,
    OnnxRunner,
    Pt2Runner,
    Runner,
    TorchRunner,
    in_onnxruntime,
    to_input,
)


@pytest.fixture(autouse=True)
def _threads_are_as_before():
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def _open_all(case) -> list[Runner]:
    return [TorchRunner(case.model, 1), Pt2Runner(case.pt2, 1), OnnxRunner(case.onnx, 1)]


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_all_runtimes_agree_at_several_batch_sizes_and_can_be_reopened(case):
    for runner in _open_all(case):
        for _ in range(2):
            with runner:
                for batch in (1, 5, 1):
                    images = to_input(case.images(batch))
                    with torch.inference_mode():
                        expected = case.model(torch.from_numpy(images)).numpy()
                    logits = runner.run(images)
                    assert logits.dtype == np.float32
                    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5, err_msg=runner.runtime)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_runners_say_what_they_are(case):
    named = [(runner.name, runner.runtime, runner.precision) for runner in _open_all(case)]
    assert named == [
        ("torch", "torch-cpu", "fp32"),
        ("model.pt2", "torch.export-cpu", "fp32"),
        ("model.onnx", "onnxruntime-cpu", "fp32"),
    ]


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_results_are_not_overwritten_by_the_next_call(case):
    for runner in _open_all(case):
        with runner:
            first = runner.run(to_input(case.images(2)))
            kept = first.copy()
            runner.run(np.zeros_like(to_input(case.images(2))))
            np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_wrong_use_is_refused(case):
    images = to_input(case.images(2))
    for runner in _open_all(case):
        with pytest.raises(ExportError, match=rf"{runner.name} is not open: call run\(\) inside"):
            runner.run(images)
        with runner:
            with pytest.raises(ExportError, match=f"{runner.name} is already open"):
                runner.__enter__()
            with pytest.raises(ExportError, match=r"images are float64 \(2, 3, 16, 16\): give float32 \(N, 3, H, W\)"):
                runner.run(images.astype(np.float64))
            with pytest.raises(ExportError, match=r"images are float32 \(0, 3, 16, 16\)"):
                runner.run(images[:0])
            if not isinstance(runner, TorchRunner):
                with pytest.raises(ExportError, match=r"takes images of \(3, 16, 16\), not \(3, 8, 16\)"):
                    runner.run(images[:, :, :8])


def test_torch_runner_pins_threads_and_gives_flags_back():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(12))
    model[2].eval()  # a frozen BatchNorm in a model that trains
    before = torch.get_num_threads()
    with TorchRunner(model, before + 1) as runner:
        assert torch.get_num_threads() == before + 1
        assert not any(module.training for module in model.modules())
        assert runner.run(np.ones((2, 3, 2, 2), np.float32)).shape == (2, 12)
    assert [module.training for module in model] == [True, True, False]
    assert model.training


def test_half_precision_is_named():
    with TorchRunner(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).bfloat16()) as runner:
        logits = runner.run(np.ones((1, 3, 2, 2), np.float32))
    assert (runner.precision, logits.dtype, logits.shape) == ("bf16", np.float32, (1, 2))


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_onnx_session_has_the_threads_asked_for(case):
    with OnnxRunner(case.onnx, threads=3) as runner:
        options = runner._session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert runner._session.get_providers() == ["CPUExecutionProvider"]
    assert runner._session is None


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_providers_never_fall_back(case, monkeypatch, capfd):
    with (
        pytest.raises(ExportError, match=r"has no FooExecutionProvider here: choose from .*CPUExecutionProvider"),
        OnnxRunner(case.onnx, provider="FooExecutionProvider"),
    ):
        pass
    ort = in_onnxruntime.import_onnxruntime()
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["FooExecutionProvider"])
    monkeypatch.setattr(
        in_onnxruntime,
        "open_session",
        lambda path, threads, provider: type("S", (), {"get_providers": lambda _: ["CPU"]})(),
    )
    with (
        pytest.raises(ExportError, match="cannot start FooExecutionProvider: its driver or libraries are missing"),
        OnnxRunner(case.onnx, provider="FooExecutionProvider"),
    ):
        pass
    assert capfd.readouterr() == ("", "")


def test_unusable_files_are_named(tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    (tmp_path / "junk.pt2").write_bytes(b"junk")
    for runner, message in (
        (OnnxRunner(tmp_path / "none.onnx"), r"there is no .*none\.onnx: export the model to onnx first"),
        (OnnxRunner(tmp_path / "junk.onnx"), r"ONNX Runtime cannot open .*junk\.onnx .*: export it again"),
        (Pt2Runner(tmp_path / "none.pt2", 3), r"there is no .*none\.pt2: export the model to pt2 first"),
        (Pt2Runner(tmp_path / "junk.pt2", 3), r"junk\.pt2 is not a \.pt2"),
    ):
        with pytest.raises(ExportError, match=message), runner:
            pass


def test_missing_onnxruntime_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with (
        pytest.raises(ExportError, match="ONNX Runtime is missing: pip install onnxruntime-gpu"),
        OnnxRunner(tmp_path / "any.onnx"),
    ):
        pass


def test_to_input():
    images = to_input(np.array([[[[0, 51, 255]]]], np.uint8))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images.ravel(), [0, 0.2, 1], rtol=1e-6)
    assert to_input(np.full((1, 1, 1, 1), 0.5)).dtype == np.float32
    with pytest.raises(ExportError, match=r"images are int64: give uint8 \(0 to 255\) or floating point \(0 to 1\)"):
        to_input(np.zeros((1, 3, 2, 2), np.int64))


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_images_that_mean_nothing_are_refused_in_one_sentence(case):
    images = to_input(case.images(5))
    spoiled = images.copy()
    spoiled[3, 1, 2, 2], spoiled[4, 0, 0, 0] = np.nan, np.inf
    for runner in _open_all(case):
        with runner:
            with pytest.raises(
                ExportError, match=rf"{runner.name} was given NaN or infinity in 2 of 5 images, the first .* image 3: "
            ):
                runner.run(spoiled)
            with pytest.raises(ExportError, match=r"images of \(16, 16, 3\), channels last \(NHWC\): .*\(3, 16, 16\);"):
                runner.run(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
            with pytest.raises(ExportError, match=r"images are float16 \(5, 3, 16, 16\): give float32"):
                runner.run(images.astype(np.float16))
            assert runner.run(images).shape == (5, 10)
            assert runner.device_ms is None


def test_what_a_model_does_not_take_is_said_by_the_runner():
    words = r"torch failed in torch-cpu on 2 images of 3x4x4 \(.*mat1 and mat2 shapes"
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with TorchRunner(model) as runner, pytest.raises(ExportError, match=words):
        runner.run(np.zeros((2, 3, 4, 4), np.float32))


class Exhausted(nn.Module):
    """Fails as torch does on a device that is full."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")


def test_out_of_memory_says_which_batch_and_what_to_do(tmp_path):
    with TorchRunner(Exhausted(), name="slim") as runner:
        with pytest.raises(
            ExportError,
            match=r"^slim ran out of memory in torch-cpu with 64 images of 3x2x2 in one call: give smaller batches$",
        ):
            runner.run(np.zeros((64, 3, 2, 2), np.float32))
        with pytest.raises(
            ExportError, match=r"with an image of 3x2x2 in one call: free some memory, or take a larger"
        ):
            runner.run(np.zeros((1, 3, 2, 2), np.float32))
    # A real allocation that ONNX Runtime cannot make: 2 ** 45 bytes a layer.
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Expand", ["images", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "two"], ["logits"]),
    ]
    stored = [
        onnx.numpy_helper.from_array(np.array(shape, np.int64), name)
        for name, shape in (("shape", [1 << 20, 1 << 20, 1, 3, 2, 2]), ("two", [1, 2]))
    ]
    images = helper.make_tensor_value_info("images", kind, ["batch", 3, 2, 2])
    logits = helper.make_tensor_value_info("logits", kind, [1, 2])
    graph = helper.make_graph(nodes, "huge", [images], [logits], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "a.onnx")
    words = r"a\.onnx ran out of memory in onnxruntime-cpu with 8 images of 3x2x2"
    with OnnxRunner(tmp_path / "a.onnx") as runner, pytest.raises(ExportError, match=words):
        runner.run(np.zeros((8, 3, 2, 2), np.float32))


def test_a_runtime_that_is_not_here_is_told_apart_from_a_bad_file(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "any.onnx").write_bytes(b"junk")
    available = in_onnxruntime.import_onnxruntime().get_available_providers()
    for provider in (CUDA_PROVIDER, TENSORRT_PROVIDER):
        words = "torch sees no GPU here" if provider in available else f"has no {provider} here: choose from"
        with pytest.raises(RuntimeMissing, match=words), OnnxRunner(tmp_path / "any.onnx", provider=provider):
            pass
    with pytest.raises(ExportError) as caught, OnnxRunner(tmp_path / "any.onnx"):
        pass
    assert not isinstance(caught.value, RuntimeMissing)


def test_what_tensorrt_computes_of_fp32_is_called_tf32(tmp_path):
    found = [
        OnnxRunner(tmp_path / "a.onnx", provider=provider).precision
        for provider in (CPU_PROVIDER, CUDA_PROVIDER, TENSORRT_PROVIDER)
    ]
    assert found == ["fp32", "fp32", "tf32"]
    assert OnnxRunner(tmp_path / "a.onnx", provider=TENSORRT_PROVIDER, precision="fp16").precision == "fp16"


def test_heavy_nodes_on_the_cpu_are_no_gpu_run():
    class Part:
        def __init__(self, ep_name: str, *types: str) -> None:
            self.ep_name = ep_name
            self._nodes = [type("N", (), {"name": f"net/{kind}", "op_type": kind})() for kind in types]

        def get_nodes(self):
            return self._nodes

    class Session:
        def get_provider_graph_assignment_info(self):
            return [
                Part(CUDA_PROVIDER, "Conv"),
                Part(CPU_PROVIDER, "Shape", "Gemm", "Conv"),
                Part(CPU_PROVIDER, "MatMul", "ConvTranspose"),
            ]

    assert in_onnxruntime._nodes_on_cpu(Session(), CUDA_PROVIDER) == "net/Gemm, net/Conv, net/MatMul and 1 more nodes"
    assert in_onnxruntime._nodes_on_cpu(Session(), CPU_PROVIDER) == ""


def test_compiled_runner_refuses_what_it_cannot_compile():
    from torch._inductor import config

    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Sigmoid()), np.ones((2, 3, 2, 2), np.float32)
    before = torch.get_num_threads()
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(RuntimeMissing, match=r"torch\.compile-cpu has no compiler here \(No working C\+\+ compiler"),
        CompiledRunner(model, before + 1, example=images),
    ):
        pass
    assert torch.get_num_threads() == before
    assert model.training, "as it was"

    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1) if x.sum() > 0 else x.flatten(1) * 2

    with CompiledRunner(Breaks()) as runner, pytest.raises(ExportError, match=r"torch\.compile cannot be compiled \("):
        runner.run(images)
