"""``slimsight quantize`` and ``slimsight.quantize`` on files and models that no run made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import slimsight
from slimsight.compress.errors import ConfigError, DataError, ExportError
from slimsight.deploy.quantise.model import split_rows
from slimsight.export.int8.control import choose_float_layers
from slimsight.export.int8.prove import onnx_logits
from slimsight.export.onnx_files.layers_run import LayersRun
from slimsight.export.onnx_files.metadata import (
    CROP,
    INTERPOLATION,
    NORMALISATION,
    NORMALISED_INSIDE,
    RESIZE,
    stored_metadata,
    write_metadata_,
)
from slimsight.export.runners import choose

from ..conftest import Said

SIDE = 16
RANDOM = np.random.default_rng(0)


def network(path: Path, *, side: int = SIDE, metadata: dict[str, str] | None = None, ruined: bool = False) -> Path:
    """Two convolutions and a linear layer, as another exporter would write them.

    ``ruined``: one scale for the second's weight loses it: what it multiplies by 300 times the rest is always 0.
    """

    def weight(name: str, *shape: int) -> Any:
        values = np.random.default_rng(1).normal(0, 0.3, shape).astype(np.float32)
        if ruined and name == "a":
            values[0] = -np.abs(values[0])
        if ruined and name == "d":
            values[:, 0] *= 300
        return numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["images", "a"], ["b"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "d"], ["e"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["g"], name="flatten"),
        helper.make_node("Gemm", ["g", "h"], ["logits"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [weight("a", 16, 3, 3, 3), weight("d", 16, 16, 3, 3), weight("h", 16, 5)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_metadata_(proto, metadata or {})
    onnx.save(proto, path)
    return path


def pictures(folder: Path, count: int, side: int = 20) -> Path:
    """Flat colours with noise, in two class folders; their level rises with their name."""
    for number in range(count):
        place = folder / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        pixels = RANDOM.integers(0, 60, (side, side, 3)) + number * 190 // count
        Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number:03d}.png")
    return folder


def test_a_file_is_quantised_with_a_folder_and_proven_on_other_images(say: Callable[..., Said], tmp_path: Path) -> None:
    source, folder = network(tmp_path / "theirs.onnx"), pictures(tmp_path / "train", 50)
    said = say("quantize", source, "--images", folder, "--calibration", 36, "--json", tmp_path / "out.json")
    assert said.code == 0, said.err
    path = tmp_path / "theirs.int8.onnx"
    assert said.out.splitlines()[-1] == f"file: {path}"
    assert "36 images, by minmax; proven on 14 other images" in said.out
    assert "ok: " in said.out
    assert "3 of 3 layers in integers" in said.out
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (found["calibration_images"], found["held_out_images"], found["form"]) == (36, 14, "u8")
    assert found["runtimes"][0]["integer_layers"] == 3
    assert found["size_bytes"] == path.stat().st_size
    stored = stored_metadata(onnx.load(path))
    assert (stored["int8_calibration_source"], stored["precision"]) == ("images of the folder train", "int8")
    assert say("quantize", source, "--images", folder, "--form", "s8").code == 0  # beside it, and again over it
    assert say("quantize", source, "--images", folder, "--form", "s8").code == 0
    assert stored_metadata(onnx.load(tmp_path / "theirs.int8.trt.onnx"))["int8_form"] == "s8"


def test_images_are_cut_as_the_file_says_and_normalised_as_is_asked(say: Callable[..., Said], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "train", 33, side=24)
    stated = network(tmp_path / "a.onnx", metadata={RESIZE: "24", CROP: "16x16", INTERPOLATION: "bilinear"})
    plain = network(tmp_path / "b.onnx")
    for source, options in ((stated, ()), (plain, ()), (plain, ("--mean", "0.5,0.5,0.5", "--std", ".25,.25,.25"))):
        out = tmp_path / f"{source.stem}{len(options)}.onnx"
        assert say("quantize", source, "--images", folder, "--out", out, *options).code == 0

    def scale(name: str) -> float:
        graph = onnx.load(tmp_path / name).graph
        return float(next(numpy_helper.to_array(t) for t in graph.initializer if t.name == "images_scale"))

    cut = stored_metadata(onnx.load(tmp_path / "a0.onnx"))["int8_calibration_sha256"]
    assert cut != stored_metadata(onnx.load(tmp_path / "b0.onnx"))["int8_calibration_sha256"]
    assert 0.7 / 255 < scale("b0.onnx") <= 1 / 255
    # (x - .5) / .25 of a range that reaches from below .1 to above .8
    assert scale("b4.onnx") == pytest.approx(4 * scale("b0.onnx"), rel=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "few"), r"there are 31 images to calibrate on: INT8 needs at least 32"),
        (("--images", "none"), r"none contains no images"),
        (("--images", "absent"), r"absent does not exist: give a folder of images"),
        (("--images", "train", "--calibration", "31"), r"31 calibration images were asked for: INT8 needs at least 32"),
        (("--images", "train", "--method", "entropie"), r"method is 'entropie'.*entropy.*choose from minmax, entropy"),
        (("--images", "train", "--form", "u4"), r"form is 'u4'.*choose from u8, s8"),
        (("--images", "train", "--weights", "per_row"), r"weights is 'per_row'.*choose from per_channel, per_tensor"),
        (("--images", "train", "--agreement", "97"), r"--agreement: '97' is not a valid agreement: give a share"),
        (("--images", "train", "--sqnr", "0"), r"sqnr_db is 0\.0: give a signal to noise ratio above 0"),
        (("--images", "train", "--max-float-layers", "0"), r"max_float_layers is 0: give 1 or more"),
        (("--images", "train", "--max-float-layers", "3"), r"without a limit to keep: give --agreement or --sqnr"),
        (("--images", "train", "--sqnr", "9"), r"4 training images are left to choose FP32 layers on.*at least 32"),
        (("--images", "train", "--qat-epochs", "-1"), r"qat_epochs is -1: give 0 \(no training\) to 1000"),
        (("--images", "train", "--qat-epochs", "1"), r"32 images are left to train on.*needs at least 64: give more"),
        (("--images", "train", "--mean", "0,0,0"), r"--mean and --std belong together"),
        (("--images", "train", "--mean", "0,0", "--std", "1,1,1"), r"--mean is '0,0': give three numbers"),
        (("--images", "train", "--mean", "0,0,0", "--std", "1,0,1"), r"--std is '1,0,1': give three numbers above 0"),
        (("--images", "train", "--out", "model.onnx"), r"model\.onnx is the file that would be read"),
        (("--images", "train", "--out", "notes.txt"), r"notes\.txt is no name of an ONNX file"),
        (("--images", "train", "--out", "other.onnx"), r"other\.onnx exists and is no INT8 file of slimsight"),
    ],
)
def test_wrong_options_are_one_sentence_and_lose_nothing(
    options: tuple[str, ...], message: str, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "model.onnx")
    network(tmp_path / "other.onnx", side=8)
    pictures(tmp_path / "train", 40)
    pictures(tmp_path / "few", 31)
    (tmp_path / "none").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = say("quantize", "model.onnx", *options)
    assert (said.code, said.out) == (2, "")
    assert len(said.err.strip().splitlines()) == 1
    assert re.search(message, said.err), said.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_no_classifier_or_normalises_itself_is_refused(say: Callable[..., Said], tmp_path: Path) -> None:
    folder, source = pictures(tmp_path / "train", 33), network(tmp_path / "model.onnx")
    proto = onnx.load(source)
    del proto.graph.node[3:]
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("e", TensorProto.FLOAT, ["batch", 16, SIDE, SIDE]))
    onnx.save(proto, tmp_path / "maps.onnx")
    said = say("quantize", tmp_path / "maps.onnx", "--images", folder)
    assert (said.code, "gives an output of shape (1, 16, 16, 16): a classifier gives" in said.err) == (2, True)
    ours = network(tmp_path / "ours.onnx", metadata={NORMALISATION: NORMALISED_INSIDE})
    said = say("quantize", ours, "--images", folder, "--mean", "0,0,0", "--std", "1,1,1")
    assert (said.code, "normalises its images itself: leave --mean and --std out" in said.err) == (2, True)
    assert not list(tmp_path.glob("*int8*"))


def test_a_file_of_fixed_batch_size_needs_no_more_images(say: Callable[..., Said], tmp_path: Path) -> None:
    proto = onnx.load(network(tmp_path / "model.onnx"))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 64
    onnx.save(proto, tmp_path / "fixed.onnx")
    said = say("quantize", tmp_path / "fixed.onnx", "--images", pictures(tmp_path / "train", 40))
    assert (said.code, "3 of 3 layers in integers" in said.out) == (0, True)


def test_an_int8_file_is_not_quantised_again(say: Callable[..., Said], tmp_path: Path) -> None:
    source, folder = network(tmp_path / "model.onnx"), pictures(tmp_path / "train", 33)
    assert say("quantize", source, "--images", folder).code == 0
    said = say("quantize", tmp_path / "model.int8.onnx", "--images", folder)
    assert (said.code, "is quantised already" in said.err) == (2, True)


def test_a_runtime_that_computes_something_else_is_exit_1(
    say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = LayersRun(("first",), (), ("first",), ())
    runtime = replace(choose.RUNTIMES["onnxruntime-cpu"], precision_readback=lambda _path: layers)
    monkeypatch.setattr(choose, "RUNTIMES", {runtime.name: runtime})
    said = say("quantize", network(tmp_path / "model.onnx"), "--images", pictures(tmp_path / "train", 33))
    assert said.code == 1
    assert "onnxruntime-cpu does not compute what " in said.err
    assert "it quantises layers that the file keeps in FP32: first" in said.err


RUINED = ("--weights", "per_tensor", "--sqnr", "25", "--calibration", "64")


def test_a_layer_that_ruins_the_file_stays_in_fp32_and_the_terminal_says_which(
    say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = network(tmp_path / "model.onnx", ruined=True), pictures(tmp_path / "train", 130)
    said = say("quantize", source, "--images", folder, *RUINED, "--json", tmp_path / "out.json")
    assert said.code == 0, said.err
    assert re.search(
        r"accuracy control: 1 layer in FP32 \(second\): same class .* on 33 training images, .* takes [0-9.]+ times \[",
        said.out,
    )
    assert "in FP32 in onnxruntime-cpu: second" in said.out
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    control = found["accuracy_control"]
    assert (found["held_out_images"], control["images"], control["reached"]) == (33, 33, True)
    assert control["before"]["sqnr_db"] < 25 <= control["after"]["sqnr_db"]
    assert [row["layer"] for row in control["sensitivity"]] == ["first", "second", "fc"]
    said = say("quantize", source, "--images", folder, *RUINED, "--sqnr", "99", "--max-float-layers", "1")
    assert (said.code, "misses its limits (SQNR at least 99.0 dB) with at most 1 layer in FP32" in said.err) == (
        1,
        True,
    )

    def without_barrier(*arguments: Any, **options: Any) -> Any:
        chosen = choose_float_layers(*arguments, **options)
        monkeypatch.setattr("slimsight.export.int8.quantise.keep_in_float_", lambda *_arguments: None)
        return chosen

    monkeypatch.setattr("slimsight.export.int8.make.choose_float_layers", without_barrier)  # as other tools write it
    said = say("quantize", source, "--images", folder, *RUINED)
    assert (said.code, "onnxruntime-cpu does not compute what " in said.err) == (1, True)
    assert "it quantises layers that the file keeps in FP32: second" in said.err


def test_training_with_rounding_brings_back_what_one_scale_ruins(say: Callable[..., Said], tmp_path: Path) -> None:
    source, folder = network(tmp_path / "model.onnx", ruined=True), pictures(tmp_path / "train", 130)
    asked = ("quantize", source, "--images", folder, *RUINED, "--json", tmp_path / "out.json")
    said = say(*asked, "--qat-epochs", "2")
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (said.code, "quantisation-aware training: " in said.out) == (0, True), said.err
    assert (found["qat"]["epochs"], found["qat"]["score"]) == (2, "agreement")
    assert found["qat"]["kept"]
    assert found["qat"]["after"]["divergence"] < found["qat"]["before"]["divergence"]
    assert found["runtimes"][-1]["runtime"] == "pytorch, as trained"
    assert found["accuracy_control"]["layers_kept"] == ["second"]  # one scale cannot hold it, whatever is trained


def test_some_images_are_held_out_as_far_as_32_are_left() -> None:
    for total, wanted, controlled, calibrated, held in (
        (1000, 256, False, 256, 128),
        (300, 256, False, 240, 60),
        (40, 256, False, 32, 8),
        (32, 32, False, 32, 0),
        (1000, 256, True, 256, 256),
        (130, 256, True, 66, 64),
    ):
        rows, others = split_rows(total, wanted, controlled=controlled)
        assert (len(rows), len(others)) == (calibrated, held)
        assert not set(rows.tolist()) & set(others.tolist())


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def loader(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Normalised images, as a user's loader gives them."""
    torch.manual_seed(count)
    for start in range(0, count, 8):
        number = min(8, count - start)
        yield torch.randn(number, 3, SIDE, SIDE) + torch.randn(number, 3, 1, 1), torch.zeros(number, dtype=torch.long)


def test_a_saved_slim_model_is_quantised_in_python(tmp_path: Path) -> None:
    torch.manual_seed(0)
    traced = slimsight.trace(Tiny(), torch.randn(2, 3, SIDE, SIDE))
    scores = {name: torch.rand(16) for name in (group.name for group in traced.graph.groups)}
    slimmed = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.6))
    slimsight.save(slimmed, tmp_path / "slim")
    images = torch.cat([batch for batch, _ in loader(100)])
    made = slimsight.quantize(tmp_path / "slim", loader(100), tmp_path / "folder.onnx", images=40)
    assert (made.images, made.held_out, made.proof.passed) == (40, 60, True)
    with torch.inference_mode():
        exact = slimmed.model.eval()(images).numpy()
    found = onnx_logits(made.path, images.numpy())
    assert np.quantile(np.abs(found - exact), 0.99) < 0.05 * np.abs(exact).max()
    again = slimsight.quantize(slimmed, loader(100), tmp_path / "model.onnx", images=40)
    assert np.allclose(onnx_logits(again.path, images.numpy()), found, atol=1e-5)
    assert made.to_dict()["held_out_images"] == 60
    trained = slimsight.quantize(slimmed, loader(240), tmp_path / "trained.onnx", images=40, qat_epochs=1)
    assert trained.qat is not None
    assert (trained.qat.epochs, trained.images, trained.held_out) == (1, 40, 128)


def test_a_loader_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    source, out = network(tmp_path / "model.onnx"), tmp_path / "int8.onnx"
    with pytest.raises(ExportError, match=r"the loader's first images\) are 24: INT8 needs at least 32"):
        slimsight.quantize(source, loader(24), out)
    with pytest.raises(ExportError, match=r"31 calibration images were asked for"):
        slimsight.quantize(source, loader(64), out, images=31)
    with pytest.raises(DataError, match="the loader yields no batches"):
        slimsight.quantize(source, [], out)
    with pytest.raises(ExportError, match=r"are 16 x 16 pixels, model\.onnx takes 8 x 8"):
        slimsight.quantize(network(tmp_path / "model.onnx", side=8), loader(64), out)
    with pytest.raises(ConfigError, match="method is 'kl'"):
        slimsight.quantize(source, loader(64), out, method="kl")  # type: ignore[arg-type]
    assert not out.exists()
