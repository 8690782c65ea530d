"""Quantisation-aware training: rounding and its gradients, the graph in PyTorch, and the file that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.data import TensorBatches
from slimsight.compress.errors import ExportError
from slimsight.compress.training import Learning, make_fabric
from slimsight.export.config import QatConfig
from slimsight.export.int8.calibration import Calibration
from slimsight.export.int8.control import Control, ControlImages, KeptLimits
from slimsight.export.int8.fake_quantise import FakeQuantise, round_bias, round_weight, weight_scale
from slimsight.export.int8.fidelity import compare_fidelity
from slimsight.export.int8.make import make_int8
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.int8.qat import AS_TRAINED, Qat, QatScore, check_trainable, judge_trained, train_int8_
from slimsight.export.int8.quantise import Quantiser, Scheme
from slimsight.export.int8.torch_graph import read_graph
from slimsight.export.int8.trainable import TrainableInt8
from slimsight.export.onnx_files.metadata import read_metadata
from slimsight.export.onnx_files.quantised import Form
from slimsight.export.to_onnx import export_onnx

from .conftest import SIDE, Quantised, images

TRAINED = images(96, seed=5)
VALIDATED = images(64, seed=6)


@pytest.fixture(scope="module")
def unlike(to_mixed: Callable[[int], nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose channels between two convolutions are of unlike size: no one scale fits them."""
    model, path = to_mixed(10), tmp_path_factory.mktemp("unlike") / "model.onnx"
    with torch.no_grad():
        factors = 2.0 ** torch.linspace(-5, 5, model.block.bn1.num_features)
        model.block.bn1.weight.mul_(factors)
        model.block.bn1.bias.mul_(factors)
        model.block.conv2.weight.div_(factors.reshape(1, -1, 1, 1))
    export_onnx(model, torch.rand(2, 3, SIDE, SIDE), path)
    return path


@pytest.fixture
def quantiser(unlike: Path, calibration: Calibration) -> Iterator[Quantiser]:
    with Quantiser(unlike, calibration, Scheme()) as entered:
        yield entered


def batches(pixels: np.ndarray, fp32: Path, *, shuffle: bool) -> TensorBatches:
    labels = torch.from_numpy(onnx_logits(fp32, pixels).argmax(1))
    return TensorBatches(torch.from_numpy(pixels), labels, 16, shuffle=shuffle)


def to_qat(fp32: Path, *, epochs: int = 3, lr: float = 5e-4) -> Qat:
    train, validation = (batches(TRAINED, fp32, shuffle=True), batches(VALIDATED, fp32, shuffle=False))
    return Qat(QatConfig(epochs=epochs, lr=lr), train, validation, Learning(make_fabric()), labelled=False)


def test_rounding_has_the_gradients_of_learned_step_size_quantisation() -> None:
    values = torch.tensor([-0.3, 0.0, 0.26, 0.99, 7.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    rounded = FakeQuantise.apply(values, scale, 1, 0, 5)  # values -0.5 to 2
    assert rounded.tolist() == [-0.5, 0.0, 0.5, 1.0, 2.0]
    rounded.sum().backward()
    assert values.grad is not None
    assert scale.grad is not None
    assert values.grad.tolist() == [1, 1, 1, 1, 0]
    inside = sum(round(value) - value for value in (-0.6, 0.0, 0.52, 1.98))  # Esser et al., Eq. 3
    assert float(scale.grad) == pytest.approx(inside + 4, abs=1e-5)


def test_weights_and_biases_are_rounded_as_the_file_holds_them_and_keep_their_gradient() -> None:
    weight = torch.tensor([[[0.5, -1.27]], [[0.0, 0.0]]], requires_grad=True)
    scale = weight_scale(weight, 0)
    assert scale.flatten().tolist() == pytest.approx([0.01, 1.0])
    rounded = round_weight(weight, scale)
    assert (rounded / scale).round().flatten().tolist() == [50, -127, 0, 0]
    rounded.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [1, 1, 1, 1]
    assert weight_scale(weight, None).shape == (1, 1, 1)
    bias = torch.tensor([0.123, -0.5])
    assert round_bias(bias, torch.tensor(0.1), scale).tolist() == pytest.approx([0.123, -0.5], abs=5e-2)
    # A bias of 2^31 - 1 steps fits, one of more widens the steps.
    wide = weight_scale(torch.full((1, 1), 1.27e-7), 0, bias=torch.tensor([10.0]), input_scale=torch.tensor(1e-3))
    assert float(wide) == pytest.approx(10 * 1.0001 / (2**31 - 1) / 1e-3, rel=1e-4)


@pytest.mark.parametrize("form", ["u8", "s8"])
def test_the_graph_in_pytorch_computes_what_the_file_says(
    mixed: Quantised, calibration: Calibration, form: Form
) -> None:
    with Quantiser(mixed.fp32, calibration, Scheme(form)) as quantiser:
        model = TrainableInt8(read_graph(quantiser.to_graph().graph, quantiser.exact.graph, "model.onnx"))
        exact = TrainableInt8(read_graph(quantiser.exact.graph, quantiser.exact.graph, "model.onnx"))
    pixels = torch.from_numpy(VALIDATED).float() / 255
    with torch.inference_mode():
        logits, floats = model(pixels).numpy(), exact(pixels).numpy()
    own = onnx_logits(mixed.made[form].path, VALIDATED, optimised=False)
    assert compare_fidelity(own, logits).p99 < 0.02
    assert compare_fidelity(own, logits).sqnr_db > compare_fidelity(own, floats).sqnr_db + 3
    assert compare_fidelity(onnx_logits(mixed.fp32, VALIDATED), floats).p99 < 1e-5


def test_training_brings_back_what_calibration_loses_and_the_file_is_what_was_trained(
    quantiser: Quantiser, unlike: Path, tmp_path: Path
) -> None:
    exact = onnx_logits(unlike, VALIDATED)
    before = compare_fidelity(exact, onnx_logits(quantiser.write(tmp_path / "before.onnx").path, VALIDATED))
    found = train_int8_(quantiser, to_qat(unlike))
    assert found.kept
    assert found.after.divergence < 0.5 * found.before.divergence
    assert found.proof is not None
    assert (found.proof.runtime, found.proof.passed) == (AS_TRAINED, True)
    made = quantiser.write(tmp_path / "after.onnx")
    assert compare_fidelity(exact, onnx_logits(made.path, VALIDATED)).sqnr_db > before.sqnr_db + 3
    assert (made.float_layers, read_metadata(made.path).all["int8_qat_epochs"]) == ((), str(found.best_epoch))
    assert set(made.layers) == set(quantiser.layers)


def test_a_training_that_makes_it_worse_is_dropped_and_the_calibrated_file_stays(
    quantiser: Quantiser, unlike: Path, tmp_path: Path
) -> None:
    before = quantiser.write(tmp_path / "before.onnx").path.read_bytes()
    found = train_int8_(quantiser, to_qat(unlike, epochs=1, lr=3.0))
    assert (found.kept, found.proof) == (False, None)
    assert not found.after.better_than(found.before)
    assert quantiser.write(tmp_path / "after.onnx").path.read_bytes() == before


def test_nothing_is_trained_where_the_calibrated_file_keeps_its_limits(
    unlike: Path, calibration: Calibration, tmp_path: Path
) -> None:
    def made_with(sqnr_db: float) -> QatScore | None:
        control = Control(KeptLimits(sqnr_db=sqnr_db), ControlImages(images(64, seed=4)), 1)
        made = make_int8(
            unlike, tmp_path / "m.onnx", calibration, VALIDATED, scheme=Scheme(), control=control, qat=to_qat(unlike)
        )
        assert ("qat" in made.to_dict()) == (made.qat is not None)
        if made.qat is None:
            return None
        assert made.proof.runtimes[-1].runtime == AS_TRAINED
        return made.qat.after

    assert made_with(1) is None
    assert made_with(90) is not None


def test_a_file_may_differ_from_what_was_trained_as_far_as_its_own_logits_move() -> None:
    draw = np.random.default_rng(0)
    own = draw.normal(size=(64, 10)).astype(np.float32)
    far = own + draw.normal(0, 0.1, own.shape).astype(np.float32)
    assert judge_trained(own, own, own).passed
    assert not judge_trained(own, own, far).passed
    assert judge_trained(own, own + (far - own) * 0.6, far).passed
    assert not judge_trained(own, own + (far - own) * 0.3, far).passed
    assert not judge_trained(own, far, np.full_like(own, np.nan)).passed


def test_equal_predictions_are_told_apart_by_divergence() -> None:
    few, many = QatScore(0.9, 0.5), QatScore(0.9, 0.4)
    assert many.better_than(few)
    assert not few.better_than(few)
    assert replace(few, right=0.91).better_than(many)


def test_a_relu_and_what_it_reads_have_one_scale_as_the_library_makes_them(
    mixed: Quantised, calibration: Calibration
) -> None:
    with Quantiser(mixed.fp32, calibration, Scheme("s8")) as quantiser:
        exact = quantiser.exact.graph
        graph = read_graph(quantiser.to_graph().graph, exact, "model.onnx")
    given = {node.input[0] for node in exact.node if node.op_type in ("Relu", "Clip")}
    outputs = {f"{node.output[0]}_scale" for node in exact.node if node.op_type in ("Relu", "Clip")}
    assert outputs <= {*graph.scales}
    assert not {f"{name}_scale" for name in given} & {*graph.scales}


def test_operators_that_are_not_trained_are_refused_by_name(mixed: Quantised, tmp_path: Path) -> None:
    check_trainable(mixed.fp32, "model.onnx")
    proto = onnx.load(mixed.fp32)
    proto.graph.node.append(onnx.helper.make_node("Softplus", [proto.graph.output[0].name], ["soft"], name="soft"))
    proto.graph.output[0].name = "soft"
    onnx.save(proto, tmp_path / "soft.onnx")
    with pytest.raises(ExportError, match=r"soft.onnx has operators .*\(Softplus\)"):
        check_trainable(tmp_path / "soft.onnx", "soft.onnx")
    fixed = onnx.load(mixed.fp32)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, tmp_path / "fixed.onnx")
    with pytest.raises(ExportError, match=r"fixed\.onnx takes 2 images a call"):
        check_trainable(tmp_path / "fixed.onnx", "fixed.onnx")
