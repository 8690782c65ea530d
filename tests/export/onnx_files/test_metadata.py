"""Every exported file, opened again: what it says about itself is there, right, and readable without slimsight."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from slimsight.compress.data import Preprocessing, TensorBatches
from slimsight.compress.dynamic import DynamicClassifier, measure_usage, routed_cost
from slimsight.compress.errors import ExportError
from slimsight.compress.macs import count_macs
from slimsight.compress.models import Classifier
from slimsight.export.onnx_files.metadata import About, model_metadata, read_metadata
from slimsight.export.onnx_files.tidy import training_nodes
from slimsight.export.pt2.contents import read_pt2_metadata
from slimsight.export.pt2.export import export_pt2, load_pt2
from slimsight.export.routed.export import export_masked, export_routed
from slimsight.export.runners import import_onnxruntime
from slimsight.export.to_onnx import export_onnx

NAMES = (*(f"class {number}" for number in range(9)), "größe")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def normalised(net: nn.Module) -> Classifier:
    return Classifier(net, MEAN, STD).eval()


@pytest.mark.parametrize("opset", [18, 20])
def test_a_static_file_opened_again(to_mixed: Callable[[int], nn.Module], tmp_path: Path, opset: int) -> None:
    model, path = normalised(to_mixed(10)), tmp_path / "model.onnx"
    export_onnx(model, torch.rand(2, 3, 16, 16), path, opset=opset, about=About(recipe="ab12", classes=NAMES))
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [item.version for item in proto.opset_import if not item.domain] == [opset]
    assert training_nodes(proto.graph) == []
    found = read_metadata(path)
    macs = count_macs(model, torch.rand(1, 3, 16, 16)).total
    assert (found.version, found.recipe, found.macs, found.macs_mean) == (version("slimsight"), "ab12", macs, None)
    assert (found.classes, found.class_count, found.precision) == (NAMES, 10, "fp32")
    assert (found.mean, found.std) == (MEAN, STD)
    assert {key: found.all[key] for key in ("normalisation", "input_layout", "input_size", "input_range")} == {
        "normalisation": "inside the file",
        "input_layout": "NCHW",
        "input_size": "3x16x16",
        "input_range": "[0, 1]",
    }
    assert (found.all["Image.BitmapPixelFormat"], found.all["Image.NominalPixelRange"]) == ("Rgb8", "Normalized_0_1")


def test_equal_models_make_equal_bytes_that_onnx_runtime_alone_can_read(
    to_mixed: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    for name, model in (("a", to_mixed(7)), ("b", to_mixed(7))):
        export_onnx(normalised(model), torch.rand(1, 3, 16, 16), tmp_path / name, about=About("1", NAMES))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    session = import_onnxruntime().InferenceSession(str(tmp_path / "a"), providers=["CPUExecutionProvider"])
    assert tuple(json.loads(session.get_modelmeta().custom_metadata_map["classes"])) == NAMES
    names = [node.name for node in onnx.load(tmp_path / "a").graph.node]
    assert len(set(names)) == len(names)
    assert names[:3] == ["normalize/Sub", "normalize/Div", "net/Sub"]
    assert {"net.stem/Conv", "net.block.conv1/Conv", "net.depthwise/Conv", "net.fc/Gemm", "net.block/Add"} <= set(names)


def test_a_model_of_the_users_own_has_no_normalisation_to_tell_of(
    to_mixed: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    export_onnx(to_mixed(10), torch.rand(1, 3, 16, 16), tmp_path / "model.onnx")
    found = read_metadata(tmp_path / "model.onnx")
    assert (found.mean, found.std, found.recipe, found.classes) == (None, None, None, ())
    assert found.class_count == 10
    assert "input_range" not in found.all
    assert found.all["normalisation"].startswith("as the model was given")


@pytest.mark.parametrize(
    ("made", "resize"),
    [(Preprocessing(16, 18, "bicubic"), "18"), (Preprocessing(16, 16, "bicubic", stretch=True), "16x16")],
)
def test_onnx_and_pt2_files_say_how_an_image_becomes_their_input(
    to_mixed: Callable[[int], nn.Module], tmp_path: Path, made: Preprocessing, resize: str
) -> None:
    model, images = normalised(to_mixed(10)), torch.rand(2, 3, 16, 16)
    about = About("ab12", NAMES, preprocessing=made)
    export_onnx(model, images, tmp_path / "model.onnx", about=about)
    export_pt2(model, images, tmp_path / "model.pt2", model_metadata(model, images, 10, about))
    found = dict(read_metadata(tmp_path / "model.onnx").all)
    assert {key: found[key] for key in ("preprocessing", "resize", "crop", "interpolation", "input_channels")} == {
        "preprocessing": made.words,
        "resize": resize,
        "crop": "16x16",
        "interpolation": "bicubic",
        "input_channels": "RGB",
    }
    assert read_pt2_metadata(tmp_path / "model.pt2") == found
    extra = {"slimsight.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)  # without slimsight
    assert json.loads(extra["slimsight.json"]) == found
    with torch.inference_mode():
        assert torch.allclose(load_pt2(tmp_path / "model.pt2")(images), model(images), atol=1e-6)


def test_pt2_metadata_that_are_none(to_mixed: Callable[[int], nn.Module], tmp_path: Path) -> None:
    export_pt2(to_mixed(4), torch.rand(2, 3, 16, 16), tmp_path / "plain.pt2")
    assert read_pt2_metadata(tmp_path / "plain.pt2") is None
    with pytest.raises(ExportError, match=r"there is no .*absent\.pt2: export the model"):
        read_pt2_metadata(tmp_path / "absent.pt2")
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(ExportError, match="has no metadata that can be read"):
        read_pt2_metadata(tmp_path / "text.pt2")
    for content, words in (("[1]", "not texts by name"), ('{"a": 1}', "not texts by name"), ("{", "can be read")):
        with zipfile.ZipFile(tmp_path / "odd.pt2", "w") as archive:
            archive.writestr("archive/extra/slimsight.json", content)
        with pytest.raises(ExportError, match=words):
            read_pt2_metadata(tmp_path / "odd.pt2")


def test_names_that_do_not_fit_are_refused(to_mixed: Callable[[int], nn.Module], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="3 class names for 10 logits: give one name per logit"):
        export_onnx(to_mixed(10), torch.rand(1, 3, 16, 16), tmp_path / "a.onnx", about=About(classes=("a", "b", "c")))
    assert list(tmp_path.iterdir()) == []


def test_an_opset_that_the_model_cannot_have_is_refused_not_swapped(
    to_mixed: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(
        ExportError, match=r"Mixed has no ONNX form at opset 13: its operators need opset 18; ask for opset 18 or newer"
    ):
        export_onnx(to_mixed(10), torch.rand(1, 3, 16, 16), tmp_path / "old.onnx", opset=13)
    assert list(tmp_path.iterdir()) == []


class AlwaysDropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.fc(x.flatten(1)), 0.5, training=True)


def test_a_model_that_always_trains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"AlwaysDropping computes Dropout '.*' as in training even in eval mode"):
        export_onnx(AlwaysDropping(), torch.rand(1, 3, 2, 2), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_training_nodes_are_found_in_branches_too() -> None:
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    norm = make("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "rm", "rv"], name="inner", training_mode=1)
    branch = onnx.helper.make_graph([norm], "branch", [], [info("y", onnx.TensorProto.FLOAT, None)])
    choice = make("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    still = make("BatchNormalization", ["x", "s", "b", "m", "v"], ["w"], name="still")
    graph = onnx.helper.make_graph([still, choice], "graph", [], [])
    assert training_nodes(graph) == ["BatchNormalization 'inner'"] * 2


def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "theirs.onnx")
    with pytest.raises(ExportError, match=r"theirs\.onnx has no metadata of slimsight"):
        read_metadata(tmp_path / "theirs.onnx")


def test_dynamic_files_say_what_their_routes_cost(to_dynamic: Callable[..., DynamicClassifier], tmp_path: Path) -> None:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    model = to_dynamic(normalised(chain), 8, masks=3)
    with torch.no_grad():  # the first mask opens more than the others do
        model.router_list[0].keep[0], model.router_list[0].masks[0] = True, 1.0
    images = torch.rand(40, 3, 8, 8)
    cost = routed_cost(model, images[:1])
    found = measure_usage(model, cost, TensorBatches(images, torch.zeros(40, dtype=torch.int64), 40, shuffle=False))
    about = About(classes=NAMES[:5], macs_mean=found.macs_mean)
    export_masked(model, images[:2], tmp_path / "masked.onnx", about=about)
    export_routed(model, images[:2], tmp_path / "routed.onnx", about=about)
    masked, routed = read_metadata(tmp_path / "masked.onnx"), read_metadata(tmp_path / "routed.onnx")
    assert (masked.macs, masked.macs_mean) == (cost.total, None)
    assert routed.macs_mean == pytest.approx(found.macs_mean, abs=1e-3)
    assert found.macs.max() <= routed.macs < cost.total
    choices = np.unique(found.choices.numpy(), axis=0)
    assert 0 in choices[:, 0], "some image takes the widest mask"
    assert routed.macs == found.macs.max()
    for path in (tmp_path / "masked.onnx", tmp_path / "routed.onnx"):
        proto, told = onnx.load(path), read_metadata(path)
        onnx.checker.check_model(proto, full_check=True)
        assert training_nodes(proto.graph) == []
        assert proto.opset_import[0].version == 18
        assert (told.classes, told.class_count) == (NAMES[:5], 5)
        assert told.mean == MEAN
        assert told.all["normalisation"] == "inside the file"
