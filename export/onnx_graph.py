"""What is done to a graph that torch's exporter made, and what is asked of one that anybody made."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

BATCH = "batch"


def name_layers_(graph: Any) -> None:
    """Name each node after the layer that it computes: profilers, engines and ``first_difference`` then say it."""
    stored = {tensor.name for tensor in graph.initializer}
    taken: Counter[str] = Counter()
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 and node.input[1] in stored else ""
        # BatchNorm was folded into its convolution, whose weight still has its own name.
        layer = weight.removesuffix(".weight") if weight.endswith(".weight") else _module(node)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}.{taken[name] - 1}"


def _module(node: Any) -> str:
    """The module in whose forward() the exporter met a node: the last but one of its scopes."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith(".name_scopes")), "[]")
    return str((["", "", *ast.literal_eval(scopes)])[-2])


def tidy_(proto: Any) -> None:
    """Name the free dimension and drop the exporter's notes: they hold paths of the machine it ran on."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = BATCH
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
    for holder in (graph, proto):
        del holder.metadata_props[:]
        holder.doc_string = ""


def training_nodes(graph: Any) -> list[str]:
    """Operators of a graph (and of its branches) that compute what only training needs, as ``Dropout 'name'``."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute[0].HasField("t")}
    found = []
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = stored.get(node.input[2])
            trains = mode is None or any(mode.raw_data) or any(mode.int32_data)
        else:
            trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if trains:
            found.append(f"{node.op_type} '{node.name}'")
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += training_nodes(attribute.g)
    return found
