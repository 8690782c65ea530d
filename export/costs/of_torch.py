"""The costs of torch modules and ``.pt2`` files, by layer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from slimsight.compress.errors import ExportError, ModelError, first_error_line
from slimsight.compress.macs import count_macs, count_params, count_products

from ..pt2.export import load_program
from .layers import LayerCost, ModelCost, Shape, merge_calls

_CONVOLUTIONS = frozenset({"conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d"})
_LINEAR = frozenset({"linear", "addmm"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm"})


def module_cost(model: nn.Module, image: Shape) -> ModelCost:
    """The cost of ``model`` for one image of (C, H, W), counted by `count_macs`; its training mode is restored.

    Calls of ``torch.nn.functional`` count in the total only.
    """
    example = torch.zeros(1, *image)
    counted = count_macs(model, example)
    modules = dict(model.named_modules())
    calls: dict[str, list[tuple[torch.Size, torch.Size]]] = {}
    hooks = [
        modules[name].register_forward_hook(
            lambda _module, args, out, name=name: calls.setdefault(name, []).append((args[0].shape, out.shape))
        )
        for name in counted.layers
    ]
    modes = {name: module.training for name, module in modules.items()}
    try:
        with torch.inference_mode():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for name, module in modules.items():
            module.training = modes[name]
    layers = tuple(
        _module_layer(name, modules[name], macs, calls.get(name, ())) for name, macs in counted.layers.items() if macs
    )
    return ModelCost(counted.total, count_params(model), layers, image)


def _module_layer(name: str, module: nn.Module, macs: int, calls: Any) -> LayerCost:
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    if isinstance(module, _ConvNd):
        applied = [read if isinstance(module, _ConvTransposeNd) else written for read, written in calls]
        return LayerCost(
            name,
            macs,
            own,
            inputs=module.in_channels,
            outputs=module.out_channels,
            groups=module.groups,
            kernel=math.prod(module.kernel_size),
            positions=sum(math.prod(shape[2:]) for shape in applied),
            reads=sum(math.prod(read[2:]) for read, _ in calls) or 1,
        )
    assert isinstance(module, nn.Linear)
    positions = sum(math.prod(written[:-1]) for _, written in calls) or 1
    return LayerCost(
        name, macs, own, inputs=module.in_features, outputs=module.out_features, positions=positions, reads=positions
    )


def pt2_cost(path: Path) -> ModelCost:
    """The cost of the program in a ``.pt2`` file for one image: counted while it runs on one, layers from its graph.

    What is no convolution, linear layer or matrix product with a stored weight counts in the total only.

    Raises:
        ExportError: the file is missing or is not a ``.pt2``, its input is not one batch of images, or an operator sums
            up products with a weight in a way that cannot be counted; it is named.
    """
    program = load_program(path)
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    inputs = [node for node in program.graph.nodes if node.name in signature.user_inputs]
    is_tensor = len(inputs) == 1 and isinstance(inputs[0].meta.get("val"), Tensor)
    shape = _sizes(inputs[0].meta["val"]) if is_tensor else ()
    if len(shape) != 4:
        raise ExportError(f"{path} takes no single batch of images (batch, C, H, W): MACs are counted per image")
    layers = merge_calls(_program_layers(program.graph, names), shape[0])
    params = sum(parameter.numel() for parameter in program.parameters())
    device = next(iter([*program.parameters(), *program.buffers()]), torch.empty(0)).device
    example = torch.zeros(shape, dtype=inputs[0].meta["val"].dtype, device=device)
    try:
        macs = count_products(program.module(), example)
    except ModelError as error:
        raise ExportError(f"{path}: {error}") from error
    except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
        size = "x".join(map(str, shape))
        raise ExportError(
            f"{path} does not run on images of {size} ({first_error_line(error)}): export it again"
        ) from error
    return ModelCost(macs // shape[0], params, layers, (shape[1], shape[2], shape[3]))


def _program_layers(graph: torch.fx.Graph, names: dict[str, str]) -> Iterator[LayerCost]:
    for node in graph.nodes:
        kind = getattr(node.target, "_opname", "")
        if node.op != "call_function":
            continue
        weights = [source for source in node.all_input_nodes if source.name in names]
        if kind in _PRODUCTS and any(factor in weights for factor in node.args[:2]):
            yield _product_layer(node, weights[0], names)
        if kind not in _CONVOLUTIONS | _LINEAR:
            continue
        data, weight = (node.args[1], node.args[2]) if kind == "addmm" else (node.args[0], node.args[1])
        bias = node.args[0] if kind == "addmm" else node.args[2] if len(node.args) > 2 else None
        shape, read, written = _sizes(weight.meta["val"]), _sizes(data.meta["val"]), _sizes(node.meta["val"])
        name = names.get(weight.name, node.name).removesuffix(".weight")
        params = math.prod(shape) + (0 if bias is None else math.prod(_sizes(bias.meta["val"])))
        if kind in _LINEAR:
            inputs, positions = read[-1], math.prod(written[:-1])
            yield LayerCost(
                name, math.prod(written) * inputs, params, inputs, written[-1], positions=positions, reads=positions
            )
            continue
        transposed = "transpose" in kind or (kind == "convolution" and bool(node.args[6]))
        inputs, outputs = read[1], written[1]
        applied = read if transposed else written
        positions = applied[0] * math.prod(applied[2:])
        yield LayerCost(
            name,
            math.prod(shape) * positions,
            params,
            inputs=inputs,
            outputs=outputs,
            groups=outputs // shape[1] if transposed else inputs // shape[1],
            kernel=math.prod(shape[2:]),
            positions=positions,
            reads=read[0] * math.prod(read[2:]),
        )


def _product_layer(node: Any, weight: Any, names: dict[str, str]) -> LayerCost:
    """The cost of a matrix product with a stored weight."""
    inner = _sizes(node.args[0].meta["val"])[-1]
    macs, params = math.prod(_sizes(node.meta["val"])) * inner, math.prod(_sizes(weight.meta["val"]))
    outputs = max(1, params // inner)
    positions = max(1, macs // (inner * outputs))
    return LayerCost(names[weight.name], macs, params, inner, outputs, positions=positions, reads=positions)


def _sizes(value: Tensor) -> tuple[int, ...]:
    """The shape of a value, with 1 for a free batch size."""
    return tuple(_size(size) for size in value.shape)


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
