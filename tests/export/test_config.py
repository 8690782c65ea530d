from __future__ import annotations

import pytest
from pydantic import ValidationError

from slimsight.export.config import ExportConfig


def test_defaults():
    config = ExportConfig()
    assert (config.formats, config.opset, config.tolerance) == (("onnx", "pt2"), 18, 1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"formats": ["onnx", "onnx"]}, "formats onnx, onnx: name each of onnx, pt2 at most once"),
        ({"formats": []}, "at least 1 item"),
        ({"formats": ["engine"]}, "'onnx' or 'pt2'"),
        ({"opset": 17}, "greater than or equal to 18"),
        ({"tolerance": 0}, "greater than 0"),
        ({"format": ["onnx"]}, "Extra inputs are not permitted"),
    ],
)
def test_refuses(given, message):
    with pytest.raises(ValidationError, match=message):
        ExportConfig(**given)
