from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.errors import ExportError
from slimsight.compress.models import Classifier
from slimsight.export.parity.compare import (
    TOLERANCES,
    ParityResult,
    Tolerance,
    check_parity,
    compare_logits,
    tolerance_of,
)
from slimsight.export.parity.prove import Artifact, prove_parity
from slimsight.export.runners import CompiledRunner, OnnxRunner, Pt2Runner, TorchRunner
from slimsight.export.to_onnx import export_onnx

_ABOUT = {"artifact": "a", "runtime": "r", "precision": "fp32", "batch": 2}


def test_numbers_of_a_hand_made_case():
    reference = np.zeros((50, 4), np.float32)
    reference[:, 1] = 1
    candidate = reference.copy()
    candidate[0, 1] = 1.25  # 3 of 200 logits differ; the 0.99 quantile lies above the third largest
    candidate[1, 0] = 0.5
    candidate[2, 3] = 2.0  # another class wins
    result = compare_logits(reference, candidate, **_ABOUT, tolerance=Tolerance(3.0))
    assert result == ParityResult("a", "r", "fp32", 2, 2.0, 0.5, 0.98, False, median_abs=0.0)


def test_passes_up_to_the_tolerance():
    reference = np.array([[0.0, 1.0], [1.0, 0.0]])
    candidate = reference + np.array([[0.0, 0.5], [0.0, 0.0]])
    assert compare_logits(reference, candidate, **_ABOUT, tolerance=Tolerance(0.5)).passed
    assert not compare_logits(reference, candidate, **_ABOUT, tolerance=Tolerance(0.499)).passed
    assert compare_logits(reference, reference, **_ABOUT).passed


def test_lower_precision_is_judged_by_its_quantile_and_agreement():
    reference = np.tile(np.array([0.0, 1.0]), (200, 1))
    candidate = reference.copy()
    candidate[0] = (2.0, 1.0)  # one outlier of 400 logits, one image of 200
    about = _ABOUT | {"precision": "fp16"}
    assert not compare_logits(reference, candidate, **about, tolerance=Tolerance(1e-3, quantile=0.99)).passed
    assert compare_logits(
        reference, candidate, **about, tolerance=Tolerance(1e-3, quantile=0.99, agreement=0.99)
    ).passed
    assert compare_logits(reference, candidate, **about).passed, "the table's row"
    assert not compare_logits(reference, candidate, **_ABOUT, tolerance=Tolerance(1e-3, agreement=0.99)).passed


def test_the_limit_of_lower_precisions_grows_with_the_logits():
    reference = np.tile(np.array([0.0, 50.0]), (4, 1))
    candidate = reference + 0.2
    assert compare_logits(reference, candidate, **_ABOUT | {"precision": "fp16"}).passed
    assert not compare_logits(reference / 50, candidate / 50 + 0.2, **_ABOUT | {"precision": "fp16"}).passed
    assert not compare_logits(reference, candidate, **_ABOUT).passed, "in fp32 it does not"


def test_one_table_and_a_recipe_may_set_fp32_alone():
    assert tolerance_of("fp32").limit == 1e-4
    assert tolerance_of("fp32", fp32=0.5) == Tolerance(0.5)
    assert tolerance_of("fp16", fp32=0.5) == TOLERANCES["fp16"]
    with pytest.raises(ExportError, match="parity knows no tolerance for precision 'int4': it knows fp32, fp16"):
        tolerance_of("int4")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sides", [(True, False), (False, True), (True, True)])
def test_what_is_not_finite_never_passes(bad, sides):
    clean = np.tile(np.array([0.0, 1.0, 0.5]), (4, 1))
    pair = [clean.copy(), clean.copy()]
    for side, spoiled in zip(pair, sides, strict=True):
        if spoiled:
            side[1, 2] = bad
    for precision in ("fp32", "fp16"):
        result = compare_logits(
            *pair, **_ABOUT | {"precision": precision}, tolerance=Tolerance(math.inf, agreement=0.0)
        )
        assert (result.max_abs, result.p99_abs, result.top1_agreement) == (math.inf, math.inf, 0.75)
        assert not result.passed
        row = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert (row["max_abs"], row["p99_abs"], row["passed"]) == (None, None, False)


def test_row_has_the_names_of_the_report():
    row = compare_logits(np.eye(2), np.eye(2), **_ABOUT).to_dict()
    assert row == {
        "artifact": "a",
        "runtime": "r",
        "precision": "fp32",
        "batch": 2,
        "max_abs": 0.0,
        "p99_abs": 0.0,
        "top1_agreement": 1.0,
        "passed": True,
        "median_abs": 0.0,
    }


def test_shapes_must_fit():
    with pytest.raises(ExportError, match=r"a gave logits of shape \(2, 4\), the reference \(2, 3\): parity"):
        compare_logits(np.zeros((2, 3)), np.zeros((2, 4)), **_ABOUT)
    with pytest.raises(ExportError, match="at least one image"):
        compare_logits(np.zeros((0, 3)), np.zeros((0, 3)), **_ABOUT)


@pytest.mark.parametrize("batch", [1, 4])
def test_artefacts_equal_the_model(case, batch):
    images = case.images(5)
    for candidate in (OnnxRunner(case.onnx), Pt2Runner(case.pt2)):
        with TorchRunner(case.model) as reference, candidate:
            result = check_parity(reference, candidate, images, artifact=candidate.name, batch=batch)
        assert result.passed, result
        assert result.p99_abs <= result.max_abs <= 2e-5
        assert (result.artifact, result.runtime, result.batch) == (candidate.name, candidate.runtime, batch)


class Counting:
    """Logits that number the images; notes its batches."""

    name, runtime, precision = "counting", "none", "fp32"

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.sizes: list[int] = []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def run(self, images):
        self.sizes.append(len(images))
        return np.stack([images[:, 0, 0, 0], images[:, 0, 0, 0] + 1 + self.offset], axis=1)


def test_every_image_runs_and_the_last_batch_is_ragged():
    reference, candidate = Counting(), Counting(offset=0.25)
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    result = check_parity(reference, candidate, images, artifact="x", batch=3, tolerance=Tolerance(0.5))
    assert reference.sizes == candidate.sizes == [3, 3, 1]
    assert result.max_abs == pytest.approx(0.25, abs=1e-6)
    assert result.passed
    assert not check_parity(reference, candidate, images, artifact="x", batch=3).passed


def test_a_failure_is_reported_even_where_its_layer_cannot_be_found():
    def fail(image):
        assert image.shape == (1, 1, 1, 1)
        raise ExportError("no provider")

    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    pair = Counting(), Counting(offset=0.25)
    result = check_parity(*pair, images, artifact="x", batch=2, locate=fail)
    assert not result.passed
    assert result.first_difference == "differs in a layer that could not be found: no provider"
    result = check_parity(*pair, images, artifact="x", batch=2, locate=lambda image: None)
    assert result.first_difference == "differs in no layer by more than rounding on image 0 alone"
    assert check_parity(pair[0], pair[0], images, artifact="x", batch=2, locate=fail).first_difference is None


def test_needs_images():
    with pytest.raises(ExportError, match="x: 0 images in batches of 3; parity needs 1 or more of each"):
        check_parity(Counting(), Counting(), np.zeros((0, 3, 2, 2)), artifact="x", batch=3)


def test_images_that_are_no_numbers_are_refused_by_their_place():
    images = np.zeros((7, 1, 2, 2), np.float32)
    images[4, 0, 1, 1] = images[6, 0, 0, 0] = np.nan
    with pytest.raises(ExportError, match="x was given NaN or infinity in 2 of 7 images, the first of them image 4:"):
        check_parity(Counting(), Counting(), images, artifact="x", batch=3)


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


class Whole:
    """A model with its normalisation and its ONNX file, which tests may change a copy of."""

    def __init__(self, folder: Path, net: nn.Module) -> None:
        self.model, self.path, self.folder = Classifier(net, MEAN, STD).eval(), folder / "model.onnx", folder
        export_onnx(self.model, torch.rand(1, 3, 16, 16), self.path)
        self.images = np.random.default_rng(0).integers(0, 256, (9, 3, 16, 16), dtype=np.uint8)

    def changed(self, change: Callable[[onnx.ModelProto], None]) -> Artifact:
        proto = onnx.load(self.path)
        change(proto)
        onnx.save(proto, self.folder / "changed.onnx")
        return Artifact(self.folder / "changed.onnx", "changed.onnx", self.model, batches=(1, 4))

    def scaled(self, weight: str, factor: float) -> Artifact:
        def change(proto: onnx.ModelProto) -> None:
            (found,) = [tensor for tensor in proto.graph.initializer if tensor.name == weight]
            array = onnx.numpy_helper.to_array(found) * np.float32(factor)
            found.CopyFrom(onnx.numpy_helper.from_array(array, weight))

        return self.changed(change)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, to_mixed) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"), to_mixed(10))


def test_a_tampered_weight_is_found_in_its_layer(whole):
    found = prove_parity([whole.scaled("net.block.conv2.weight", 1.02)], whole.images)
    assert not found.passed
    for row in found.rows:
        assert row.first_difference.startswith("first differs in net.block.conv2/Conv: by ")
        place, before = re.search(r"value (\d+) of \d+; before it at most (\S+) of", row.first_difference).groups()
        assert int(place) == 9  # of Sub, Div (twice), Conv, Relu, Conv, Relu and this Conv
        assert float(before) <= 1e-5
        assert row.to_dict()["first_difference"] == row.first_difference


@pytest.mark.parametrize(("constant", "operator"), [("normalize.mean", "Sub"), ("normalize.std", "Div")])
def test_a_wrong_normalisation_is_found_where_it_is(whole, constant, operator):
    found = prove_parity([whole.scaled(constant, 1.01)], whole.images)
    assert {row.passed for row in found.rows} == {False}
    assert all(row.first_difference.startswith(f"first differs in normalize/{operator}: by") for row in found.rows)


def test_a_layer_that_is_gone_is_found(whole):
    def change(proto: onnx.ModelProto) -> None:
        relu = next(node for node in proto.graph.node if node.op_type == "Relu")
        relu.op_type = "Neg"

    first = prove_parity([whole.changed(change)], whole.images).rows[0]
    assert first.first_difference.startswith("first differs in net/Relu: by")


def test_runtimes_that_are_not_here_are_listed_with_their_reason(whole, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = prove_parity([Artifact(whole.path, "model.onnx", whole.model)], whole.images)
    assert found.passed
    ran, missing = ["onnxruntime-cpu"], ["onnxruntime-cuda", "onnxruntime-tensorrt"]
    (ran if find_spec("openvino") else missing).append("openvino-cpu")
    assert [(row.runtime, row.batch) for row in found.rows] == [(name, batch) for name in ran for batch in (1, 64)]
    assert [item.runtime for item in found.absent] == missing
    known = "torch sees no GPU here|ONNX Runtime has no .*ExecutionProvider here|pip install 'slimsight.openvino.'"
    for item in found.absent:
        assert item.artifact == "model.onnx"
        assert re.search(known, item.reason)


@pytest.mark.parametrize("case", ["mixed"], indirect=True)
def test_a_pt2_of_another_model_is_found_in_its_layer(case, to_mixed):
    other = to_mixed(10)
    with torch.no_grad():
        other.block.conv1.weight[3] += 0.5
    found = prove_parity([Artifact(case.pt2, "model.pt2", other, "pt2", batches=(2,))], case.images(5))
    assert [row.passed for row in found.rows] == [False]
    assert found.rows[0].first_difference.startswith("first differs in block.conv1: by")


def test_a_compiled_model_equals_itself(to_mixed):
    model, images = to_mixed(10), np.random.default_rng(1).random((4, 3, 16, 16), dtype=np.float32)
    with TorchRunner(model) as reference, CompiledRunner(model, example=images) as candidate:
        result = check_parity(reference, candidate, images, artifact="torch.compile", batch=4)
    assert result.passed, result
    assert result.runtime == "torch.compile-cpu"
    assert candidate.device_ms is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_every_provider_of_a_gpu_agrees_with_the_cpu(whole):
    found = prove_parity([Artifact(whole.path, "model.onnx", whole.model)], whole.images)
    assert {row.runtime for row in found.rows} | {item.runtime for item in found.absent} == {
        "onnxruntime-cpu",
        "onnxruntime-cuda",
        "onnxruntime-tensorrt",
        "openvino-cpu",
    }
    assert found.passed, found
    for runner in (OnnxRunner(whole.path, provider="CUDAExecutionProvider"), TorchRunner(whole.model.cuda())):
        with runner:
            runner.run(np.zeros((4, 3, 16, 16), np.float32))
            assert runner.device_ms > 0
    whole.model.cpu()
