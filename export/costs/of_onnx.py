"""MACs, parameters and bytes of an ONNX file, counted from its graph without torch.

The same operators count as in ``slimsight.compress.macs``: all that sum up products with weights (``onnx_operators``),
one fused multiply-add each; products of two activations (attention) do not. Integer forms count alike. Weights are
stored tensors and what is computed from these, and from shapes, alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import printable

from ..onnx_files.graph import external_files, nested_graphs, subgraphs
from .layers import LayerCost, ModelCost, Shape, merge_calls
from .onnx_operators import (
    CONVOLUTIONS,
    PACKED,
    PRODUCTS,
    RECURRENT,
    SUMS,
    Operands,
    kind_of,
    operands_of,
    refuse_uncounted,
    sums_products,
)
from .onnx_params import count_onnx_params
from .onnx_shapes import known_dims, with_shapes
from .onnx_sums import einsum_factors

_OF_SHAPES = ("Shape", "Size")


def onnx_cost(path: Path, image: Shape | None = None) -> ModelCost:
    """The cost of the model in an ONNX file for one image.

    Of an ``If`` the dearer branch counts: the MACs of a routed file are those of its dearest route. Parameters are the
    elements of stored weights: of a BatchNorm that was folded into a convolution, only the bias.

    Args:
        image: (C, H, W), for a file that takes images of any size.

    Raises:
        ExportError: the file is missing or is not an ONNX file; its input is not images, or not of size ``image``; a
            shape in it is unknown; an operator may hold weights and cannot be counted (it is named); or the number of
            calls of a layer depends on the data.
    """
    try:
        shaped = with_shapes(path, image, needed=lambda graph: _needed_values(graph, path))
        scope = _Scope(path, dict(shaped.dims), {}).inside(shaped.graph)
        layers = merge_calls(_layers(shaped.graph, scope), shaped.batch)
        params = count_onnx_params(shaped.graph)
    except (LookupError, ArithmeticError, ValueError, TypeError) as error:  # a node without inputs, sizes of zero
        raise ExportError(f"{path} is not well-formed ({' '.join(str(error).split())}): export it again") from error
    return ModelCost(macs=sum(layer.macs for layer in layers), params=params, layers=layers, image=shaped.image)


def onnx_bytes(path: Path) -> int:
    """Bytes on the disk of an ONNX file and of the files beside it with its weights.

    Raises:
        ExportError: one of them is missing.
    """
    try:
        return sum(file.stat().st_size for file in (path, *(path.parent / name for name in external_files(path))))
    except FileNotFoundError as error:
        raise ExportError(f"{path} keeps weights in {error.filename}, which is missing: copy both") from error


@dataclass
class _Scope:
    """The shapes and the constants that the nodes of a graph can refer to."""

    path: Path
    dims: dict[str, tuple[int, ...]]
    stored: dict[str, str]  # constant value -> the stored tensor that it comes from

    def inside(self, graph: Any) -> _Scope:
        """The scope of a graph inside of this one."""
        names = [tensor.name for tensor in graph.initializer]
        names += [sparse.values.name for sparse in graph.sparse_initializer]
        return _Scope(self.path, {**self.dims, **known_dims(graph)}, {**self.stored, **{name: name for name in names}})

    def shape(self, name: str, node: Any) -> tuple[int, ...]:
        """The shape of a value that ``node`` reads or writes."""
        if name not in self.dims:
            raise ExportError(
                f"{self.path}: the shape of '{name}' at {node.op_type} '{node.name}' is not known, so its MACs cannot "
                "be counted: export the model without operators of other domains than ONNX's own"
            )
        return self.dims[name]

    def fold(self, node: Any) -> bool:
        """Whether a node computes the same for every image; its outputs then are constants, too."""
        reads = _reads(node)
        source = node.output[0] if node.op_type in ("Constant", *_OF_SHAPES) and not node.domain else None
        if source is None:
            if not reads or not all(name in self.stored for name in reads):
                return False
            source = self.stored[reads[0]]
        self.stored |= dict.fromkeys(node.output, source)
        return True


def _reads(node: Any) -> list[str]:
    """The values that a node reads, those that graphs inside of it read from outside of them included."""
    names = [name for name in node.input if name]
    for inner in subgraphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}
        own |= {sparse.values.name for sparse in inner.sparse_initializer}
        for each in inner.node:
            names += [name for name in _reads(each) if name not in own]
            own |= {*each.output}
        names += [value.name for value in inner.output if value.name not in own]
    return names


def _needed_values(graph: Any, path: Path) -> list[str]:
    """The values whose shapes determine the cost of a graph's nodes.

    Raises:
        ExportError: an operator may hold weights and cannot be counted.
    """
    scope, needed = _Scope(path, {}, {}).inside(graph), []
    for node in graph.node:
        if scope.fold(node):
            continue
        refuse_uncounted(node, path)
        if operands := operands_of(node):
            positions = (operands.data, operands.weight, *operands.more) if kind_of(node) not in PACKED else (0,)
            needed += [node.input[position] for position in positions if position < len(node.input)]
            needed += [name for name in node.output[:1] if name]
        elif kind_of(node) in SUMS:
            needed += node.input
    return needed


def _layers(graph: Any, scope: _Scope) -> Iterator[LayerCost]:
    """What runs and sums up products with weights, in the order of the graph; once per call of a layer."""
    for node in graph.node:
        kind = kind_of(node)
        if scope.fold(node):
            continue
        refuse_uncounted(node, scope.path)
        if kind in CONVOLUTIONS:
            yield _convolution_cost(node, CONVOLUTIONS[kind], scope)
        elif kind in PRODUCTS:
            yield from _product_cost(node, PRODUCTS[kind], scope)
        elif kind in RECURRENT:
            yield _recurrent_cost(node, RECURRENT[kind], scope)
        elif kind in PACKED:
            yield _packed_cost(node, PACKED[kind], scope)
        elif kind in SUMS:
            yield from _einsum_cost(node, scope)
        elif node.op_type == "If":
            yield from _dearest_branch(node, scope)
        else:
            _refuse_repeated_layers(node, scope)


def _dearest_branch(node: Any, scope: _Scope) -> list[LayerCost]:
    branches = [(graph, scope.inside(graph)) for graph in subgraphs(node)]
    layers = [list(_layers(graph, inner)) for graph, inner in branches]
    for position, name in enumerate(node.output):
        sources = [inner.stored.get(graph.output[position].name) for graph, inner in branches]
        if None not in sources:  # a choice of weights
            scope.stored[name] = sources[0] or name
    return max(layers, key=lambda each: sum(layer.macs for layer in each), default=[])


def _refuse_repeated_layers(node: Any, scope: _Scope) -> None:
    for inner in (each for graph in subgraphs(node) for each in nested_graphs(graph)):
        for each in inner.node:
            refuse_uncounted(each, scope.path)
            if sums_products(each):
                raise ExportError(
                    f"{scope.path}: {node.op_type} '{printable(node.name)}' repeats the {each.op_type} "
                    f"'{printable(each.name)}' a number of times that depends on the data: its MACs cannot be counted"
                )


def _convolution_cost(node: Any, operands: Operands, scope: _Scope) -> LayerCost:
    name = node.input[operands.weight]
    weight = scope.shape(name, node)
    read, written = scope.shape(node.input[operands.data], node), scope.shape(node.output[0], node)
    groups = max(1, _number(node, "group", 1))
    transposed = "Transpose" in node.op_type
    inputs, outputs = (weight[0], weight[1] * groups) if transposed else (weight[1] * groups, weight[0])
    pixels = slice(1, -1) if _number(node, "channels_last", 0) else slice(2, None)
    applied = read if transposed else written
    positions = applied[0] * math.prod(applied[pixels])
    return LayerCost(
        name=_layer_name(node, name, scope),
        macs=math.prod(weight) * positions,
        params=math.prod(weight) + _bias_size(node, operands.bias, scope),
        inputs=inputs,
        outputs=outputs,
        groups=groups,
        kernel=math.prod(weight[2:]),
        positions=positions,
        reads=read[0] * math.prod(read[pixels]),
    )


def _product_cost(node: Any, operands: Operands, scope: _Scope) -> Iterator[LayerCost]:
    first, second = node.input[operands.data], node.input[operands.weight]
    if operands.bias is None and first not in scope.stored and second not in scope.stored:
        return  # of two activations: not a layer
    weight = first if first in scope.stored else second
    left = _factor_shape(node, "A", scope.shape(first, node))
    right = _factor_shape(node, "B", scope.shape(second, node))
    inputs = left[-1]
    outputs = (left[-2] if len(left) > 1 else 1) if weight == first else right[-1] if len(right) > 1 else 1
    attends = "Attention" in node.op_type
    written = (*left[:-1], right[-1]) if attends else scope.shape(node.output[0], node)
    macs, size = math.prod(written) * inputs, math.prod(scope.shape(weight, node))
    positions = max(1, math.prod(written) // max(1, outputs))
    yield LayerCost(
        name=_layer_name(node, weight, scope),
        macs=macs,
        params=size + _bias_size(node, operands.bias, scope),
        inputs=inputs,
        outputs=outputs,
        positions=positions,
        reads=positions,
    )


def _factor_shape(node: Any, side: str, dims: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a factor, (..., rows, inputs) on the left (``A``) and (..., inputs, outputs) on the right."""
    if len(dims) < 2:
        return dims
    if _number(node, f"transBatch{side}", 0):
        dims = (*dims[1:-1], dims[0], dims[-1])
    transposed = _number(node, f"trans{side}", 0)
    return (*dims[:-2], dims[-1], dims[-2]) if transposed else dims


def _packed_cost(node: Any, operands: Operands, scope: _Scope) -> LayerCost:
    inputs, outputs = _number(node, "K", 0), _number(node, "N", 0)
    positions = math.prod(scope.shape(node.input[operands.data], node)) // inputs
    return LayerCost(
        name=_layer_name(node, node.input[operands.weight], scope),
        macs=inputs * outputs * positions,
        params=inputs * outputs + _bias_size(node, operands.bias, scope),
        inputs=inputs,
        outputs=outputs,
        positions=positions,
        reads=positions,
    )


def _recurrent_cost(node: Any, operands: Operands, scope: _Scope) -> LayerCost:
    """All steps of a recurrent layer; every weight is read once in a step."""
    data = scope.shape(node.input[operands.data], node)
    sizes = [math.prod(scope.shape(node.input[position], node)) for position in (operands.weight, *operands.more)]
    positions = data[0] * data[1]
    outputs = sizes[0] // data[2]
    return LayerCost(
        name=_layer_name(node, node.input[operands.weight], scope),
        macs=positions * sum(sizes),
        params=sum(sizes) + _bias_size(node, operands.bias, scope),
        inputs=sum(sizes) // outputs,
        outputs=outputs,
        positions=positions,
        reads=positions,
    )


def _einsum_cost(node: Any, scope: _Scope) -> Iterator[LayerCost]:
    stored = [name for name in node.input if name in scope.stored]
    if not stored:
        return  # of activations: not a layer
    equation = next((value.s.decode() for value in node.attribute if value.name == "equation"), "")
    where = f"{scope.path}: Einsum '{printable(node.name or node.output[0])}' ({printable(equation)})"
    if len(node.input) != 2:
        raise ExportError(f"{where} holds weights among {len(node.input)} factors, and its MACs are not counted")
    shapes = [scope.shape(name, node) for name in node.input]
    factors = einsum_factors(equation, shapes, weight=[*node.input].index(stored[0]))
    if factors is None:
        return  # nothing is summed up: a scale
    contracted, outputs, groups, positions = factors
    yield LayerCost(
        name=_layer_name(node, stored[0], scope),
        macs=contracted * outputs * groups * positions,
        params=math.prod(scope.shape(stored[0], node)),
        inputs=contracted * groups,
        outputs=outputs * groups,
        groups=groups,
        positions=positions,
        reads=positions,
    )


def _number(node: Any, name: str, default: int) -> int:
    return next((int(value.i) for value in node.attribute if value.name == name), default)


def _bias_size(node: Any, position: int | None, scope: _Scope) -> int:
    if position is None or len(node.input) <= position or node.input[position] not in scope.stored:
        return 0
    return math.prod(scope.shape(node.input[position], node))


def _layer_name(node: Any, weight: str, scope: _Scope) -> str:
    """A layer's name in the exported model: from its weight, else from its node (``/features/0/Conv``)."""
    stored = scope.stored.get(weight, "").removesuffix("_quantized")
    if stored.endswith(".weight"):
        return stored.removesuffix(".weight")
    module, slash, operator = str(node.name).rpartition("/")
    if slash and operator.partition(".")[0].startswith(node.op_type):
        return module.strip("/")
    return str(node.name) or str(node.output[0])
