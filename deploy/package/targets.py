"""Runtimes that packages are made for: the form of the model's file, its name on the Hub, and what to install."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from slimsight.compress.errors import ConfigError
from slimsight.compress.registry import nearest
from slimsight.export.onnx_files.quantised import Form

PackagePrecision = Literal["fp32", "fp16", "int8"]
PACKAGE_PRECISIONS: Final = get_args(PackagePrecision)

_ONNX_NAMES: Final = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
"""The names that the Hub and its libraries look for."""


@dataclass(frozen=True)
class PackageTarget:
    """A runtime on the device.

    Args:
        name: of ``--for``; ``module``: what Python imports; ``requirements``: what pip installs.
        names: of the model's file in the package by precision; precisions that are not in it are not offered.
        library: the Hub's name for it (``library_name`` of a model card).
        form: of INT8 files.
        threads: CPU threads of verify.py unless told otherwise; 0: the runtime takes no number.
    """

    name: str
    module: str
    requirements: tuple[str, ...]
    names: dict[str, str]
    library: str
    form: Form = "u8"
    threads: int = 1


TARGETS: Final = {
    target.name: target
    for target in (
        PackageTarget("onnxruntime", "onnxruntime", ("onnxruntime", "numpy", "pillow"), _ONNX_NAMES, "onnx"),
        PackageTarget("openvino", "openvino", ("openvino", "numpy", "pillow"), _ONNX_NAMES, "openvino"),
        PackageTarget(
            "executorch",
            "executorch",
            ("executorch", "numpy", "pillow"),
            {"fp32": "model.pte", "int8": "model_quantized.pte"},
            "executorch",
        ),
        PackageTarget(
            "tensorrt", "tensorrt", ("tensorrt", "numpy", "pillow"), _ONNX_NAMES, "tensorrt", form="s8", threads=0
        ),
    )
}

_BY_HAND: Final = {
    "ncnn": "convert slim/model.onnx or slim/model.pt2 by hand with ncnn's pnnx (pnnx model.pt2 inputshape=[1,3,H,W]), "
    "and compare its logits with a package for onnxruntime",
    "litert": "convert slim/model.pt2 by hand with litert-torch (litert_torch.convert, given the module of "
    "torch.export.load), and compare its logits with a package for onnxruntime",
}
"""Runtimes that no package is made for, and what to do instead."""

TARGET_NAMES: Final = (*TARGETS, *_BY_HAND)


def find_target(name: str, precision: str) -> PackageTarget:
    """The runtime called ``name``, which must take ``precision``.

    Raises:
        ConfigError: there is none, it is converted to by hand, or it takes other precisions.
    """
    if precision not in PACKAGE_PRECISIONS:
        hint = nearest(precision, list(PACKAGE_PRECISIONS))
        raise ConfigError(f"--precision is '{precision}'{hint}: choose from {', '.join(PACKAGE_PRECISIONS)}")
    if name in _BY_HAND:
        raise ConfigError(f"there are no packages for {name} yet: {_BY_HAND[name]}")
    if name not in TARGETS:
        raise ConfigError(f"--for is '{name}'{nearest(name, list(TARGETS))}: choose from {', '.join(TARGETS)}")
    target = TARGETS[name]
    if precision not in target.names:
        raise ConfigError(
            f"--precision is {precision}, and packages for {name} are of {', '.join(target.names)}: leave it out"
        )
    return target
