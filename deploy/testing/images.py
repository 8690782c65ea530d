"""The images that a model is asked about: a tensor, or only their shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError

Images: TypeAlias = Tensor | str | Sequence[int]
"""(N, C, H, W) or (C, H, W), floating point; or a shape of these: ``"3x224x224"``, ``(3, 224, 224)``."""

_SEED = 0


def to_images(x: Images, model: nn.Module) -> Tensor:
    """Images (N, C, H, W) where ``model`` is and of its kind of numbers; drawn in [0, 1] where only a shape is given.

    Raises:
        ConfigError: ``x`` is neither images nor a shape of images.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if isinstance(x, Tensor):
        if x.dim() not in (3, 4) or 0 in x.shape or not x.is_floating_point():
            raise _refused(f"a tensor {tuple(x.shape)} {x.dtype}")
        images = x.detach()
    else:
        shape = shape_of(x)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(_SEED))
    images = images if images.dim() == 4 else images[None]
    return images.to(first.device, first.dtype)


def shape_of(x: object) -> tuple[int, ...]:
    """(C, H, W) or (N, C, H, W); raises ConfigError for anything else."""
    parts: Sequence[object] = x.lower().split("x") if isinstance(x, str) else x if isinstance(x, Sequence) else ()
    numbers = [int(part) if isinstance(part, str) and part.strip().isdecimal() else part for part in parts]
    sides = tuple(n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n > 0)
    if len(sides) != len(parts) or len(sides) not in (3, 4):
        raise _refused(repr(x))
    return sides


def _refused(given: str) -> ConfigError:
    return ConfigError(
        f"x is {given}: give images as a floating point tensor (N, 3, H, W), or their shape, such as '3x224x224' or "
        "(3, 224, 224)"
    )
