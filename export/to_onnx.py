"""Export of a model to one ONNX file, weights included, and the check that its layers are the model's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from slimsight.compress.errors import ExportError, first_error_line
from slimsight.compress.files.atomic import atomic_path
from slimsight.compress.inputs import Example

from .onnx_files.graph import (
    HEAVY_OPERATORS,
    IMAGES_INPUT,
    LOGITS_OUTPUT,
    MAX_BYTES,
    import_onnx,
    read_onnx,
    runtime_inputs,
    static_sizes,
)
from .onnx_files.metadata import EMPTY_ABOUT, About, model_metadata, write_metadata_
from .onnx_files.tidy import name_layers_, tidy_, training_nodes, with_constant_shapes_
from .pt2.export import cpu_copy, silence_output, trace

WeightShape = tuple[int, ...]

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


def export_onnx(
    model: nn.Module,
    example: Example,
    path: Path,
    *,
    opset: int = 18,
    inputs: Sequence[str] = (IMAGES_INPUT,),
    outputs: Sequence[str] = (LOGITS_OUTPUT,),
    about: About = EMPTY_ABOUT,
) -> None:
    """Write ``model`` as one self-contained ONNX file of any batch size, atomically.

    The exporter folds each BatchNorm that follows a convolution into it; shapes of weights stay. Input
    ``images`` (batch, 3, H, W), raw in [0, 1]; output ``logits`` (batch, classes). Nodes are named after the
    layers that they compute; ``metadata_props`` describe the file (see ``onnx_files.metadata``).

    Args:
        model: raw images -> logits; copied to the CPU in eval mode, not changed.
        example: (N, 3, H, W), any N, or several inputs; only shapes and dtypes are used.
        path: the file to write.
        opset: version of ONNX's operator set.
        inputs: names of the model's inputs.
        outputs: names of the model's outputs; its logits are called ``logits`` and come first.
        about: metadata that cannot be read off the model.

    Raises:
        ExportError: the model cannot be traced, has an operator without ONNX form (at this opset), has an operator in
            training mode, or is larger than 2 GiB.
        RunError: the disk is full or the folder is not writable.
    """
    onnx = import_onnx()
    program = to_onnx_program(model, example, opset=opset, inputs=inputs, outputs=outputs)
    proto = program.model_proto
    if proto.ByteSize() > MAX_BYTES:
        raise ExportError(
            f"{type(model).__name__} needs {proto.ByteSize():,} bytes, and one ONNX file can have at most "
            f"{MAX_BYTES:,}: export to pt2 only"
        )
    with_constant_shapes_(proto.graph)
    name_layers_(proto.graph)
    tidy_(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{type(model).__name__} gives a graph that ONNX refuses at opset {opset}: {first_error_line(error)}; "
            "choose another opset, or export to pt2 only"
        ) from error
    if in_training := training_nodes(proto.graph):
        raise ExportError(
            f"{type(model).__name__} computes {in_training[0]} as in training even in eval mode: let it follow "
            "self.training (F.dropout(x, p, self.training), BatchNorm without a fixed training flag)"
        )
    logits = proto.graph.output[0].type.tensor_type.shape.dim if outputs[0] == LOGITS_OUTPUT else ()
    classes = logits[-1].dim_value if logits else None
    write_metadata_(proto, model_metadata(model, example, classes, about))
    with atomic_path(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))


def to_onnx_program(
    model: nn.Module,
    example: Example,
    *,
    opset: int,
    inputs: Sequence[str] = (IMAGES_INPUT,),
    outputs: Sequence[str] = (LOGITS_OUTPUT,),
) -> Any:
    """torch's ONNXProgram of ``model``, with its ``model_proto`` and the ``exported_program`` it was converted from.

    Raises:
        ExportError: as ``export_onnx``.
    """
    program = trace(model, example, named=outputs[0] != LOGITS_OUTPUT)
    try:
        with silence_output():
            converted = torch.onnx.export(
                program,
                (),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        raise ExportError(
            f"{type(model).__name__} has no ONNX form at opset {opset}: {first_error_line(error)}; "
            "choose another opset, or export to pt2 only"
        ) from error
    assert converted is not None
    # Where the model's operators need a newer opset than requested, torch silently keeps the newer one.
    stated = next(item.version for item in converted.model_proto.opset_import if not item.domain)
    if stated != opset:
        raise ExportError(
            f"{type(model).__name__} has no ONNX form at opset {opset}: its operators need opset {stated}; ask for "
            f"opset {stated} or newer, or export to pt2 only"
        )
    return converted


def conv_shapes(path: Path) -> list[WeightShape]:
    """Shapes of the weights of an ONNX file's layers, in the order of its graph.

    Convolutions (grouped and depthwise too) as (out, in / groups, k, k), Gemm and MatMul as (out, in).

    Raises:
        ExportError: the file is missing or is not an ONNX file.
    """
    return [layer.shape for layer in _file_layers(read_onnx(path))]


def verify_shapes(path: Path, model: nn.Module) -> None:
    """Check that the layers in an ONNX file have the shapes of the layers that ``model`` runs.

    The model runs once, as a copy in eval mode, on one image of the file's size: layers that it has but does not
    use are not expected.

    Raises:
        ExportError: the file is unreadable, or a layer differs: the first one is named, with both shapes.
    """
    proto = read_onnx(path)
    stored, used = _file_layers(proto), _model_layers(model, _image_shape(proto, path))
    # The exporter keeps the order of execution; an optimiser may not, so the order is not compared.
    if sorted(layer.shape for layer in stored) == sorted(layer.shape for layer in used):
        return
    for expected, actual in zip_longest(used, stored):
        if expected is None or actual is None or expected.shape != actual.shape:
            name = expected.name if expected is not None else actual.name
            raise ExportError(
                f"{path.name} does not contain this model: layer '{name}' is {_shape_text(expected)} in the model and "
                f"{_shape_text(actual)} in the file; export this model again"
            )
    raise AssertionError("sequences of different shapes differ somewhere")


class _Layer(NamedTuple):
    """A convolution or linear layer: its name, and the shape of its weight."""

    name: str
    shape: WeightShape


class _LayerRecorder(TorchFunctionMode):
    """Records the weight of each convolution and linear layer that runs inside the block, functional calls too."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names  # id(weight) -> its name in the model
        self.layers: list[_Layer] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        kind = getattr(func, "__name__", "")
        if kind in _CONVOLUTIONS or kind == "linear":
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            name = self.names.get(id(weight), f"{kind} {len(self.layers)}")
            self.layers.append(_Layer(name.removesuffix(".weight"), tuple(weight.shape)))
        return func(*args, **kwargs)


def _model_layers(model: nn.Module, image_shape: Sequence[int]) -> list[_Layer]:
    """The layers with weights that ``model`` runs for one image of ``image_shape``, in order of execution."""
    copy = cpu_copy(model)
    named = (*copy.named_parameters(), *copy.named_buffers())
    recorder = _LayerRecorder({id(tensor): name for name, tensor in named})
    with torch.inference_mode(), recorder:
        copy(torch.zeros(1, *image_shape))
    return recorder.layers


def _file_layers(proto: Any) -> list[_Layer]:
    """The layers with stored weights in a graph, in its order; linear weights as (out, in)."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    layers = []
    for node in proto.graph.node:
        if node.op_type == "Transpose" and node.input[0] in shapes:
            source = shapes[node.input[0]]
            order = next((a.ints for a in node.attribute if a.name == "perm"), range(len(source))[::-1])
            shapes[node.output[0]] = tuple(source[axis] for axis in order)
        elif node.op_type in HEAVY_OPERATORS and node.input[1] in shapes:
            shape = shapes[node.input[1]]
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            if node.op_type in ("Gemm", "MatMul") and not transposed:
                shape = shape[::-1]
            layers.append(_Layer(node.input[1].removesuffix(".weight"), shape))
    return layers


def _image_shape(proto: Any, path: Path) -> list[int]:
    """(channels, height, width) of the images that a graph takes."""
    inputs = runtime_inputs(proto.graph)
    shape = static_sizes(inputs[0])[1:] if len(inputs) == 1 else ()
    sizes = [size for size in shape if size is not None]
    if len(sizes) != 3 or len(shape) != 3:
        raise ExportError(f"{path.name} takes no single input (batch, 3, H, W) of known size: export the model again")
    return sizes


def _shape_text(layer: _Layer | None) -> str:
    return "absent" if layer is None else "x".join(map(str, layer.shape))
