"""Odd class names, formats, models and machines of strangers: each is read or refused in one true sentence."""

import errno
import importlib
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from slimsight.compress.data.decode import image_error, is_image
from slimsight.compress.data.layout import folder_content
from slimsight.compress.data.listing import class_folders, list_images
from slimsight.compress.data.unread import unread_notes
from slimsight.compress.errors import ConfigError, ModelError, RuntimeMissing
from slimsight.compress.models import check_classifier
from slimsight.deploy import host
from slimsight.deploy.doctor.diagnosis import _machine
from slimsight.deploy.report.pictures import draw_saliency
from slimsight.export.onnx_files.runtime import import_onnxruntime

from .test_names import draw_images

ODD = ("a$x_{", "$$", "b\x1b[31m", "c\u202ed", "- {yaml: [", "e\nf", "%s<b>|`", "\U0001f600" * 50, "null", "#g", " h ")


def png(path: Path, depth: int, colour: int, channels: int) -> None:
    """A PNG of 8 x 8 white pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\0" + b"\xff" * (8 * channels * depth // 8)) * 8
    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_whatever_the_colours(tmp_path: Path, colour: int, channels: int) -> None:
    png(tmp_path / "deep.png", 16, colour, channels)
    png(tmp_path / "plain.png", 8, colour, channels)
    assert image_error(tmp_path / "plain.png") is None
    assert re.search("only 8 bits per channel are read", image_error(tmp_path / "deep.png") or "")


def test_sixteen_bits_in_other_formats(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    (tmp_path / "b.ppm").write_bytes(b"P6 2 1 255\n" + bytes(6))
    assert "16 bits per channel" in (image_error(tmp_path / "a.ppm") or "")
    assert image_error(tmp_path / "b.ppm") is None


def test_names_of_formats_and_folders_of_systems(tmp_path: Path) -> None:
    draw_images(tmp_path / "images", ("a", "b"), count=2)
    root = tmp_path / "images"
    for number, suffix in enumerate((".jfif", ".JPE", ".JFIF")):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(root / "a" / f"p{number}{suffix}", "JPEG")
    for folder in (root / "a" / "@eaDir", root / "@eaDir" / "0.png", root / "__MACOSX"):
        folder.mkdir(parents=True)
        os.link(root / "a" / "1.png", folder / "0.png")
    (root / "a" / "photo.heic").touch()
    (root / "a" / "more").symlink_to(root / "b")
    assert class_folders(root) == ["a", "b"]
    assert folder_content(root).folders == {"a", "b"}
    names = [name for name in list_images(root).names if name.startswith("a/")]
    assert names == ["a/0.png", "a/1.png", "a/p0.jfif", "a/p1.JPE", "a/p2.JFIF"]
    assert not is_image("a/@eaDir/0.png")
    other, links, systems = unread_notes(root)
    assert other.startswith("1 other files are not read (1 .heic); read are ")
    assert ".jfif" in other
    assert links.startswith("links to folders inside of class folders are not followed (more): put folders in")
    assert systems.endswith("are not read (2 @eaDir, 1 __MACOSX)")


def test_class_folders_and_splits_may_be_links(tmp_path: Path) -> None:
    draw_images(tmp_path / "real", ("a", "b"), count=2)
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for name in "ab":
            (tmp_path / "images" / split / name).symlink_to(tmp_path / "real" / name)
    assert unread_notes(tmp_path / "images") == []
    assert len(list_images(tmp_path / "images" / "train").names) == 4


def test_class_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = [*ODD, "x" * 200]
    images = np.zeros((len(names), 3, 8, 8), dtype=np.uint8)
    maps = np.zeros((len(names), 8, 8))
    draw_saliency(tmp_path / "saliency.png", images, maps, maps, images, names)
    with Image.open(tmp_path / "saliency.png") as picture:
        assert picture.size[0] == 1600
        assert picture.info["Software"] == "slimsight"


class Net(torch.nn.Module):
    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, 4, 3)
        self.linear = torch.nn.Linear(4, 2)
        self.scale = scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(self.conv(images).relu().mean((2, 3))) * self.scale


@pytest.mark.parametrize(("channels", "words"), [(1, "1 channel"), (4, "4 channels"), (2, "2 channels")])
def test_models_of_other_numbers_of_channels(channels: int, words: str) -> None:
    with pytest.raises(ModelError, match=f"the model takes images of {words} and a run gives it RGB images of 3: let"):
        check_classifier(Net(channels), 8, 2)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_said_to_be(scale: float) -> None:
    with pytest.raises(
        ModelError, match=r"logits are not finite numbers for images in \[0, 1\] \(-?(nan|inf), .*broken"
    ):
        check_classifier(Net(3, scale), 8, 2)


def attribute_error(name: str) -> Any:
    raise AttributeError("module 'numpy' has no attribute 'float_'")


BROKEN: dict[str, tuple[Callable[[str], Any], str]] = {
    "half of a package": (lambda name: SimpleNamespace(), "AttributeError: .*set_default_logger_severity"),
    "of another numpy": (attribute_error, r"AttributeError: module 'numpy' has no attribute 'float_'\)"),
    "a library is missing": (
        lambda name: raise_(ImportError("libcudart.so.12: cannot open")),
        "ImportError: libcudart",
    ),
    "a module of it is missing": (
        lambda name: raise_(ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")),
        "ModuleNotFoundError: No module named 'flatbuffers'",
    ),
    "not readable": (lambda name: raise_(OSError(errno.EIO, "Input/output error")), "OSError: "),
}


def raise_(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_onnx_runtime_is_one_sentence(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = BROKEN[kind]
    monkeypatch.setattr(importlib, "import_module", found)
    with pytest.raises(RuntimeMissing, match=rf"ONNX Runtime is installed and cannot be imported \({said}.*pip uninst"):
        import_onnxruntime()


def test_an_absent_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    monkeypatch.setattr(importlib, "import_module", lambda name: raise_(absent))
    with pytest.raises(RuntimeMissing, match="ONNX Runtime is missing: pip install"):
        import_onnxruntime()


def test_a_run_looks_for_onnx_runtime_before_it_learns(
    place: Any, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = RuntimeMissing("ONNX Runtime is missing: pip install it")
    monkeypatch.setattr("slimsight.deploy.run.stages.preflight.import_onnxruntime", lambda: raise_(missing))
    place.write("r.yaml", "data: {source: digits}\nthreads: 1\n")
    assert refused("run", "r.yaml") == "error: ONNX Runtime is missing: pip install it"
    assert not list((place.folder / "runs" / "r").glob("stages/*/done.json"))


def test_no_home_and_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLIMSIGHT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: raise_(RuntimeError("Could not determine home directory.")))
    with pytest.raises(ConfigError, match="no home folder to keep decoded images in: set SLIMSIGHT_CACHE to a folder"):
        host.writable_cache()
    assert "there is no home folder to keep it in" in [finding.found for finding in _machine()]
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))
        with pytest.raises(
            ConfigError, match=rf"decoded images, {cache}, cannot be written \(.*\): set SLIMSIGHT_CACHE"
        ):
            host.writable_cache()
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(tmp_path / "new" / "cache"))
    assert host.writable_cache().is_dir()
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"cannot be written \(Permission denied\): set SLIMSIGHT_CACHE"):
        host.writable_cache()
