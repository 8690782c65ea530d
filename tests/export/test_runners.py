from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import ExportError
from export.runners import OnnxRunner, Pt2Runner, Runner, TorchRunner, in_onnxruntime, to_input


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
        (Pt2Runner(tmp_path / "junk.pt2", 3), r"junk\.pt2 is no \.pt2"),
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
