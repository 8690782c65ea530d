"""How far logits of golden images may be from those that slimsight computed, on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class GoldenLimits:
    """``difference``: the largest, relative to the largest logit; ``agreement``: least share with the same class."""

    difference: float
    agreement: float


LIMITS: Final = {
    # Sums in another order: 1e-6 to 1e-5 on trained networks. TF32 or bfloat16 in place of FP32 is beyond it.
    "fp32": GoldenLimits(1e-4, 1.0),
    # 11 bits of mantissa, and the largest of all differences is compared, not a quantile as in parity of exports.
    "fp16": GoldenLimits(2e-2, 0.9),
    # Another processor's integer kernels round and saturate elsewhere: as for engines in parity of exports.
    "int8": GoldenLimits(1.5e-1, 0.9),
}
"""By precision of the file; one golden image of ten may change its class where it lies between two."""
