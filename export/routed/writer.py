"""Rewriting of a dense ONNX graph with routing heads into the routed one, with branches over the masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimsight.compress.dynamic import DynamicClassifier
from slimsight.compress.errors import ExportError

from ..onnx_files.graph import LOGITS_OUTPUT, ROUTES_OUTPUT, count_reads
from .branches import Array, BranchTree, Choice, WeightSlicer, to_branch
from .clusters import (
    Cluster,
    RouteUse,
    drop_repeated_relus_,
    find_clusters,
    node_layer,
    reshape_to_flatten,
    route_uses,
    routes_read_by_layers,
)

MAX_BRANCH_BYTES = 2**31 - 2**24
"""Limit of all branches together: one ONNX file can have 2 GiB."""


@dataclass(frozen=True)
class RoutedSummary:
    """Size of a routed file: number of distinct masks of each route, of branches, and bytes of their weights."""

    masks: tuple[int, ...]
    branches: int
    weight_bytes: int


def score_name(route: int) -> str:
    """Name of the output of the dense graph that has the scores of a route's masks."""
    return f"scores.{route}"


class RouteWriter:
    """Rewrites one graph; used once.

    Args:
        proto: the dense graph of ``model`` without gates; its outputs are logits and the scores of each route.
        expand: whether channels that a layer of another route reads are expanded to full width.
    """

    def __init__(self, onnx: Any, proto: Any, model: DynamicClassifier, *, expand: bool) -> None:
        self.onnx, self.graph = onnx, proto.graph
        self.weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        drop_repeated_relus_(self.graph)
        self.masks, self.tables = _distinct_masks(model)
        layers = route_uses(model.routes)
        self.expanded = routes_read_by_layers(layers) if expand else set()
        dense = {name: use.without_inputs(self.expanded) for name, use in layers.items()}
        by_node = ((index, dense.get(node_layer(node))) for index, node in enumerate(self.graph.node))
        self.uses = {index: use for index, use in by_node if use is not None and use.routes}
        self.slicer = WeightSlicer(onnx, self.weights, self.masks)
        self.tree = BranchTree(onnx, lambda route, limit: f"is_below.{route}.{limit}")
        self.bytes = self.branches = 0

    def rewrite_(self) -> RoutedSummary:
        """Replace the nodes that depend on routes by branches, in place."""
        clusters = find_clusters(self.graph, self.uses)
        last = {cluster.nodes[-1]: cluster for cluster in clusters}
        inside = {index for cluster in clusters for index in cluster.nodes}
        nodes: list[Any] = []
        for index, node in enumerate(self.graph.node):
            if index in last:
                nodes += self._branches(last[index])
            elif index not in inside:
                nodes.append(reshape_to_flatten(self.onnx, node, self.weights))
            if index in last or index not in inside:
                nodes += self._choice_nodes(node)
        nodes += self._routes_nodes()
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._finish_()
        return RoutedSummary(tuple(len(values) for values in self.masks), self.branches, self.bytes)

    def _constant(self, array: Array) -> tuple[str, Any]:
        name = self.tree.unique_name("constant")
        value = self.onnx.numpy_helper.from_array(array, name)
        return name, self.onnx.helper.make_node("Constant", [], [name], value=value)

    def _choice_nodes(self, node: Any) -> list[Any]:
        """After a head: nodes for the number of the chosen mask, (1,), and bool scalars that compare it with others."""
        route = next((route for route in range(len(self.masks)) if score_name(route) in node.output), None)
        if route is None:
            return []
        make, table = self.onnx.helper.make_node, self.tables[route]
        shape, scalar = self._constant(np.zeros(0, np.int64))
        number = self.tree.unique_name("number")
        nodes = [
            make("ArgMax", [score_name(route)], [f"mask.{route}"], axis=1, keepdims=0),
            scalar,
            make("Reshape", [f"mask.{route}", shape], [number]),
        ]
        if len(self.masks[route]) < len(table):
            name, constant = self._constant(table)
            distinct = self.tree.unique_name("number")
            nodes += [constant, make("Gather", [name, number], [distinct])]
            number = distinct
        for limit in range(1, len(self.masks[route])):
            name, constant = self._constant(np.array(limit, np.int64))
            nodes += [constant, make("Less", [number, name], [f"is_below.{route}.{limit}"])]
        return nodes

    def _branches(self, cluster: Cluster) -> list[Any]:
        """A cluster as `If` nodes: one branch for each combination of the masks that it depends on."""
        uses = [self.uses.get(index) for index in cluster.nodes]
        routes = sorted({route for use in uses if use is not None for route in use.routes})
        ranges = [(route, 0, len(self.masks[route])) for route in routes]
        if all(end == 1 for _, _, end in ranges):
            graph = self._branch(cluster, uses, dict.fromkeys(routes, 0))
            self.graph.initializer.extend(graph.initializer)
            public = {value.name: name for value, name in zip(graph.output, cluster.outputs, strict=True)}
            for node in graph.node:
                for field in (node.input, node.output):
                    renamed = [public.get(name, name) for name in field]
                    del field[:]
                    field.extend(renamed)
            return list(graph.node)
        return [self.tree.build(ranges, lambda choice: self._branch(cluster, uses, choice), cluster.outputs)]

    def _branch(self, cluster: Cluster, uses: Sequence[RouteUse | None], choice: Choice) -> Any:
        """The branch of one choice of masks."""
        nodes: list[Any] = []
        constants: dict[str, Array] = {}
        for index, use in zip(cluster.nodes, uses, strict=True):
            original = self.graph.node[index]
            if use is not None:
                copy, sliced = self.slicer.slice_node(original, use, choice)
            else:
                copy, sliced = original, {n: self.weights[n] for n in original.input if n in self.weights}
                if copy.op_type == "Add":
                    copy = self._with_blocked_inputs(copy, nodes)
            nodes.append(copy)
            constants |= sliced
        result = cluster.outputs[0]
        route = next((use.output for use in reversed(uses) if use is not None), None)
        if route is not None and route in self.expanded:
            expansion, sliced, result = self.slicer.expand_output(result, route, choice)
            nodes += expansion
            constants |= sliced
        self.branches += 1
        self.bytes += sum(array.nbytes for array in constants.values())
        if self.bytes > MAX_BRANCH_BYTES:
            raise ExportError(
                f"the branches of {sum(map(len, self.masks))} masks need more than the {MAX_BRANCH_BYTES:,} bytes of "
                "one ONNX file: take route 'out', or fewer masks"
            )
        return to_branch(self.onnx, self.tree, nodes, constants, (result, *cluster.outputs[1:]))

    def _with_blocked_inputs(self, add: Any, before: list[Any]) -> Any:
        """An addition whose inputs from outside of the branch pass through a pooling of one pixel.

        ONNX Runtime computes convolutions in a channel-blocked layout, and fuses an addition only with inputs in that
        layout: the pooling, which changes no value, converts them (ResNet-18: 5 % of the time of a routed image).
        """
        computed = {name for node in before for name in node.output}
        copy = self.onnx.NodeProto()
        copy.CopyFrom(add)
        for position, name in enumerate(add.input):
            if name not in computed and name not in self.weights:
                copy.input[position] = f"{name}/blocked"
                before.append(
                    self.onnx.helper.make_node("MaxPool", [name], [copy.input[position]], kernel_shape=[1, 1])
                )
        return copy

    def _routes_nodes(self) -> list[Any]:
        masks, joined = [f"mask.{index}" for index in range(len(self.masks))], self.tree.unique_name("joined")
        shape, constant = self._constant(np.array([1, -1], np.int64))
        make = self.onnx.helper.make_node
        return [
            constant,
            make("Concat", masks, [joined], axis=0),
            make("Reshape", [joined, shape], [ROUTES_OUTPUT]),
        ]

    def _finish_(self) -> None:
        """Fix the batch size to 1, set the outputs (logits, routes), and drop weights that no node reads."""
        graph, helper = self.graph, self.onnx.helper
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        logits = next(value for value in graph.output if value.name == LOGITS_OUTPUT)
        logits.type.tensor_type.shape.dim[0].dim_value = 1
        routes = helper.make_tensor_value_info(ROUTES_OUTPUT, self.onnx.TensorProto.INT64, [1, len(self.masks)])
        outputs = [logits, routes]
        del graph.output[:]
        graph.output.extend(outputs)
        del graph.value_info[:]
        read = count_reads(graph)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def _distinct_masks(model: DynamicClassifier) -> tuple[list[Array], list[Array]]:
    """For each route: its distinct masks, in order, and the number of each mask among them."""
    masks, tables = [], []
    for router in model.router_list:
        values = router.masks.detach().cpu().numpy()
        _, first, table = np.unique(values, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        masks.append(values[np.sort(first)])
        tables.append(rank[table.reshape(-1)].astype(np.int64))
    return masks, tables
