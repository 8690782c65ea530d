"""Clean-up of a graph that torch's exporter wrote: layer names, constant shapes, no paths of the machine."""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from typing import Any

from .graph import BATCH_DIM, subgraphs


def name_layers_(graph: Any) -> None:
    """Name each node after the layer that it computes, for profilers, engines and ``first_difference``."""
    stored = {tensor.name for tensor in graph.initializer}
    uses: Counter[str] = Counter()
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 and node.input[1] in stored else ""
        # BatchNorm was folded into its convolution, whose weight still has its own name.
        layer = weight.removesuffix(".weight") if weight.endswith(".weight") else _module_name(node)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        uses[name] += 1
        node.name = name if uses[name] == 1 else f"{name}.{uses[name] - 1}"


def _module_name(node: Any) -> str:
    """The module in whose forward() a node was traced: the last but one of its scopes."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key.endswith(".name_scopes")), "[]")
    return str((["", "", *ast.literal_eval(scopes)])[-2])


def with_constant_shapes_(graph: Any) -> None:
    """Replace shapes that a Reshape computes from the batch size by stored ones, with -1 for the batch.

    The exporter of torch 2.11 computes them; newer ones store them already.
    """
    numpy, helper = importlib.import_module("numpy"), importlib.import_module("onnx.numpy_helper")
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, position))
    for value in graph.output:
        readers.setdefault(value.name, []).append((value, 0))
    batch_sizes = {node.output[0]: node for node in graph.node if node.op_type == "Shape" and _gives_one_size(node)}
    for node in [node for node in graph.node if node.op_type == "Concat"]:
        is_shape = all(
            getattr(reader, "op_type", "") == "Reshape" and at == 1 for reader, at in readers.get(node.output[0], ())
        )
        unknown = [name for name in node.input if name not in stored]
        if not is_shape or len(unknown) != 1 or unknown[0] not in batch_sizes:
            continue
        sizes = [[-1] if name in batch_sizes else helper.to_array(stored[name]) for name in node.input]
        shape = numpy.concatenate(sizes).astype(numpy.int64)
        if (shape == -1).sum() != 1 or (shape == 0).any():
            continue
        graph.initializer.append(helper.from_array(shape, node.output[0]))
        graph.node.remove(node)
        for name in set(node.input):
            readers[name] = [(reader, at) for reader, at in readers[name] if reader is not node]
            if not readers[name]:
                (graph.initializer if name in stored else graph.node).remove(stored.get(name) or batch_sizes[name])


def _gives_one_size(shape: Any) -> bool:
    """Whether a Shape node returns a single size, by its ``start`` and ``end``."""
    bounds = {attribute.name: attribute.i for attribute in shape.attribute}
    return "end" in bounds and bounds["end"] - bounds.get("start", 0) == 1


def tidy_(proto: Any) -> None:
    """Name the batch dimension, and drop the exporter's notes, which hold paths of the machine it ran on."""
    graph = proto.graph
    for value in (*graph.input, *graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.dim_param:
            first.dim_param = BATCH_DIM
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
    for message in (graph, proto):
        del message.metadata_props[:]
        message.doc_string = ""


def training_nodes(graph: Any) -> list[str]:
    """Nodes that compute in training mode, of a graph and of its branches, as ``Dropout 'name'``."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            stored[node.output[0]] = node.attribute[0].t
    in_training = []
    for node in graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = stored.get(node.input[2])
            trains = mode is None or any(mode.raw_data) or any(mode.int32_data)
        else:
            trains = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        if trains:
            in_training.append(f"{node.op_type} '{node.name}'")
        for inner in subgraphs(node):
            in_training += training_nodes(inner)
    return in_training
