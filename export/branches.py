"""`If` branches: nodes of a graph again and again, each time with the slices of their weights that one route needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
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


def choices_of(routes: Sequence[int], counts: Sequence[int]) -> list[dict[int, int]]:
    """Every combination of masks of ``routes``, in the order of ``combined``'s numbers."""
    return [dict(zip(routes, numbers, strict=True)) for numbers in product(*(range(counts[r]) for r in routes))]


class Tree:
    """Nested `If` nodes over a number 0 .. n-1: each step halves the range."""

    def __init__(self, onnx: Any) -> None:
        self.onnx, self._names = onnx, 0

    def fresh(self, stem: str) -> str:
        """A name that no other node of the graph has."""
        self._names += 1
        return f"{stem}/{self._names}"

    def build(self, number: str, leaves: Sequence[Any], output: str, low: int = 0) -> list[Any]:
        """Nodes that give ``output``, by leaf graph ``number``.

        Args:
            number: name of an int64 scalar.
            leaves: graphs of one output each, two at least.
        """
        helper = self.onnx.helper
        middle = (len(leaves) + 1) // 2
        limit, condition = self.fresh("limit"), self.fresh("is_low")
        value = helper.make_tensor(limit, self.onnx.TensorProto.INT64, [], [low + middle])
        return [
            helper.make_node("Constant", [], [limit], value=value),
            helper.make_node("Less", [number, limit], [condition]),
            helper.make_node(
                "If",
                [condition],
                [output],
                name=self.fresh("route"),
                then_branch=self._branch(number, leaves[:middle], low),
                else_branch=self._branch(number, leaves[middle:], low + middle),
            ),
        ]

    def _branch(self, number: str, leaves: Sequence[Any], low: int) -> Any:
        if len(leaves) == 1:
            return leaves[0]
        output = self.fresh("chosen")
        nodes = self.build(number, leaves, output, low)
        value = self.onnx.helper.make_tensor_value_info(output, self.onnx.TensorProto.FLOAT, None)
        return self.onnx.helper.make_graph(nodes, self.fresh("branch"), [], [value])


def leaf(onnx: Any, tree: Tree, nodes: Sequence[Any], constants: Mapping[str, Array], output: str) -> Any:
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
        copy.name = tree.fresh(node.op_type)
        copies.append(copy)
    value = onnx.helper.make_tensor_value_info(names[output], onnx.TensorProto.FLOAT, None)
    stored = [onnx.numpy_helper.from_array(array, names[name]) for name, array in constants.items()]
    return onnx.helper.make_graph(copies, tree.fresh("branch"), [], [value], initializer=stored)
