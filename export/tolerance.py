"""How near an artefact must stay to the model in fp32: one table, by the precision that it computes in."""

from __future__ import annotations

from dataclasses import dataclass

from slimsight.compress.errors import ExportError


@dataclass(frozen=True)
class Tolerance:
    """What passes.

    Args:
        limit: the largest difference of logits allowed.
        quantile: which of all differences is held against it (1: the largest).
        relative: ``limit`` counts times the largest logit of the reference, where that is above 1.
        agreement: the least share of images (0..1) with the same largest logit.
        layer: the largest difference within the network, relative to the largest value of the layer, that is still
            rounding: beyond it ``first_difference`` names the layer.
    """

    limit: float
    quantile: float = 1.0
    relative: bool = False
    agreement: float = 1.0
    layer: float = 1e-4


TOLERANCES = {
    # 24 bits of mantissa and sums in another order: 1e-6 to 1e-5 was found on trained networks. What is larger is
    # another computation, and one image whose class changes is one too many.
    "fp32": Tolerance(limit=1e-4),
    # 11 bits: every product is off by up to 5e-4 of itself, and so is what comes of dozens of layers: differences
    # grow with the logits. Single outliers are expected, where the largest value of a map is rounded; images between
    # two classes may change sides, one in a hundred. ResNet-20 and -56 on CIFAR-10: 1.1e-3 of the largest logit, all
    # 500 images in agreement; a runtime that also sums in fp16 may be a few times coarser.
    "fp16": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    # TF32 rounds the factors as fp16 does and sums in fp32; bfloat16 has 8 bits, eight times coarser (the same
    # networks: 9e-3 of the largest logit, 0.994 in agreement).
    "tf32": Tolerance(limit=5e-3, quantile=0.99, relative=True, agreement=0.99, layer=2e-2),
    "bf16": Tolerance(limit=4e-2, quantile=0.99, relative=True, agreement=0.95, layer=1.6e-1),
}


def tolerance_of(precision: str, *, fp32: float | None = None) -> Tolerance:
    """The row of ``precision``; a recipe may set the limit of ``fp32``.

    Raises:
        ExportError: there is no such row.
    """
    if precision not in TOLERANCES:
        raise ExportError(f"parity knows no tolerance for precision '{precision}': it knows {', '.join(TOLERANCES)}")
    row = TOLERANCES[precision]
    return row if fp32 is None or precision != "fp32" else Tolerance(limit=fp32, layer=row.layer)
