"""Make a folder in ImageNet's layout of generated JPEGs: train/<wnid>/*.JPEG, val/*.JPEG and a list of their classes.

Pictures are gradients, edges and noise of 200 to 500 pixels, a few dozen of them, encoded once; every file gets its
own bytes by a comment in its header. What a decoder has to do is that of photographs of this size.

    python benchmarks/imagenet_layout.py /tmp/inet --classes 1000 --images 50
"""

from __future__ import annotations

import argparse
import colorsys
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

PICTURES = 64
QUALITY = 90


def picture(
    random: np.random.Generator, width: int, height: int, colour: tuple[int, int, int] | None = None
) -> Image.Image:
    """Smooth colours, a disc with an edge (of a drawn colour, or of ``colour``), and grain."""
    coarse = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    rows, columns = np.mgrid[:height, :width]
    centre, radius = random.uniform(0.3, 0.7, 2) * (height, width), random.uniform(0.15, 0.35) * min(height, width)
    disc = np.hypot(rows - centre[0], columns - centre[1]) < radius
    smooth[disc] = 0.4 * smooth[disc] + 0.6 * (random.integers(0, 256, 3) if colour is None else np.array(colour))
    return Image.fromarray((smooth + random.normal(0, 9, smooth.shape)).clip(0, 255).astype(np.uint8))


def encoded(
    count: int,
    seed: int = 0,
    sides: tuple[int, int] = (200, 500),
    colour: tuple[int, int, int] | None = None,
) -> list[bytes]:
    """JPEGs of pictures whose sides lie between ``sides``, pixels."""
    random, found = np.random.default_rng(seed), []
    for _ in range(count):
        width, height = (int(side) for side in random.integers(sides[0], sides[1] + 1, 2))
        buffer = io.BytesIO()
        picture(random, width, height, colour).save(buffer, "JPEG", quality=QUALITY)
        found.append(buffer.getvalue())
    return found


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture in other bytes: a comment segment after the first marker."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def make_layout(
    root: Path,
    *,
    classes: int,
    images: int,
    val: int,
    seed: int = 0,
    pictures: int = PICTURES,
    sides: tuple[int, int] = (200, 500),
    telling: bool = False,
) -> int:
    """Write ``images`` a class into train/ and ``val`` a class into val/ (flat, with val.txt); gives their number.

    Args:
        pictures: how many different ones there are.
        telling: a class has as many of its own, whose disc has its colour.
    """
    common = [] if telling else encoded(pictures, seed, sides)
    colours = [colorsys.hsv_to_rgb(index / classes, 1, 1) for index in range(classes)]
    own = [
        encoded(pictures, seed + index, sides, tuple(int(255 * part) for part in colours[index])) if telling else common
        for index in range(classes)
    ]
    wnids = [f"n{1440764 + 7 * number:08d}" for number in range(classes)]
    number = 0
    for wnid, jpegs in zip(wnids, own, strict=True):
        folder = root / "train" / wnid
        folder.mkdir(parents=True)
        for index in range(images):
            name = f"{wnid}_{index}.JPEG"
            (folder / name).write_bytes(with_comment(jpegs[number % len(jpegs)], name))
            number += 1
    folder, lines = root / "val", []
    if val:
        folder.mkdir()
    for index in range(classes * val):
        name, label = f"ILSVRC2012_val_{index + 1:08d}.JPEG", (7 * index) % classes
        (folder / name).write_bytes(with_comment(own[label][number % pictures], name))
        lines.append(f"{name} {wnids[label]}\n")
        number += 1
    if val:
        (root / "val.txt").write_text("".join(lines), encoding="utf-8")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--images", type=int, default=50, help="a class, in train/")
    parser.add_argument("--val", type=int, default=2, help="a class, in val/")
    given = parser.parse_args()
    made = make_layout(given.root, classes=given.classes, images=given.images, val=given.val)
    print(f"{made:,} files in {given.root}")


if __name__ == "__main__":
    main()
