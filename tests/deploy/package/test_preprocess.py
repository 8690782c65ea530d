"""predict.py makes the pixels that slimsight's own evaluation makes, of images of every kind; and refuses the same."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from slimsight.compress.data import Preprocessing
from slimsight.compress.data.decode import FORMATS, open_image, to_bytes
from slimsight.deploy.package.scripts import to_scripts
from slimsight.deploy.package.targets import TARGETS

from .conftest import loaded

SIZES = [(16, 16), (40, 40), (37, 61), (90, 33), (17, 200), (224, 160), (5, 9)]
KINDS = [
    Preprocessing.square(16),
    Preprocessing(16, 20, "bicubic"),
    Preprocessing(15, 20, "bilinear"),
    Preprocessing(16, 18, "lanczos", stretch=True),
    Preprocessing(16, 16, "nearest", stretch=True),
]


@pytest.fixture
def predict(tmp_path):
    """``predict(preprocessing)``: preprocess() of a package with it."""

    def make(made):
        settings = {"resize": made.resize, "crop": made.side, "stretch": made.stretch}
        settings |= {"interpolation": made.interpolation, "formats": list(FORMATS)}
        (tmp_path / "preprocess.json").write_text(json.dumps(settings), encoding="utf-8")
        script = tmp_path / "predict.py"
        script.write_bytes(to_scripts(TARGETS["onnxruntime"], "onnx/model.onnx", made.side)["predict.py"])
        with loaded(script) as module:
            return module.preprocess

    return make


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pictures():
    draw = np.random.default_rng(3)
    for width, height in SIZES:
        yield f"{width}x{height}", encoded(Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)))
    colours = Image.fromarray(draw.integers(0, 256, (50, 70, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    yield "rotated", encoded(colours, "JPEG", exif=exif)
    yield "cmyk", encoded(colours.convert("CMYK"), "JPEG")
    yield "grey", encoded(colours.convert("L"))
    yield "one bit", encoded(colours.convert("1"))
    yield "palette", encoded(colours.convert("P"), "GIF")
    transparent = colours.copy()
    transparent.putalpha(90)
    yield "transparent", encoded(transparent)


@pytest.mark.parametrize("made", KINDS, ids=lambda made: made.brief)
def test_pixels_are_those_of_the_evaluation(predict, made, tmp_path):
    preprocess = predict(made)
    for name, data in pictures():
        path = tmp_path / "picture"
        path.write_bytes(data)
        with open_image(data) as image:
            expected = to_bytes(image, made)
        found = preprocess(path)
        assert (found.shape, found.dtype) == ((1, 3, made.side, made.side), np.float32), name
        np.testing.assert_array_equal(found[0], expected.astype(np.float32) / np.float32(255), err_msg=name)


def deep_pictures():
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    yield "PNG", encoded(Image.fromarray(grey))
    yield "TIFF", encoded(Image.fromarray(grey.astype(np.float32)), "TIFF")
    yield "PPM", b"P6 4 2 65535\n" + bytes(range(48))


@pytest.mark.parametrize(("form", "data"), deep_pictures(), ids=lambda given: given if isinstance(given, str) else "")
def test_what_the_evaluation_refuses_is_refused(predict, form, data, tmp_path):
    path = tmp_path / "deep"
    path.write_bytes(data)
    with open_image(data) as image, pytest.raises(ValueError, match="only 8 bits per channel are read"):
        to_bytes(image, KINDS[0])
    with pytest.raises(ValueError, match="has more than 8 bits per channel: convert it to 8-bit RGB"):
        predict(KINDS[0])(path)
