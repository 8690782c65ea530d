"""Which nodes of an ONNX graph depend on routes, and which of them can share a branch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimsight.compress.dynamic import Route
from slimsight.compress.surgery import Slot

_ON_THE_WAY = {"Relu", "Clip", "MaxPool", "AveragePool", "Add", "Sigmoid", "HardSwish", "HardSigmoid", "Identity"}
"""Operators that a branch takes in behind its layer, where nobody else reads the layer."""

_LAYERS = {"Conv", "Gemm", "MatMul", "BatchNormalization"}


@dataclass(frozen=True)
class Weighted:
    """A node with constant weights: the routes whose channels it reads, and the one whose channels it gives.

    ``follows``: it works channel by channel (depthwise convolution, batch normalisation) on route ``gives``.
    """

    reads: tuple[tuple[int, Slot], ...] = ()
    gives: int | None = None
    follows: bool = False

    @property
    def routes(self) -> set[int]:
        """All routes that its weights depend on."""
        return {route for route, _ in self.reads} | ({self.gives} if self.gives is not None else set())

    def without(self, routes: set[int]) -> Weighted:
        """The same node where the channels of ``routes`` come at full width."""
        return replace(self, reads=tuple((route, slot) for route, slot in self.reads if route not in routes))


def layers_of(routes: Sequence[Route]) -> dict[str, Weighted]:
    """What each layer (and head) has to do with the routes, by name."""
    found: dict[str, Weighted] = {}
    for index, route in enumerate(routes):
        for slot in route.group.producers:
            found[slot.layer] = Weighted(gives=index)
        for slot in route.group.followers:
            found[slot.layer] = Weighted(gives=index, follows=True)
    for index, route in enumerate(routes):
        for slot in route.group.consumers:
            known = found.get(slot.layer, Weighted())
            found[slot.layer] = replace(known, reads=(*known.reads, (index, slot)))
    return found


def read_by_routes(layers: Mapping[str, Weighted]) -> set[int]:
    """Routes that a layer of another route reads."""
    return {route for what in layers.values() if what.gives is not None for route, _ in what.reads}


def layer_of(node: Any) -> str:
    """The layer whose weight a node holds, under the classifier's names; heads under their own."""
    if node.op_type not in _LAYERS or len(node.input) < 2:
        return ""
    name: str = node.input[1].removesuffix(".weight")
    return name.removeprefix("model.").removeprefix("classifier.")


@dataclass(frozen=True)
class Cluster:
    """Places of nodes that go into the same branches, in the order of the graph, and what others read of them."""

    places: tuple[int, ...]
    outputs: tuple[str, ...]


def clusters_of(graph: Any, weighted: Mapping[int, Weighted]) -> list[Cluster]:
    """A layer, what only it feeds, layers of the same routes, and the head that reads what it gives."""
    readers: dict[str, list[int]] = {}
    for place, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(place)
    outputs = {value.name for value in graph.output}
    clusters: list[Cluster] = []
    taken: set[int] = set()
    for place in sorted(weighted):
        if place in taken:
            continue
        cluster, routes = [place], weighted[place].routes
        while True:
            output = graph.node[cluster[-1]].output[0]
            following = readers.get(output, [])
            if output in outputs or len(following) != 1:
                break
            (more,) = following
            same = more in weighted and weighted[more].routes <= routes and more not in taken
            if not same and (more in weighted or graph.node[more].op_type not in _ON_THE_WAY or more in taken):
                break
            if graph.node[more].op_type == "Add":
                cluster += _side(graph, more, output, readers, weighted)
            cluster.append(more)
        given = [graph.node[cluster[-1]].output[0]]
        head = _head(graph, given[0], readers, weighted, routes)
        if head:
            given.append(graph.node[head[-1]].output[0])
        taken.update(cluster, head)
        clusters.append(Cluster((*cluster, *head), tuple(given)))
    return clusters


def _head(
    graph: Any, output: str, readers: Mapping[str, list[int]], weighted: Mapping[int, Weighted], routes: set[int]
) -> list[int]:
    """Mean and linear layer of the head that reads a cluster's ``output``: a branch of its own would cost time."""
    following = readers.get(output, [])
    for mean in following:
        chain = [mean, *readers.get(graph.node[mean].output[0], [])]
        if graph.node[mean].op_type != "ReduceMean" or len(chain) != 2:
            continue
        known = weighted.get(chain[1])
        later = all(place > chain[1] for place in following if place != mean)
        if known is not None and known.gives is None and known.routes <= routes and later:
            return chain
    return []


def _side(
    graph: Any, add: int, output: str, readers: Mapping[str, list[int]], weighted: Mapping[int, Weighted]
) -> list[int]:
    """The convolution whose result is added to a branch's ``output``, if nobody else reads it: a projected shortcut."""
    other = next((name for name in graph.node[add].input if name != output), "")
    for place, node in enumerate(graph.node):
        if other in node.output and node.op_type == "Conv" and place not in weighted and len(readers[other]) == 1:
            return [place]
    return []


def flat(onnx: Any, node: Any, weights: Mapping[str, Any]) -> Any:
    """A reshape to two dimensions as a flatten: the number of channels is not a constant any more."""
    if node.op_type == "Reshape" and len(weights.get(node.input[1], ())) == 2:
        return onnx.helper.make_node("Flatten", [node.input[0]], list(node.output), axis=1)
    return node


def without_repeats_(graph: Any) -> None:
    """Take out every ReLU of what is a ReLU's (or its pooling's) already: heads begin with one."""
    positive: set[str] = set()
    kept: list[Any] = []
    renamed: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = renamed.get(name, name)
        if node.op_type == "Relu" and node.input[0] in positive:
            renamed[node.output[0]] = node.input[0]
            continue
        if node.op_type == "Relu" or (node.op_type in ("MaxPool", "AveragePool") and node.input[0] in positive):
            positive.add(node.output[0])
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def names_read(graph: Any) -> Counter[str]:
    """How often each name is read, in the graph and in all graphs inside it; outputs count too."""
    read = Counter(value.name for value in graph.output)
    for node in graph.node:
        read.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read.update(names_read(attribute.g))
    return read
