"""The nodes of an ONNX graph whose weights depend on routes, and the clusters of nodes that share a branch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimsight.compress.dynamic import Route
from slimsight.compress.surgery import Slot

_FUSED_OPERATORS = {"Relu", "Clip", "MaxPool", "AveragePool", "Add", "Sigmoid", "HardSwish", "HardSigmoid", "Identity"}
"""Operators that join the branch of the layer before them, where no other node reads that layer."""

_LAYERS = {"Conv", "Gemm", "MatMul", "BatchNormalization"}


@dataclass(frozen=True)
class RouteUse:
    """How the weights of a layer depend on routes: by its input channels, and by its output channels.

    ``inputs``: (route, slot) of each route whose channels it reads; ``output``: the route whose channels it computes.
    ``channelwise``: it computes each channel on its own (depthwise convolution, batch normalisation).
    """

    inputs: tuple[tuple[int, Slot], ...] = ()
    output: int | None = None
    channelwise: bool = False

    @property
    def routes(self) -> set[int]:
        """All routes that its weights depend on."""
        return {route for route, _ in self.inputs} | ({self.output} if self.output is not None else set())

    def without_inputs(self, routes: set[int]) -> RouteUse:
        """The same layer where the channels of ``routes`` come at full width."""
        return replace(self, inputs=tuple((route, slot) for route, slot in self.inputs if route not in routes))


def route_uses(routes: Sequence[Route]) -> dict[str, RouteUse]:
    """The route use of each layer (and head), by name."""
    uses: dict[str, RouteUse] = {}
    for index, route in enumerate(routes):
        for slot in route.group.producers:
            uses[slot.layer] = RouteUse(output=index)
        for slot in route.group.followers:
            uses[slot.layer] = RouteUse(output=index, channelwise=True)
    for index, route in enumerate(routes):
        for slot in route.group.consumers:
            use = uses.get(slot.layer, RouteUse())
            uses[slot.layer] = replace(use, inputs=(*use.inputs, (index, slot)))
    return uses


def routes_read_by_layers(layers: Mapping[str, RouteUse]) -> set[int]:
    """Routes whose channels are read by a layer that computes the channels of another route."""
    return {route for use in layers.values() if use.output is not None for route, _ in use.inputs}


def node_layer(node: Any) -> str:
    """The name of the layer whose weight a node has, as in the classifier; of a head its own; "" if none."""
    if node.op_type not in _LAYERS or len(node.input) < 2:
        return ""
    name: str = node.input[1].removesuffix(".weight")
    return name.removeprefix("model.").removeprefix("classifier.")


@dataclass(frozen=True)
class Cluster:
    """Nodes that go into the same branches, by their index in the graph; ``outputs``: values that others read."""

    nodes: tuple[int, ...]
    outputs: tuple[str, ...]


def find_clusters(graph: Any, uses: Mapping[int, RouteUse]) -> list[Cluster]:
    """Clusters of a layer, nodes that only it feeds, layers of the same routes, and the head that reads its output."""
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(index)
    outputs = {value.name for value in graph.output}
    clusters: list[Cluster] = []
    taken: set[int] = set()
    for index in sorted(uses):
        if index in taken:
            continue
        cluster, routes = [index], uses[index].routes
        while True:
            output = graph.node[cluster[-1]].output[0]
            following = readers.get(output, [])
            if output in outputs or len(following) != 1:
                break
            (reader,) = following
            same = reader in uses and uses[reader].routes <= routes and reader not in taken
            if not same and (reader in uses or graph.node[reader].op_type not in _FUSED_OPERATORS or reader in taken):
                break
            if graph.node[reader].op_type == "Add":
                cluster += _shortcut_convolution(graph, reader, output, readers, uses)
            cluster.append(reader)
        results = [graph.node[cluster[-1]].output[0]]
        head = _head_nodes(graph, results[0], readers, uses, routes)
        if head:
            results.append(graph.node[head[-1]].output[0])
        taken.update(cluster, head)
        clusters.append(Cluster((*cluster, *head), tuple(results)))
    return clusters


def _head_nodes(
    graph: Any, output: str, readers: Mapping[str, list[int]], uses: Mapping[int, RouteUse], routes: set[int]
) -> list[int]:
    """Mean and linear layer of the head that reads a cluster's ``output``: a separate branch would cost time."""
    following = readers.get(output, [])
    for mean in following:
        chain = [mean, *readers.get(graph.node[mean].output[0], [])]
        if graph.node[mean].op_type != "ReduceMean" or len(chain) != 2:
            continue
        use = uses.get(chain[1])
        first = all(index > chain[1] for index in following if index != mean)
        if use is not None and use.output is None and use.routes <= routes and first:
            return chain
    return []


def _shortcut_convolution(
    graph: Any, add: int, output: str, readers: Mapping[str, list[int]], uses: Mapping[int, RouteUse]
) -> list[int]:
    """The convolution of a projection shortcut that is added to a branch's ``output``, if no other node reads it."""
    shortcut = next((name for name in graph.node[add].input if name != output), "")
    for index, node in enumerate(graph.node):
        if shortcut in node.output and node.op_type == "Conv" and index not in uses and len(readers[shortcut]) == 1:
            return [index]
    return []


def reshape_to_flatten(onnx: Any, node: Any, weights: Mapping[str, Any]) -> Any:
    """Replace a Reshape to two dimensions by a Flatten, as the number of channels is no longer constant."""
    if node.op_type == "Reshape" and len(weights.get(node.input[1], ())) == 2:
        return onnx.helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
    return node


def drop_repeated_relus_(graph: Any) -> None:
    """Remove each ReLU of a value that is a ReLU's output (or its pooling) already: heads begin with one."""
    rectified: set[str] = set()
    kept: list[Any] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.op_type == "Relu" and node.input[0] in rectified:
            renamed[node.output[0]] = node.input[0]
            continue
        if node.op_type == "Relu" or (node.op_type in ("MaxPool", "AveragePool") and node.input[0] in rectified):
            rectified.add(node.output[0])
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
