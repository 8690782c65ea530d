"""What models say of their own preprocessing, without a download."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from slimsight.compress.data import Preprocessing
from slimsight.deploy.starter.stated import Stated, stated_by

CONFIG = {
    "architecture": "net",
    "tag": "in1k",
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
}


def carrying(**changes: Any) -> nn.Module:
    """A network of a user's, with a timm network inside."""
    inner = nn.Identity()
    inner.pretrained_cfg = {**CONFIG, **changes}  # type: ignore[assignment]
    return nn.Sequential(inner, nn.Identity())


def stated(net: nn.Module) -> Stated:
    found = stated_by(net, "my.py:build")
    assert found is not None
    return found


def test_timms_configuration_is_read_wherever_it_lies_in_the_network() -> None:
    found = stated(carrying())
    assert found == Stated(
        "timm's pretrained_cfg of net.in1k", (0.5,) * 3, (0.25,) * 3, Preprocessing(224, 256, "bicubic")
    )
    assert stated_by(nn.Identity(), "my.py:build") is None


@pytest.mark.parametrize(
    ("changes", "preprocessing"),
    [
        ({"crop_pct": 0.9}, Preprocessing(224, 248, "bicubic")),
        ({"crop_pct": 1}, Preprocessing(224, 224, "bicubic")),
        ({"crop_mode": "squash", "crop_pct": 0.9}, Preprocessing(224, 248, "bicubic", stretch=True)),
        ({"input_size": [3, 96, 96], "interpolation": "bilinear"}, Preprocessing(96, 109)),
    ],
)
def test_sizes_are_those_that_timm_makes(changes: dict[str, Any], preprocessing: Preprocessing) -> None:
    assert (stated(carrying(**changes)).preprocessing, stated(carrying(**changes)).notes) == (preprocessing, ())


def test_a_real_timm_network_says_what_timm_transforms() -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_resnet", pretrained=False, num_classes=4)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=net))
    found = stated(net)
    assert found.preprocessing is not None
    resize, crop = transform.transforms[0], transform.transforms[1]
    assert (found.preprocessing.resize, list(crop.size)) == (resize.size, [found.preprocessing.side] * 2)
    assert found.preprocessing.interpolation == resize.interpolation.value
    assert list(found.mean or ()) == pytest.approx(transform.transforms[-1].mean.tolist())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop_mode": "border"}, "its crop_mode 'border' is none of a recipe's"),
        ({"input_size": (1, 28, 28)}, r"its input_size \(1, 28, 28\) is no square of three channels"),
        ({"input_size": (3, 224, 192)}, r"is no square of three channels"),
        ({"crop_pct": 1.2}, "its crop_pct 1.2 is not above 0 and at most 1"),
        ({"interpolation": "random"}, "its interpolation 'random' is none of a recipe's"),
    ],
)
def test_what_no_recipe_can_have_is_said(changes: dict[str, Any], words: str) -> None:
    found = stated(carrying(**changes))
    assert (found.preprocessing, found.mean) == (None, (0.5,) * 3)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(found.notes[0])


@pytest.mark.parametrize("mean", [(0.5,), None, "0.5", (0.5, 0.5, float("nan"))])
def test_a_mean_that_is_none_is_not_taken(mean: Any) -> None:
    found = stated(carrying(mean=mean))
    assert (found.mean, found.std, found.preprocessing) == (None, None, Preprocessing(224, 256, "bicubic"))
    assert "are not three numbers" in found.notes[0]


def test_networks_that_disagree_say_nothing() -> None:
    found = stated(nn.Sequential(carrying(), carrying(crop_pct=1.0)))
    assert (found.mean, found.preprocessing) == (None, None)
    assert "its 2 networks carry timm's pretrained_cfg, and these differ" in found.notes[0]
    assert stated(nn.Sequential(carrying(), carrying())).notes == ()


def test_torchvisions_weights_say_their_transforms() -> None:
    found = stated_by(nn.Identity(), "torchvision:efficientnet_b1")
    assert found == Stated(
        "torchvision's EfficientNet_B1_Weights.IMAGENET1K_V2.transforms()",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        Preprocessing(240, 255),
    )
    cropped = stated_by(nn.Identity(), "torchvision:resnet50")
    assert cropped is not None
    assert cropped.preprocessing == Preprocessing(224, 232)
