from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.models.libraries import build_from_torchvision, replace_head_


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_outputs_follow_the_classes(name: str) -> None:
    net = build_from_torchvision(name, 7, pretrained=False).eval()
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_side_branches_are_off() -> None:
    net = build_from_torchvision("googlenet", 7, pretrained=False).train()
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


def test_a_head_that_fits_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 7, bias=False))
    head = net[2]
    replace_head_(net, 7)
    assert net[2] is head
    replace_head_(net, 5)
    assert tuple(net[2].weight.shape) == (5, 4)
    assert net[2].bias is None
    assert net[0].out_features == 4


def test_no_head() -> None:
    with pytest.raises(ConfigError, match="Sequential has no linear layer to replace for 7 classes; use path/to/file"):
        replace_head_(nn.Sequential(nn.Conv2d(3, 4, 3)), 7)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"torchvision has no classifier 'resnet19'; did you mean 'resnet\d+'\?"):
        build_from_torchvision("resnet19", 7, pretrained=False)
    with pytest.raises(ConfigError, match="has no classifier 'fasterrcnn_resnet50_fpn'"):
        build_from_torchvision("fasterrcnn_resnet50_fpn", 7, pretrained=False)


def test_pretrained_weights_are_not_downloaded(hub: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"torchvision:squeezenet1_1 are not in torch hub's cache .*; give `weights` a file"
    ):
        build_from_torchvision("squeezenet1_1", 7, pretrained=True)
    assert list(hub.iterdir()) == []


def test_cached_pretrained_weights_are_used(hub: Path) -> None:
    saved = models.squeezenet1_1(weights=None).state_dict()
    torch.save(saved, hub / "squeezenet1_1-b8a52dc0.pth")
    net = build_from_torchvision("squeezenet1_1", 7, pretrained=True)
    assert torch.equal(net.state_dict()["features.0.weight"], saved["features.0.weight"])
    assert net.state_dict()["classifier.1.weight"].shape == (7, 512, 1, 1)


def test_damaged_cache(hub: Path) -> None:
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"half a file")
    with pytest.raises(ModelError, match=r"cached weights .*\.pth cannot be used; delete the file and fetch it again"):
        build_from_torchvision("squeezenet1_1", 7, pretrained=True)
