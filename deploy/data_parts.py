"""What of the images, and of how they are read, decides what a stage computes: parts of fingerprints."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from slimsight.compress.config import DataConfig
from slimsight.compress.data import FileImages, ImageSet, Rows

_SAMPLED = 64
_LATER = ("subset", "classes", "skip", "test_labels", "decode", "resize", "crop_scale")
"""Settings that came after the first runs: where they are not used, what was judged before still holds."""


def data_key(*sets: ImageSet) -> str:
    """Changes with images: their labels, a sample of their pixels; where they stay files, names and sizes of all."""
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr((images.classes, images.images.shape)).encode())
        digest.update(np.ascontiguousarray(images.labels).tobytes())
        if isinstance(images.images, Rows) and isinstance(images.images.pool, FileImages):
            digest.update(images.images.pool.digest.encode() + images.images.order.tobytes())
        step = max(1, len(images) // _SAMPLED)
        digest.update(np.ascontiguousarray(images.images[np.arange(0, len(images), step)]).tobytes())
    return digest.hexdigest()


def augmentation(data: DataConfig) -> list[Any]:
    """What happens to images while weights learn."""
    return [data.crop_padding if data.crop_scale is None else list(data.crop_scale), data.flip]


def judged(data: DataConfig) -> dict[str, Any]:
    """The settings that decide which images are judged, and what is seen of them; not how many processes decode."""
    settings = data.model_dump(mode="json", exclude={"workers"})
    unused = {name for name in _LATER if settings[name] == DataConfig.model_fields[name].default}
    return {name: value for name, value in settings.items() if name not in unused}
