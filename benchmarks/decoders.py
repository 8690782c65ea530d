"""Time to decode one JPEG at a training size: PIL, which scales while it decodes, against torchvision."""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagenet_layout import picture
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import functional

from slimsight.compress.data import Preprocessing
from slimsight.compress.data.scaled import read_scaled

SIDE, SHORT = 224, 256
SIZES = ((500, 375), (320, 240), (1200, 900), (3000, 2000))


def measure_decoders(repeats: int = 9) -> list[dict[str, Any]]:
    """Milliseconds for one image of each size, centre to 224 pixels; medians of turns."""
    found = []
    folder = Path(tempfile.mkdtemp())
    for width, height in SIZES:
        buffer = io.BytesIO()
        picture(np.random.default_rng(0), width, height).save(buffer, "JPEG", quality=90)
        path = folder / f"{width}x{height}.jpg"
        path.write_bytes(buffer.getvalue())
        times: dict[str, list[float]] = {"pil": [], "torchvision": []}
        for _ in range(repeats):
            for name, read in (("pil", _by_pil), ("torchvision", _by_torchvision)):
                started = time.perf_counter()
                for _ in range(4):
                    read(path)
                times[name].append((time.perf_counter() - started) / 4 * 1e3)
        medians = {f"{name}_ms": statistics.median(values) for name, values in times.items()}
        found.append({"width": width, "height": height, "bytes": path.stat().st_size, **medians})
    shutil.rmtree(folder)
    return found


def _by_pil(path: Path) -> None:
    read_scaled(path, SIDE, Preprocessing(SIDE, SHORT).window)


def _by_torchvision(path: Path) -> None:
    image = decode_jpeg(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8), mode=ImageReadMode.RGB)
    height, width = image.shape[1:]
    left, top, w, h = (int(edge) for edge in Preprocessing(SIDE, SHORT).window(width, height))
    functional.resized_crop(image, top, left, h, w, [SIDE, SIDE], antialias=True)
