"""Dynamic DRIB as ONNX, in two forms: masked (any batch; the reference), and routed (batch 1; really skips).

In the routed form every layer whose channels depend on a route is an `If` over the masks, with the sliced weights of
each mask as constants inside the branches: channels that are skipped are neither loaded nor computed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from compress.dynamic import DynamicClassifier, Router
from compress.errors import ExportError
from compress.files import atomic_path

from .branches import Array, Slicer, Tree, choices_of, leaf
from .clusters import clusters_of, flat, layer_of, layers_of, names_read, read_by_routes
from .to_onnx import export_onnx, import_onnx

RouteMode = Literal["out", "in_out"]

LOGITS, ROUTES = "logits", "routes"
MOST_BYTES = 2**31 - 2**24
"""Of all branches together: one ONNX file holds 2 GiB."""


@dataclass(frozen=True)
class Routed:
    """A routed file: how many masks each route still tells apart, its branches, and the bytes of their weights."""

    masks: tuple[int, ...]
    branches: int
    weight_bytes: int


class _WithRoutes(nn.Module):
    """Logits and the number of the mask that every route took, (N, routes) int64."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        routing = self.model.routed(images)
        return routing.logits, torch.stack([scores.argmax(1) for scores in routing.scores], 1)


class _WithScores(nn.Module):
    """The dense graph with its heads: logits and, by route, the scores (N, masks) of its masks."""

    def __init__(self, model: DynamicClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        routing = self.model.routed(images, closing=False)
        return (routing.logits, *routing.scores)


def export_masked(model: DynamicClassifier, example: Tensor, path: Path, *, opset: int = 18) -> None:
    """Write the masked form: all channels are computed, then multiplied by their gates. Any batch size.

    Outputs ``logits`` (batch, classes) and ``routes`` (batch, routes) int64.

    Raises:
        ExportError: the model cannot be traced.
    """
    export_onnx(_WithRoutes(model), example, path, opset=opset, outputs=(LOGITS, ROUTES))


def export_routed(
    model: DynamicClassifier, example: Tensor, path: Path, *, route: RouteMode = "in_out", opset: int = 18
) -> Routed:
    """Write the routed form, for one image at a time. Outputs as in ``export_masked``.

    Masks that training made equal share a branch.

    Args:
        route: ``out`` slices layers between two routes by their outputs alone; ``in_out`` by the previous route's
            choice too: faster, with masks x masks branches a layer.

    Raises:
        ExportError: the model cannot be traced, a layer on a route has no sliced form, or the branches need more
            than one ONNX file holds.
    """
    onnx = import_onnx()
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        scores = [_score_name(index) for index in range(len(model.routes))]
        export_onnx(_WithScores(model), example, dense, opset=opset, outputs=(LOGITS, *scores))
        proto = onnx.load(dense)
    writer = _Router(onnx, proto, model, route)
    summary = writer.rewrite_()
    onnx.checker.check_model(proto, full_check=False)
    with atomic_path(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))
    return summary


def _score_name(route: int) -> str:
    return f"scores.{route}"


class _Router:
    """Rewrites the dense graph with heads into the routed one."""

    def __init__(self, onnx: Any, proto: Any, model: DynamicClassifier, mode: RouteMode) -> None:
        self.onnx, self.graph, self.routes = onnx, proto.graph, model.routes
        self.weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.masks: list[Array] = []
        self.tables: list[Array] = []  # mask -> its number among those that differ
        for router in model.routers:
            assert isinstance(router, Router)
            values, table = np.unique(router.masks.detach().cpu().numpy(), axis=0, return_inverse=True)
            self.masks.append(values)
            self.tables.append(table.reshape(-1).astype(np.int64))
        layers = layers_of(model.routes)
        self.expanded = read_by_routes(layers) if mode == "out" else set()
        dense = {name: what.without(self.expanded) for name, what in layers.items()}
        found = ((place, dense.get(layer_of(node))) for place, node in enumerate(self.graph.node))
        self.weighted = {place: what for place, what in found if what is not None and what.routes}
        self.slicer = Slicer(onnx, self.weights, self.masks)
        self.tree = Tree(onnx)
        self.numbers: dict[tuple[int, ...], str] = {}
        self.bytes = self.branches = 0

    def rewrite_(self) -> Routed:
        """Replace what depends on routes by branches, in place."""
        clusters = clusters_of(self.graph, self.weighted)
        last = {cluster[-1]: cluster for cluster in clusters}
        inside = {place for cluster in clusters for place in cluster}
        nodes: list[Any] = []
        for place, node in enumerate(self.graph.node):
            if place in last:
                nodes += self._branched(last[place])
            elif place not in inside:
                nodes.append(flat(self.onnx, node, self.weights))
            if place in last or place not in inside:
                nodes += self._chosen(node)
        nodes += self._routes_output()
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._finish_()
        return Routed(tuple(len(values) for values in self.masks), self.branches, self.bytes)

    def _constant(self, array: Array) -> tuple[str, Any]:
        name = self.tree.fresh("constant")
        value = self.onnx.numpy_helper.from_array(array, name)
        return name, self.onnx.helper.make_node("Constant", [], [name], value=value)

    def _chosen(self, node: Any) -> list[Any]:
        """After a head: the number of its mask, (1,) and, among the masks that differ, as a scalar."""
        make, nodes = self.onnx.helper.make_node, []
        for index, table in enumerate(self.tables):
            if _score_name(index) in node.output:
                name, known = self._constant(table)
                shape, scalar = self._constant(np.zeros(0, np.int64))
                mask, different = f"mask.{index}", self.tree.fresh("different")
                self.numbers[index,] = f"number.{index}"
                nodes += [
                    make("ArgMax", [_score_name(index)], [mask], axis=1, keepdims=0),
                    known,
                    make("Gather", [name, mask], [different]),
                    scalar,
                    make("Reshape", [different, shape], [self.numbers[index,]]),
                ]
        return nodes

    def _number(self, routes: tuple[int, ...]) -> tuple[str, list[Any]]:
        """The number of a combination of masks (scalar int64), the first route counting most; and nodes for it."""
        if routes in self.numbers:
            return self.numbers[routes], []
        before, nodes = self._number(routes[:-1])
        size, constant = self._constant(np.array(len(self.masks[routes[-1]]), np.int64))
        scaled, number = self.tree.fresh("scaled"), self.tree.fresh("number")
        make = self.onnx.helper.make_node
        nodes = [*nodes, constant, make("Mul", [before, size], [scaled])]
        nodes.append(make("Add", [scaled, self.numbers[routes[-1],]], [number]))
        self.numbers[routes] = number
        return number, nodes

    def _branched(self, cluster: Sequence[int]) -> list[Any]:
        """The nodes of a cluster as a branch for every combination of masks they depend on."""
        originals = [self.graph.node[place] for place in cluster]
        known = [self.weighted.get(place) for place in cluster]
        routes = tuple(sorted({route for what in known if what is not None for route in what.routes}))
        live = next((what.gives for what in reversed(known) if what is not None), None)
        output = originals[-1].output[0]
        leaves = []
        for choice in choices_of(routes, [len(values) for values in self.masks]):
            nodes: list[Any] = []
            constants: dict[str, Array] = {}
            result = output
            for node, what in zip(originals, known, strict=True):
                copy, sliced = (node, {}) if what is None else self.slicer.cut(node, what, choice)
                nodes.append(copy)
                constants |= sliced
            if live in self.expanded:
                more, sliced, result = self.slicer.widened(output, live, choice)
                nodes += more
                constants |= sliced
            self._count_(constants)
            leaves.append(leaf(self.onnx, self.tree, nodes, constants, result))
        number, nodes = self._number(routes)
        if len(leaves) > 1:
            return [*nodes, *self.tree.build(number, leaves, output)]
        self.graph.initializer.extend(leaves[0].initializer)
        leaves[0].node[-1].output[0] = output
        return list(leaves[0].node)

    def _count_(self, constants: Mapping[str, Array]) -> None:
        self.branches += 1
        self.bytes += sum(array.nbytes for array in constants.values())
        if self.bytes > MOST_BYTES:
            raise ExportError(
                f"the branches of {sum(map(len, self.masks))} masks need more than the {MOST_BYTES:,} bytes of one "
                "ONNX file: take route 'out', or fewer masks"
            )

    def _routes_output(self) -> list[Any]:
        masks, flat_name = [f"mask.{index}" for index in range(len(self.masks))], self.tree.fresh("flat")
        shape, constant = self._constant(np.array([1, -1], np.int64))
        make = self.onnx.helper.make_node
        return [
            constant,
            make("Concat", masks, [flat_name], axis=0),
            make("Reshape", [flat_name, shape], [ROUTES]),
        ]

    def _finish_(self) -> None:
        """One image at a time; outputs logits and routes; no weight that nothing reads."""
        graph, helper = self.graph, self.onnx.helper
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        logits = next(value for value in graph.output if value.name == LOGITS)
        logits.type.tensor_type.shape.dim[0].dim_value = 1
        routes = helper.make_tensor_value_info(ROUTES, self.onnx.TensorProto.INT64, [1, len(self.masks)])
        outputs = [logits, routes]
        del graph.output[:]
        graph.output.extend(outputs)
        del graph.value_info[:]
        read = names_read(graph)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
