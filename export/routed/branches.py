"""`If` branches: nodes of a graph again and again, each time with the slices of their weights that one route needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clusters import Weighted

Array = NDArray[Any]
Choice = Mapping[int, int]
"""Route -> number of the mask that it took."""


class Slicer:
    """Cuts the weights of a node down to what a choice of masks leaves open.

    Args:
        masks: per route (masks, channels) values; 0 is closed.
    """

    def __init__(self, onnx: Any, weights: Mapping[str, Array], masks: Sequence[Array]) -> None:
        self.onnx, self.weights, self.masks = onnx, weights, masks

    def opened(self, route: int, choice: Choice) -> Array:
        """(channels,) whether a channel of the route is open."""
        opened: Array = self.masks[route][choice[route]] > 0
        return opened

    def cut(self, node: Any, what: Weighted, choice: Choice) -> tuple[Any, dict[str, Array]]:
        """A copy of ``node`` and its sliced weights, by the names that the copy reads.

        A closed input is not read; an open one counts times its mask's value, as where the gate was learned.
        """
        copy = self.onnx.NodeProto()
        copy.CopyFrom(node)
        constants: dict[str, Array] = {}
        for position, name in enumerate(node.input):
            if name in self.weights and position > 0:
                # Exporters store equal tensors once: two layers of a branch may share a name, and not a slice.
                copy.input[position] = f"{name}/{node.output[0]}"
                constants[copy.input[position]] = self._slice(node, position, self.weights[name], what, choice)
        if what.follows and node.op_type == "Conv":
            assert what.gives is not None
            for attribute in copy.attribute:
                if attribute.name == "group":
                    attribute.i = int(self.opened(what.gives, choice).sum())
        return copy, constants

    def _slice(self, node: Any, position: int, array: Array, what: Weighted, choice: Choice) -> Array:
        columns = (position == 1 and node.op_type == "MatMul") or (node.op_type == "Gemm" and not _turned(node))
        if position == 1 and columns:
            array = array.T
        if what.gives is not None:
            array = array[self.opened(what.gives, choice)]
        if position == 1 and what.reads and not what.follows:
            factor = np.ones(array.shape[1], array.dtype)
            for route, slot in what.reads:
                factor[list(slot.positions)] = self.masks[route][choice[route]][list(slot.sources)]
            shape = (1, -1) + (1,) * (array.ndim - 2)
            array = (array * factor.reshape(shape))[:, factor > 0]
        return np.ascontiguousarray(array.T if position == 1 and columns else array)

    def widened(self, output: str, route: int, choice: Choice) -> tuple[list[Any], dict[str, Array], str]:
        """Nodes that put the open channels of ``output`` back in their places, times their gates, among zeros."""
        make, opened = self.onnx.helper.make_node, self.opened(route, choice)
        names = {part: f"{output}.{part}" for part in ("gates", "gated", "pads", "padded", "places", "wide")}
        places = np.full(len(opened), int(opened.sum()), np.int64)
        places[opened] = np.arange(int(opened.sum()))
        constants = {
            names["gates"]: self.masks[route][choice[route]][opened].reshape(1, -1, 1, 1),
            names["pads"]: np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64),
            names["places"]: places,
        }
        nodes = [
            make("Mul", [output, names["gates"]], [names["gated"]]),
            make("Pad", [names["gated"], names["pads"]], [names["padded"]]),
            make("Gather", [names["padded"], names["places"]], [names["wide"]], axis=1),
        ]
        return nodes, constants, names["wide"]


def _turned(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


Span = tuple[int, int, int]
"""A route and the range of its masks (first, last + 1) that is still open."""


class Tree:
    """Nested `If` nodes over the masks of one or more routes; every step halves the masks of a route.

    Args:
        condition: gives the name of a bool scalar: whether the mask of a route is below a number.
    """

    def __init__(self, onnx: Any, condition: Callable[[int, int], str]) -> None:
        self.onnx, self._condition, self._names = onnx, condition, 0

    def fresh(self, stem: str) -> str:
        """A name that no other node of the graph has."""
        self._names += 1
        return f"{stem}/{self._names}"

    def build(self, spans: Sequence[Span], leaf_of: Callable[[Choice], Any], outputs: Sequence[str]) -> Any:
        """The `If` node that gives ``outputs``: of the branch for the masks that the routes took.

        Args:
            spans: at least one of them has two masks or more.
            leaf_of: the graph of one choice, with as many outputs.
        """
        place = next(place for place, (_, first, end) in enumerate(spans) if end - first > 1)
        route, first, end = spans[place]
        middle = (first + end) // 2
        below = [*spans[:place], (route, first, middle), *spans[place + 1 :]]
        above = [*spans[:place], (route, middle, end), *spans[place + 1 :]]
        return self.onnx.helper.make_node(
            "If",
            [self._condition(route, middle)],
            list(outputs),
            name=self.fresh("route"),
            then_branch=self._branch(below, leaf_of, len(outputs)),
            else_branch=self._branch(above, leaf_of, len(outputs)),
        )

    def _branch(self, spans: Sequence[Span], leaf_of: Callable[[Choice], Any], count: int) -> Any:
        if all(end - first == 1 for _, first, end in spans):
            return leaf_of({route: first for route, first, _ in spans})
        outputs = [self.fresh("chosen") for _ in range(count)]
        values = [self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None) for name in outputs]
        return self.onnx.helper.make_graph([self.build(spans, leaf_of, outputs)], self.fresh("branch"), [], values)


def leaf(onnx: Any, tree: Tree, nodes: Sequence[Any], constants: Mapping[str, Array], outputs: Sequence[str]) -> Any:
    """A branch: copies of ``nodes`` under names of their own, with ``constants`` in the place of their weights."""
    names = {name: tree.fresh(name) for name in constants}
    for node in nodes:
        names.update({name: tree.fresh(name) for name in node.output})
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for field in (copy.input, copy.output):
            renamed = [names.get(name, name) for name in field]
            del field[:]
            field.extend(renamed)
        copy.name = tree.fresh(node.name or node.op_type)
        copies.append(copy)
    values = [onnx.helper.make_tensor_value_info(names[output], onnx.TensorProto.FLOAT, None) for output in outputs]
    stored = [onnx.numpy_helper.from_array(array, names[name]) for name, array in constants.items()]
    return onnx.helper.make_graph(copies, tree.fresh("branch"), [], values, initializer=stored)
