"""Branches of `If` nodes: copies of a cluster's nodes with weights sliced to the open channels of a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clusters import RouteUse

Array = NDArray[Any]
Choice = Mapping[int, int]
"""Route -> number of its chosen mask."""


class WeightSlicer:
    """Slices the weights of a node to the channels that a choice of masks leaves open.

    Args:
        masks: (masks, channels) gate values of each route; 0 is closed.
    """

    def __init__(self, onnx: Any, weights: Mapping[str, Array], masks: Sequence[Array]) -> None:
        self.onnx, self.weights, self.masks = onnx, weights, masks

    def open_channels(self, route: int, choice: Choice) -> Array:
        """(channels,) bool: the open channels of a route."""
        channels: Array = self.masks[route][choice[route]] > 0
        return channels

    def slice_node(self, node: Any, use: RouteUse, choice: Choice) -> tuple[Any, dict[str, Array]]:
        """A copy of ``node``, and its sliced weights by the names that the copy reads.

        Weights of closed inputs are dropped; those of open inputs are multiplied by the gate, as in learning.
        """
        copy = self.onnx.NodeProto()
        copy.CopyFrom(node)
        constants: dict[str, Array] = {}
        for position, name in enumerate(node.input):
            if name in self.weights and position > 0:
                # Exporters store equal tensors once: two layers of a branch may share a tensor, but not its slice.
                copy.input[position] = f"{name}/{node.output[0]}"
                constants[copy.input[position]] = self._slice(node, position, self.weights[name], use, choice)
        if use.channelwise and node.op_type == "Conv":
            assert use.output is not None
            for attribute in copy.attribute:
                if attribute.name == "group":
                    attribute.i = int(self.open_channels(use.output, choice).sum())
        return copy, constants

    def _slice(self, node: Any, position: int, array: Array, use: RouteUse, choice: Choice) -> Array:
        columns = (position == 1 and node.op_type == "MatMul") or (node.op_type == "Gemm" and not _is_transposed(node))
        if position == 1 and columns:
            array = array.T
        if use.output is not None:
            array = array[self.open_channels(use.output, choice)]
        if position == 1 and use.inputs and not use.channelwise:
            gates = np.ones(array.shape[1], array.dtype)
            for route, slot in use.inputs:
                gates[list(slot.positions)] = self.masks[route][choice[route]][list(slot.sources)]
            shape = (1, -1) + (1,) * (array.ndim - 2)
            array = (array * gates.reshape(shape))[:, gates > 0]
        return np.ascontiguousarray(array.T if position == 1 and columns else array)

    def expand_output(self, output: str, route: int, choice: Choice) -> tuple[list[Any], dict[str, Array], str]:
        """Nodes that expand ``output`` to full width: open channels times their gates, zeros for the others.

        Returns the nodes, their constants by name, and the name of the expanded value.
        """
        make, opened = self.onnx.helper.make_node, self.open_channels(route, choice)
        names = {part: f"{output}.{part}" for part in ("gates", "gated", "pads", "padded", "places", "wide")}
        indices = np.full(len(opened), int(opened.sum()), np.int64)
        indices[opened] = np.arange(int(opened.sum()))
        constants = {
            names["gates"]: self.masks[route][choice[route]][opened].reshape(1, -1, 1, 1),
            names["pads"]: np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64),
            names["places"]: indices,
        }
        nodes = [
            make("Mul", [output, names["gates"]], [names["gated"]]),
            make("Pad", [names["gated"], names["pads"]], [names["padded"]]),
            make("Gather", [names["padded"], names["places"]], [names["wide"]], axis=1),
        ]
        return nodes, constants, names["wide"]


def _is_transposed(node: Any) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


MaskRange = tuple[int, int, int]
"""A route and a range of its masks: (route, first, last + 1)."""


class BranchTree:
    """Builds nested `If` nodes over the masks of one or more routes; each level halves the masks of a route.

    Args:
        condition: the name of a bool scalar that tells whether the mask of a route is below a number.
    """

    def __init__(self, onnx: Any, condition: Callable[[int, int], str]) -> None:
        self.onnx, self._condition, self._names = onnx, condition, 0

    def unique_name(self, stem: str) -> str:
        """A name that occurs nowhere else in the graph."""
        self._names += 1
        return f"{stem}/{self._names}"

    def build(self, ranges: Sequence[MaskRange], branch_of: Callable[[Choice], Any], outputs: Sequence[str]) -> Any:
        """The `If` node whose ``outputs`` come from the branch of the chosen masks.

        Args:
            ranges: at least one of them has two masks or more.
            branch_of: the graph of one choice, with as many outputs.
        """
        split = next(index for index, (_, first, end) in enumerate(ranges) if end - first > 1)
        route, first, end = ranges[split]
        middle = (first + end) // 2
        below = [*ranges[:split], (route, first, middle), *ranges[split + 1 :]]
        above = [*ranges[:split], (route, middle, end), *ranges[split + 1 :]]
        return self.onnx.helper.make_node(
            "If",
            [self._condition(route, middle)],
            list(outputs),
            name=self.unique_name("route"),
            then_branch=self._subtree(below, branch_of, len(outputs)),
            else_branch=self._subtree(above, branch_of, len(outputs)),
        )

    def _subtree(self, ranges: Sequence[MaskRange], branch_of: Callable[[Choice], Any], count: int) -> Any:
        if all(end - first == 1 for _, first, end in ranges):
            return branch_of({route: first for route, first, _ in ranges})
        outputs = [self.unique_name("chosen") for _ in range(count)]
        values = [self.onnx.helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, None) for name in outputs]
        return self.onnx.helper.make_graph(
            [self.build(ranges, branch_of, outputs)], self.unique_name("branch"), [], values
        )


def to_branch(
    onnx: Any, tree: BranchTree, nodes: Sequence[Any], constants: Mapping[str, Array], outputs: Sequence[str]
) -> Any:
    """The graph of a branch: copies of ``nodes`` under unique names, with ``constants`` as their weights."""
    names = {name: tree.unique_name(name) for name in constants}
    for node in nodes:
        names.update({name: tree.unique_name(name) for name in node.output})
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for field in (copy.input, copy.output):
            renamed = [names.get(name, name) for name in field]
            del field[:]
            field.extend(renamed)
        copy.name = tree.unique_name(node.name or node.op_type)
        copies.append(copy)
    values = [onnx.helper.make_tensor_value_info(names[output], onnx.TensorProto.FLOAT, None) for output in outputs]
    stored = [onnx.numpy_helper.from_array(array, names[name]) for name, array in constants.items()]
    return onnx.helper.make_graph(copies, tree.unique_name("branch"), [], values, initializer=stored)
