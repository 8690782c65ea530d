"""Images and archives of a stranger."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from slimsight.compress.data import archive


def png(width: int, height: int, *, rows: bytes = b"\0") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def whole(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, kind)
    return file.getvalue()


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n(CANARY) (w) file closefile\nshowpage\n%%EOF\n"
)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
IMAGES = {
    "a PNG that says it has 3.6 billion pixels": (png(60_000, 60_000), "3600000000 pixels"),
    "a PNG of 81 million pixels in 78 kB": (png(9_000, 9_000, rows=bytes(81_000)), "9000 x 9000 pixels"),
    "a PNG without its rows": (png(16, 16), "cannot be decoded"),
    "half a JPEG": (whole("JPEG")[:300], "cannot be"),
    "an EPS, which Ghostscript would draw": (EPS, "is not an image"),
    "an SVG": (SVG, "is not an image"),
    "a PDF": (b"%PDF-1.4\n%%EOF", "is not an image"),
    "an icon": (whole("ICO"), "is not an image"),
    "nothing": (b"", "is not an image"),
}


@pytest.mark.parametrize("what", IMAGES)
def test_image(what: str, place: Any, refused: Callable[..., str]) -> None:
    content, why = IMAGES[what]
    place.write("images/a/1.jpg", content.replace(b"CANARY", str(place.canary).encode()))
    model = place.run() / "slim" / "model.onnx"
    assert why in refused("bench", model, "--images", place.folder / "images")


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_an_image_that_is_no_file(what: str, place: Any, refused: Callable[..., str]) -> None:
    place.write("images/2.jpg", whole())
    if what == "pipe":
        place.pipe("images/1.jpg")
    else:
        (place.folder / "images" / "1.jpg").symlink_to("/dev/zero")
    said = refused("bench", place.run() / "slim" / "model.onnx", "--images", place.folder / "images")
    assert f"a {'named pipe' if what == 'pipe' else 'device'}, and a file is needed" in said


def test_a_name_that_moves_the_cursor(place: Any, refused: Callable[..., str]) -> None:
    place.write("images/\x1b[2J\n::error::x.jpg", b"no image")
    said = refused("bench", place.run() / "slim" / "model.onnx", "--images", place.folder / "images")
    assert r"\x1b[2J\n::error::x.jpg is not an image" in said


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '|O', ", "not an array"),
        (b"PK\x05\x06" + bytes(18), "not an array"),
        (b"\x80\x04cos\nsystem\n.", "not an array"),
    ],
)
def test_array(content: bytes, why: str, place: Any, refused: Callable[..., str]) -> None:
    file = place.write("images.npy", content)
    said = refused("bench", place.run() / "slim" / "model.onnx", "--images", file)
    assert why in said or "several arrays" in said


def tar(*members: tuple[str, bytes | str], kind: bytes | None = None) -> bytes:
    """Members by name: content, or what a link leads to."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = kind or tarfile.SYMTYPE, content
                made.addfile(info)
            else:
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tree() -> list[tuple[str, bytes | str]]:
    return [(f"{split}/{label}/1.png", whole()) for split in ("train", "test") for label in "ab"]


def announcing(kind: bytes, size: int, name: str = "train/a/2.png") -> bytes:
    """A tar whose last header announces ``size`` bytes that do not come."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    members = tar(*tree()).rstrip(bytes(1))  # without the zero blocks that end it
    return members + bytes(-len(members) % 512) + info.tobuf(tarfile.GNU_FORMAT) + bytes(2048)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("train/a/1.png", bytes(10_000_000))
    return file.getvalue()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a member that leaves its folder": (lambda: tar(("../../outside/victim.txt", b"x"), *tree()), "points outside"),
    "a member from the root": (lambda: tar(("/etc/cron.d/evil.png", b"x"), *tree()), "points outside"),
    "a link": (lambda: tar(*tree(), ("train/a/2.png", "/etc/passwd")), "is a link"),
    "a device": (lambda: tar(*tree(), ("train/a/2.png", "x"), kind=tarfile.CHRTYPE), "is a link"),
    "an image twice": (lambda: tar(*tree(), *tree()), "twice"),
    "an image of a hundred gigabytes": (lambda: announcing(tarfile.REGTYPE, 10**11), "of an image"),
    "a sparse file of a terabyte": (lambda: announcing(tarfile.GNUTYPE_SPARSE, 2**40), "cannot be read"),
    "a name of a gigabyte": (lambda: announcing(tarfile.GNUTYPE_LONGNAME, 2**30), "announces 1,073,741,824 bytes"),
    "an extended header of a gigabyte": (lambda: announcing(tarfile.XHDTYPE, 2**30), "announces 1,073,741,824 bytes"),
    "a negative size": (lambda: announcing(tarfile.REGTYPE, -(2**40)), "cannot be read"),
    "a bomb": (lambda: gzip.compress(tar(*tree(), ("notes.txt", bytes(8_000_000)))), "unlike images"),
    "a zip, and a bomb": (zipped, "cannot be read as a .tar"),
    "half of one": (lambda: gzip.compress(tar(*tree()))[:-300], "cannot be read"),
    "noise": (lambda: b"\xfd7zXZ\x00" + bytes(range(256)), "cannot be read"),
    "a name that moves the cursor": (lambda: tar(*tree(), ("train/a/\x1b[2J\n::error::.png", b"x")), r"\x1b[2J\n"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archive(what: str, place: Any, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    make, why = ARCHIVES[what]
    monkeypatch.setattr(archive, "_BOMB_BYTES", 2**20)  # a bomb that takes no seconds to make
    file = place.write("images.tar", make())
    assert why in refused("init", "resnet20", file, "--out", place.folder / "recipe.yaml")
    assert [path.name for path in place.folder.iterdir()] == ["images.tar"]


def test_an_archive_that_is_a_pipe(place: Any, refused: Callable[..., str]) -> None:
    pipe: Path = place.pipe("images.tar")
    recipe = place.write("recipe.yaml", f"data: {{source: image_tree, path: {pipe.name}}}\nmodel: {{name: resnet20}}")
    assert "a named pipe" in refused("run", recipe, "--out", place.folder / "out")
