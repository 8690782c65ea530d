"""Detectors of torchvision up to their raw outputs: slim ones still detect."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

import slimsight
from slimsight.compress.errors import ModelError
from slimsight.compress.models.detector import RawDetector


class Tiny(nn.Module):
    """Two levels of maps."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.out = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(6, 8, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.stem(images).relu()
        return {"0": self.out(maps), "1": self.deep(maps)}


def detector(kind: str) -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    sizes: dict[str, Any] = {"min_size": 32, "max_size": 32}
    if kind == "RetinaNet":
        return RetinaNet(Tiny(), 3, anchor_generator=anchors, **sizes)
    return FasterRCNN(Tiny(), 3, rpn_anchor_generator=anchors, **sizes)


@pytest.mark.parametrize("kind", ["RetinaNet", "FasterRCNN"])
def test_a_slim_detector_detects(kind: str) -> None:
    torch.manual_seed(0)
    images, original = torch.rand(2, 3, 32, 32), detector(kind)
    traced = slimsight.trace(RawDetector(original), images)
    if kind == "RetinaNet":
        assert traced.outputs == {"out.cls_logits": (2, 320, 3), "out.bbox_regression": (2, 320, 4)}
    else:
        assert list(traced.outputs)[::2] == [f"out.{name}[0]" for name in ("objectness", "deltas", "classes", "boxes")]
    assert not [group for group in traced.graph.frozen if "network's output" not in group.reason]
    scores = slimsight.learn_gates(traced, [], config=slimsight.GatesConfig(steer="magnitude"))
    slimmed = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.5))
    assert set(slimmed.outputs) == set(traced.outputs)
    whole: Any = slimmed.model.model
    fewer, all_of_them = (sum(p.numel() for p in network.parameters()) for network in (whole, original))
    assert fewer < 0.8 * all_of_them
    with torch.no_grad():
        (found,) = whole.eval()([torch.rand(3, 30, 30)])
    assert set(found) == {"boxes", "labels", "scores"}


def test_other_models_are_refused() -> None:
    with pytest.raises(ModelError, match=r"ResNet is no detector of torchvision .* wrap it in a module"):
        RawDetector(resnet18(weights=None))
