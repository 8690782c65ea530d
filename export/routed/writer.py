"""Rewrites a dense graph with routing heads into the routed one: branches where weights depend on a route."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slimsight.compress.dynamic import DynamicClassifier
from slimsight.compress.errors import ExportError

from .branches import Array, Choice, Slicer, Tree, leaf
from .clusters import (
    Cluster,
    Weighted,
    clusters_of,
    flat,
    layer_of,
    layers_of,
    names_read,
    read_by_routes,
    without_repeats_,
)

LOGITS, ROUTES = "logits", "routes"

MOST_BYTES = 2**31 - 2**24
"""Of all branches together: one ONNX file holds 2 GiB."""


@dataclass(frozen=True)
class Routed:
    """A routed file: how many masks each route still tells apart, its branches, and the bytes of their weights."""

    masks: tuple[int, ...]
    branches: int
    weight_bytes: int


def score_name(route: int) -> str:
    """What the scores of a route's masks are called in the dense graph."""
    return f"scores.{route}"


class RouteWriter:
    """One rewriting.

    Args:
        proto: the dense graph of ``model`` without gates, whose outputs are logits and every route's scores.
        expand: bring channels that a layer of another route reads back to full width.
    """

    def __init__(self, onnx: Any, proto: Any, model: DynamicClassifier, *, expand: bool) -> None:
        self.onnx, self.graph = onnx, proto.graph
        self.weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        without_repeats_(self.graph)
        self.masks, self.tables = _different(model)
        layers = layers_of(model.routes)
        self.expanded = read_by_routes(layers) if expand else set()
        dense = {name: what.without(self.expanded) for name, what in layers.items()}
        found = ((place, dense.get(layer_of(node))) for place, node in enumerate(self.graph.node))
        self.weighted = {place: what for place, what in found if what is not None and what.routes}
        self.slicer = Slicer(onnx, self.weights, self.masks)
        self.tree = Tree(onnx, lambda route, limit: f"is_below.{route}.{limit}")
        self.bytes = self.branches = 0

    def rewrite_(self) -> Routed:
        """Replace what depends on routes by branches, in place."""
        clusters = clusters_of(self.graph, self.weighted)
        last = {cluster.places[-1]: cluster for cluster in clusters}
        inside = {place for cluster in clusters for place in cluster.places}
        nodes: list[Any] = []
        for place, node in enumerate(self.graph.node):
            if place in last:
                nodes += self._branched(last[place])
            elif place not in inside:
                nodes.append(flat(self.onnx, node, self.weights))
            if place in last or place not in inside:
                nodes += self._choice(node)
        nodes += self._routes_output()
        del self.graph.node[:]
        self.graph.node.extend(nodes)
        self._finish_()
        return Routed(tuple(len(values) for values in self.masks), self.branches, self.bytes)

    def _constant(self, array: Array) -> tuple[str, Any]:
        name = self.tree.fresh("constant")
        value = self.onnx.numpy_helper.from_array(array, name)
        return name, self.onnx.helper.make_node("Constant", [], [name], value=value)

    def _choice(self, node: Any) -> list[Any]:
        """After a head: the number of its mask, (1,), and as bool scalars where it stands among those that differ."""
        route = next((route for route in range(len(self.masks)) if score_name(route) in node.output), None)
        if route is None:
            return []
        make, table = self.onnx.helper.make_node, self.tables[route]
        shape, scalar = self._constant(np.zeros(0, np.int64))
        number = self.tree.fresh("number")
        nodes = [
            make("ArgMax", [score_name(route)], [f"mask.{route}"], axis=1, keepdims=0),
            scalar,
            make("Reshape", [f"mask.{route}", shape], [number]),
        ]
        if len(self.masks[route]) < len(table):
            name, known = self._constant(table)
            different = self.tree.fresh("number")
            nodes += [known, make("Gather", [name, number], [different])]
            number = different
        for limit in range(1, len(self.masks[route])):
            name, constant = self._constant(np.array(limit, np.int64))
            nodes += [constant, make("Less", [number, name], [f"is_below.{route}.{limit}"])]
        return nodes

    def _branched(self, cluster: Cluster) -> list[Any]:
        """The nodes of a cluster as a branch for every combination of masks they depend on."""
        known = [self.weighted.get(place) for place in cluster.places]
        routes = sorted({route for what in known if what is not None for route in what.routes})
        spans = [(route, 0, len(self.masks[route])) for route in routes]
        if all(end == 1 for _, _, end in spans):
            graph = self._leaf(cluster, known, dict.fromkeys(routes, 0))
            self.graph.initializer.extend(graph.initializer)
            public = {value.name: name for value, name in zip(graph.output, cluster.outputs, strict=True)}
            for node in graph.node:
                for field in (node.input, node.output):
                    renamed = [public.get(name, name) for name in field]
                    del field[:]
                    field.extend(renamed)
            return list(graph.node)
        return [self.tree.build(spans, lambda choice: self._leaf(cluster, known, choice), cluster.outputs)]

    def _leaf(self, cluster: Cluster, known: Sequence[Weighted | None], choice: Choice) -> Any:
        """The branch of one choice."""
        nodes: list[Any] = []
        constants: dict[str, Array] = {}
        for place, what in zip(cluster.places, known, strict=True):
            original = self.graph.node[place]
            if what is not None:
                copy, sliced = self.slicer.cut(original, what, choice)
            else:
                copy, sliced = original, {n: self.weights[n] for n in original.input if n in self.weights}
                if copy.op_type == "Add":
                    copy = self._fusible(copy, nodes)
            nodes.append(copy)
            constants |= sliced
        result = cluster.outputs[0]
        live = next((what.gives for what in reversed(known) if what is not None), None)
        if live is not None and live in self.expanded:
            more, sliced, result = self.slicer.widened(result, live, choice)
            nodes += more
            constants |= sliced
        self.branches += 1
        self.bytes += sum(array.nbytes for array in constants.values())
        if self.bytes > MOST_BYTES:
            raise ExportError(
                f"the branches of {sum(map(len, self.masks))} masks need more than the {MOST_BYTES:,} bytes of one "
                "ONNX file: take route 'out', or fewer masks"
            )
        return leaf(self.onnx, self.tree, nodes, constants, (result, *cluster.outputs[1:]))

    def _fusible(self, add: Any, before: list[Any]) -> Any:
        """An addition of something from outside of the branch, through a pooling of one pixel.

        ONNX Runtime computes convolutions in blocks of channels, and adds within them only what has that layout
        too: the pooling, which changes no value, gives it that (ResNet-18: 5 % of the time of a routed image).
        """
        made = {name for node in before for name in node.output}
        copy = self.onnx.NodeProto()
        copy.CopyFrom(add)
        for position, name in enumerate(add.input):
            if name not in made and name not in self.weights:
                copy.input[position] = f"{name}/blocked"
                before.append(
                    self.onnx.helper.make_node("MaxPool", [name], [copy.input[position]], kernel_shape=[1, 1])
                )
        return copy

    def _routes_output(self) -> list[Any]:
        masks, joined = [f"mask.{index}" for index in range(len(self.masks))], self.tree.fresh("joined")
        shape, constant = self._constant(np.array([1, -1], np.int64))
        make = self.onnx.helper.make_node
        return [
            constant,
            make("Concat", masks, [joined], axis=0),
            make("Reshape", [joined, shape], [ROUTES]),
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


def _different(model: DynamicClassifier) -> tuple[list[Array], list[Array]]:
    """By route: the masks that differ, in their order, and for every mask its number among those."""
    masks, tables = [], []
    for router in model.router_list:
        values = router.masks.detach().cpu().numpy()
        _, first, table = np.unique(values, axis=0, return_index=True, return_inverse=True)
        rank = np.argsort(np.argsort(first))
        masks.append(values[np.sort(first)])
        tables.append(rank[table.reshape(-1)].astype(np.int64))
    return masks, tables
