"""Masked and routed files against torch, on networks with every kind of layer that routes meet."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.dynamic import DynamicClassifier
from slimsight.compress.errors import ExportError
from slimsight.compress.models import build_classifier
from slimsight.export.parity.prove import route_agreement, run_routes
from slimsight.export.routed.export import dense_graph, export_masked, export_routed, write_routed
from slimsight.export.runners import OpenVinoRunner

Build = Callable[..., DynamicClassifier]
IMAGES = 12


def images(side: int) -> np.ndarray:
    """Smooth pictures that differ in brightness and colour, so that routes do too."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.random((IMAGES, 3, 4, 4), dtype=np.float32))
    return nn.functional.interpolate(coarse, side, mode="bilinear").numpy()


def conv_channels(graph: onnx.GraphProto) -> set[tuple[int, ...]]:
    """Shapes of all convolution weights, in branches too."""
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = {stored[node.input[1]] for node in graph.node if node.op_type == "Conv" and node.input[1] in stored}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= conv_channels(attribute.g)
    return found


@pytest.mark.parametrize("name", ["resnet20", "mobilenetv2"])
def test_masked_and_routed_files_compute_what_torch_does(name: str, to_dynamic: Build, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = to_dynamic(build_classifier(ModelConfig(name=name), 10), 32, masks=2)
    pictures = images(32)
    with torch.no_grad():
        routing = model.routed(torch.from_numpy(pictures))
    expected, scale = routing.logits.numpy(), routing.logits.abs().max().item()
    routes = np.stack([scores.argmax(1).numpy() for scores in routing.scores], 1)
    assert len(np.unique(routes, axis=0)) > 2
    export_masked(model, torch.rand(2, 3, 32, 32), tmp_path / "masked.onnx")
    for batch in (1, 7):
        logits, taken = run_routes(tmp_path / "masked.onnx", pictures, batch=batch)
        assert np.array_equal(taken, routes)
        assert np.abs(logits - expected).max() <= 1e-4 * max(1.0, scale)
    dense = dense_graph(model, torch.rand(2, 3, 32, 32))
    for route in ("out", "in_out"):
        path = tmp_path / f"{route}.onnx"
        write_routed(dense, model, path, route=route)
        logits, taken = run_routes(path, pictures)
        assert np.array_equal(taken, routes), route
        assert np.abs(logits - expected).max() <= 1e-4 * max(1.0, scale), route
        with OpenVinoRunner(path) if find_spec("openvino") else nullcontext() as runner:
            rows = [runner.run(pictures[k : k + 1]) for k in range(IMAGES)] if runner is not None else [expected]
        assert np.abs(np.concatenate(rows) - expected).max() <= 1e-4 * max(1.0, scale), route
    assert route_agreement(model, path, pictures) == 1.0


def two_layers(to_dynamic: Build) -> DynamicClassifier:
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )
    return to_dynamic(chain, 8, masks=3)


def test_branches_hold_slices_and_equal_masks_share_them(to_dynamic: Build, tmp_path: Path) -> None:
    model = two_layers(to_dynamic)
    first, second = model.router_list
    different = export_routed(model, torch.rand(1, 3, 8, 8), tmp_path / "a.onnx", route="in_out")
    assert different.masks == (3, 3)
    assert different.branches == 3 + 9 + 3  # conv 2 and the next head; conv 5 by both choices; the linear layer
    # Half of the channels are open, in and out: nothing in the file is wider than the stem.
    assert conv_channels(onnx.load(tmp_path / "a.onnx").graph) == {(8, 3, 3, 3), (6, 8, 3, 3), (8, 6, 3, 3)}
    with torch.no_grad():
        for router in (first, second):
            router.keep[1], router.masks[1] = router.keep[0], router.masks[0]
    shared = export_routed(model, torch.rand(1, 3, 8, 8), tmp_path / "b.onnx", route="in_out")
    assert shared.masks == (2, 2)
    assert shared.branches == 2 + 4 + 2
    assert shared.weight_bytes < different.weight_bytes
    pictures = images(8)
    logits, taken = run_routes(tmp_path / "b.onnx", pictures)
    with torch.no_grad():
        routing = model.routed(torch.from_numpy(pictures))
    assert np.abs(logits - routing.logits.numpy()).max() <= 1e-5
    # Routes keep the masks' own numbers, whether they share a branch or not.
    assert np.array_equal(taken, np.stack([s.argmax(1).numpy() for s in routing.scores], 1))
    assert 1 in taken


def test_one_mask_needs_no_branch(to_dynamic: Build, tmp_path: Path) -> None:
    model = two_layers(to_dynamic)
    with torch.no_grad():
        for router in model.router_list:
            router.keep.copy_(router.keep[:1].clone())
            router.masks.copy_(router.masks[:1].clone())
    export_routed(model, torch.rand(1, 3, 8, 8), tmp_path / "routed.onnx")
    graph = onnx.load(tmp_path / "routed.onnx").graph
    assert "If" not in {node.op_type for node in graph.node}
    pictures = images(8)
    logits, _ = run_routes(tmp_path / "routed.onnx", pictures)
    with torch.no_grad():
        assert np.abs(logits - model(torch.from_numpy(pictures)).numpy()).max() <= 1e-5


def test_files_say_what_they_take_and_give(to_dynamic: Build, tmp_path: Path) -> None:
    model = two_layers(to_dynamic)
    export_masked(model, torch.rand(1, 3, 8, 8), tmp_path / "masked.onnx")
    export_routed(model, torch.rand(1, 3, 8, 8), tmp_path / "routed.onnx")
    for name, batch in (("masked", "batch"), ("routed", 1)):
        proto = onnx.load(tmp_path / f"{name}.onnx")
        onnx.checker.check_model(proto, full_check=True)
        dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
        assert (dim.dim_param or dim.dim_value) == batch
        assert [output.name for output in proto.graph.output] == ["logits", "routes"]


def test_branches_beyond_one_file_are_refused_with_the_remedy(
    to_dynamic: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slimsight.export.routed.writer.MAX_BRANCH_BYTES", 5000)
    with pytest.raises(ExportError, match="take route 'out', or fewer masks"):
        export_routed(two_layers(to_dynamic), torch.rand(1, 3, 8, 8), tmp_path / "routed.onnx")
    assert not (tmp_path / "routed.onnx").exists()


def test_a_file_without_routes_is_refused(to_dynamic: Build, tmp_path: Path) -> None:
    from slimsight.export.to_onnx import export_onnx

    with pytest.raises(ExportError, match=r"there is no .*: export the dynamic model first"):
        run_routes(tmp_path / "absent.onnx", images(8))
    export_onnx(two_layers(to_dynamic), torch.rand(1, 3, 8, 8), tmp_path / "plain.onnx")
    with pytest.raises(ExportError, match="gives logits: a dynamic model gives logits and routes"):
        run_routes(tmp_path / "plain.onnx", images(8))
