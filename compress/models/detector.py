"""Detectors of torchvision up to their raw outputs; after these, boxes are chosen by value, without channels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ..errors import ModelError

_POOLED = 7


class RawDetector(nn.Module):
    """A detector of torchvision without what chooses boxes: normalised images (N, 3, H, W) -> a dict of raw outputs.

    One with a head of its own (SSD, RetinaNet, FCOS) gives that head's dict. One that proposes regions (Faster R-CNN)
    gives ``objectness`` and ``deltas`` of its proposals, a list of maps each, and ``classes`` and ``boxes`` of its box
    head, a list with one region (the whole map, resized to 7 x 7 pixels) for each level of the pyramid.

    ``model`` is the whole detector; in a slim copy it is slim, with its anchors, its resizing and its choice of boxes.

    Raises:
        ModelError: the model is no such detector, or has more heads (masks, keypoints).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        single = hasattr(model, "head") and hasattr(model, "anchor_generator")
        self.proposes = hasattr(model, "rpn") and hasattr(model, "roi_heads")
        if not hasattr(model, "backbone") or not (single or self.proposes):
            raise ModelError(
                f"{type(model).__name__} is no detector of torchvision (SSD, RetinaNet, FCOS, Faster R-CNN): wrap it "
                "in a module of your own that maps images (N, C, H, W) to its raw outputs"
            )
        heads: Any = model.roi_heads if self.proposes else None
        if heads is not None and (heads.has_mask() or heads.has_keypoint()):
            raise ModelError(
                f"{type(model).__name__} has heads of masks or keypoints, which are not followed: wrap it in a module "
                "of your own that maps images (N, C, H, W) to its raw outputs"
            )
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Any]:
        model: Any = self.model
        features = model.backbone(images)
        levels = [features] if isinstance(features, Tensor) else list(features.values())
        if not self.proposes:
            outputs: dict[str, Any] = model.head(levels)
            return outputs
        objectness, deltas = model.rpn.head(levels)
        classes, boxes = [], []
        for level in levels:
            region = functional.interpolate(level, (_POOLED, _POOLED), mode="bilinear", align_corners=False)
            scores, offsets = model.roi_heads.box_predictor(model.roi_heads.box_head(region))
            classes.append(scores)
            boxes.append(offsets)
        return {"objectness": objectness, "deltas": deltas, "classes": classes, "boxes": boxes}
