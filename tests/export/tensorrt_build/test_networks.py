"""Whole networks, static and routed, as engines of TensorRT for RTX, which builds them without a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from slimsight.compress.config import ModelConfig
from slimsight.compress.dynamic import DynamicClassifier, find_routes
from slimsight.compress.models import build_classifier
from slimsight.compress.surgery import PrunePlan, slim_, trace_groups
from slimsight.export.half.overflow import run_graph
from slimsight.export.routed.export import dense_graph, write_routed
from slimsight.export.tensorrt_build.export import BatchProfile, EngineTensor, export_engine

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no wheel for this platform")

NAMES = ["resnet20", "mobilenetv2", "bottlenecks"]


class Files(NamedTuple):
    """A slim network as ONNX: for any batch size, and with routes for one image at a time."""

    static: Path
    routed: Path
    images: np.ndarray


def slim_network(name: str) -> nn.Module:
    """Half of the channels inside of blocks removed; random weights, statistics that folding cannot ignore."""
    torch.manual_seed(0)
    model = (
        ResNet(Bottleneck, [1, 1, 1, 1], num_classes=20)
        if name == "bottlenecks"
        else build_classifier(ModelConfig(name=name), 10)
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    model.eval()
    example = torch.rand(1, 3, 32, 32)
    groups = {group.name: group.channels for group in trace_groups(model, example).groups if len(group.producers) == 1}
    plan = PrunePlan({name: tuple(range(0, width, 2)) for name, width in groups.items()}, groups)
    slim_(model, plan, example)
    return model.eval()


def routes_of(model: nn.Module, example: torch.Tensor) -> DynamicClassifier:
    """Two drawn masks a route."""
    dynamic = DynamicClassifier(model, find_routes(model, trace_groups(model, example), example), 2).eval()
    for router in dynamic.router_list:
        with torch.no_grad():
            router.masks.uniform_(0.5, 1.5)
            router.keep.copy_(torch.rand_like(router.masks).argsort(1).argsort(1) < router.masks.shape[1] // 2)
        router.project_()
    return dynamic


@pytest.fixture(scope="module", params=NAMES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """One export a network: the static file is the dense graph of the routed one without its heads."""
    side = 224 if request.param == "bottlenecks" else 32
    dynamic = routes_of(slim_network(request.param), torch.rand(1, 3, side, side))
    dense = dense_graph(dynamic, torch.rand(2, 3, side, side))
    folder = tmp_path_factory.mktemp(request.param)
    found = Files(folder / "static.onnx", folder / "routed.onnx", pictures(side)[: 2 if side > 32 else 4])
    extracted = onnx.utils.Extractor(dense).extract_model(["images"], ["logits"])
    found.static.write_bytes(extracted.SerializeToString())
    write_routed(dense, dynamic, found.routed)
    return found


def pictures(side: int) -> np.ndarray:
    coarse = torch.from_numpy(np.random.default_rng(0).random((4, 3, 4, 4), dtype=np.float32))
    return nn.functional.interpolate(coarse, side, mode="bilinear").numpy()


def operators(graph: Any) -> Counter[str]:
    """How often each operator stands in a graph and in its branches."""
    found = Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += operators(attribute.g)
    return found


@pytest.mark.parametrize("form", ["static", "routed"])
def test_engines_hold_the_graph_in_the_precision_asked_for(files: Files, form: str, tmp_path: Path) -> None:
    source = getattr(files, form)
    graph = onnx.load(source).graph
    count, side = operators(graph), files.images.shape[2]
    heavy = count["Conv"] + count["Gemm"] + count["MatMul"]
    batch = -1 if form == "static" else 1
    profile = BatchProfile(1, 8, 32) if form == "static" else None
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    # The numbers of FP16 are compared where that is quick; its layers are everywhere.
    samples = None if (form, side) == ("routed", 224) else files.images
    sizes = {}
    for precision, dtype in (("fp32", "float32"), ("fp16", "float16")):
        path = tmp_path / f"{precision}.engine"
        built = export_engine(
            source, path, flavour="tensorrt-rtx", precision=precision, profile=profile, samples=samples
        )
        assert (built.precision, built.flavour, built.reused) == (precision, "tensorrt-rtx", False)
        assert built.profile == (profile or BatchProfile(1, 1, 1))
        # Inputs and outputs stay float32, whatever is inside.
        assert built.inputs == (EngineTensor("images", (batch, 3, side, side), "float32"),)
        assert built.outputs[0] == EngineTensor("logits", (batch, classes), "float32")
        assert built.layers == {dtype: heavy}
        assert built.conditionals == count["If"]
        assert (count["If"] > 0) == (form == "routed")
        assert built.read_from == "build log"
        pure = built.engine_layers.get(dtype, 0)
        assert pure >= 0.9 * sum(built.engine_layers.values()) > 0
        assert precision == "fp16" or set(built.engine_layers) == {"float32"}
        assert built.size_bytes == path.stat().st_size
        sizes[precision] = built.size_bytes
        assert built.kept_fp32 == ()
        if precision == "fp16" and samples is not None:
            assert built.p99_abs is not None
            assert (built.route_agreement is None) == (form == "static")
            # Scores of two masks may be nearer to each other than FP16 tells apart: then an image goes another way.
            assert built.route_agreement is None or built.route_agreement >= 0.9
            if built.route_agreement in (None, 1.0):
                assert built.top1_agreement == 1.0
                assert 0 < built.p99_abs < 0.01 * largest_logit(source, files.images)
    assert sizes["fp16"] < sizes["fp32"]


def largest_logit(source: Path, images: np.ndarray) -> float:
    """So that differences have a unit."""
    return float(np.abs(run_graph(onnx.load(source), images)[0]).max())
