"""``slimsight quantize``: an INT8 file of an FP32 ONNX file, and its proof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from .int8_proof import (
    LeastAgreement,
    LeastSqnr,
    MaxFloatLayers,
    QatEpochs,
    print_int8,
    read_agreement_option,
    refuse_failed,
)
from .terminal import Terminal, console

if TYPE_CHECKING:
    from slimsight.export.onnx_files.quantised import Form, Method, WeightScales


def quantize(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="FP32 ONNX file of an image classifier")],
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="training images, in folders or not")],
    out: Annotated[Path | None, typer.Option(help="the INT8 file; default: MODEL.int8.onnx")] = None,
    calibration: Annotated[int, typer.Option(help="images that ranges are measured on, at least 32")] = 256,
    method: Annotated[str, typer.Option(help="how ranges are chosen: minmax, entropy, percentile")] = "minmax",
    form: Annotated[str, typer.Option(help="u8: ONNX Runtime; s8: TensorRT")] = "u8",
    mean: Annotated[str | None, typer.Option(metavar="R,G,B", help="for a file that takes normalised images")] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="with --mean")] = None,
    weights: Annotated[str, typer.Option(help="per_channel, or per_tensor: one scale for a layer")] = "per_channel",
    agreement: LeastAgreement = None,
    sqnr: LeastSqnr = None,
    max_float_layers: MaxFloatLayers = None,
    qat_epochs: QatEpochs = None,
    json: Annotated[Path | None, typer.Option(help="write the figures to this file")] = None,
) -> None:
    """Write an ONNX file in INT8; prove what runtimes here compute, and how near it is to FP32."""
    from slimsight.compress.errors import ConfigError
    from slimsight.compress.files.atomic import write_json
    from slimsight.export.config import MOST_FLOAT_LAYERS

    from ..quantise import quantise_from_folder
    from ..quantise.folder import read_normalisation
    from ..quantise.model import check_limits

    terminal: Terminal = context.obj
    most = MOST_FLOAT_LAYERS if max_float_layers is None else max_float_layers
    limits = check_limits(read_agreement_option(agreement), sqnr, most)
    if max_float_layers is not None and not limits.any:
        raise ConfigError("--max-float-layers is given without a limit to keep: give --agreement or --sqnr with it")
    made = quantise_from_folder(
        model,
        images,
        out,
        wanted=calibration,
        method=cast("Method", method),
        form=cast("Form", form),
        normalisation=read_normalisation(mean, std),
        weights=cast("WeightScales", weights),
        limits=limits,
        max_float_layers=most,
        qat_epochs=qat_epochs or 0,
        progress=terminal.progress,
    )
    if json is not None:
        write_json(json, made.to_dict())
    print_int8(made)
    refuse_failed(made)
    console().print(f"file: {made.path}", soft_wrap=True)
