"""Export of dynamic DRIB models to ONNX, masked (any batch; the reference) or routed (batch 1; skips channels).

In the routed form every layer whose channels depend on a route is an `If` over the masks, with the sliced weights of
each mask as constants inside the branches: skipped channels are neither loaded nor computed.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from slimsight.compress.dynamic import DynamicClassifier, macs_per_image, routed_cost
from slimsight.compress.files.atomic import atomic_path
from slimsight.compress.gates import CostModel

from ..onnx_files.graph import LOGITS_OUTPUT, ROUTES_OUTPUT, import_onnx
from ..onnx_files.metadata import EMPTY_ABOUT, About
from ..to_onnx import export_onnx
from .writer import RoutedSummary, RouteWriter, score_name

RouteMode = Literal["out", "in_out"]


class WithRoutes(nn.Module):
    """The function of both forms: images -> logits and, for each route, the number of its mask, (N, routes) int64."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        routing = self.model.routed(images)
        return routing.logits, torch.stack([scores.argmax(1) for scores in routing.scores], 1)


class _WithScores(nn.Module):
    """Computes all channels; returns logits and, for each route, the scores (N, masks) of its masks."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        routing = self.model.routed(images, closing=False)
        return (routing.logits, *routing.scores)


def export_masked(
    model: DynamicClassifier, example: Tensor, path: Path, *, opset: int = 18, about: About = EMPTY_ABOUT
) -> None:
    """Write the masked form: all channels are computed, then multiplied by their gates; any batch size.

    Outputs ``logits`` (batch, classes) and ``routes`` (batch, routes) int64.

    Raises:
        ExportError: the model cannot be traced.
    """
    about = replace(about, macs=routed_cost(model, example[:1]).total, macs_mean=None)
    export_onnx(WithRoutes(model), example, path, opset=opset, outputs=(LOGITS_OUTPUT, ROUTES_OUTPUT), about=about)


def export_routed(
    model: DynamicClassifier,
    example: Tensor,
    path: Path,
    *,
    route: RouteMode = "in_out",
    opset: int = 18,
    about: About = EMPTY_ABOUT,
) -> RoutedSummary:
    """Write the routed form, for one image at a time. Outputs as in ``export_masked``.

    Equal masks share a branch. The file's ``macs`` are those of its dearest route, heads included;
    ``about.macs_mean`` is the mean over images, which the caller measures.

    Args:
        route: ``out`` slices a layer between two routes by its outputs only; ``in_out`` by its inputs too, which is
            faster and needs masks x masks branches per layer.

    Raises:
        ExportError: the model cannot be traced, a layer on a route has no sliced form, or the branches need more
            than one ONNX file holds.
    """
    return write_routed(dense_graph(model, example, opset=opset, about=about), model, path, route=route)


def dense_graph(model: DynamicClassifier, example: Tensor, *, opset: int = 18, about: About = EMPTY_ABOUT) -> Any:
    """The ONNX model that ``write_routed`` rewrites: all channels open, with the scores of all masks as outputs.

    It has the metadata of the routed form.

    Raises:
        ExportError: the model cannot be traced.
    """
    onnx = import_onnx()
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        scores = [score_name(index) for index in range(len(model.routes))]
        about = replace(about, macs=_dearest_macs(model, routed_cost(model, example[:1])))
        export_onnx(_WithScores(model), example, dense, opset=opset, outputs=(LOGITS_OUTPUT, *scores), about=about)
        return onnx.load(dense)


def _dearest_macs(model: DynamicClassifier, cost: CostModel) -> int:
    """MACs of an image that takes the mask with the most channels on each route."""
    widest = [router.masks[(router.masks > 0).sum(1).argmax()].detach()[None] for router in model.router_list]
    return int(macs_per_image(cost, widest))


def write_routed(dense: Any, model: DynamicClassifier, path: Path, *, route: RouteMode = "in_out") -> RoutedSummary:
    """``export_routed`` from the model's ``dense_graph``, which is not changed."""
    onnx = import_onnx()
    proto = onnx.ModelProto()
    proto.CopyFrom(dense)
    summary = RouteWriter(onnx, proto, model, expand=route == "out").rewrite_()
    onnx.checker.check_model(proto, full_check=False)
    with atomic_path(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))
    return summary
