from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.models import NETWORKS, Classifier, build_classifier, check_classifier

NAMES = ["mobilenetv2", "resnet110", "resnet20", "resnet32", "resnet44", "resnet56", "vgg16"]


def test_the_names() -> None:
    assert list(NETWORKS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_network_learns_from_a_tiny_batch(name: str) -> None:
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(name=name), 4)
    assert model.training
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 4)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())


def test_the_seed_decides_the_start() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_classifier(ModelConfig(name="resnet20"), 10).state_dict()["net.conv1.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_normalisation_and_shortcut_come_from_the_recipe() -> None:
    config = ModelConfig(name="resnet20", shortcut="conv", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    model = build_classifier(config, 10)
    assert model.normalize.std.flatten().tolist() == [1.0, 2.0, 3.0]
    assert "net.layer2.0.shortcut.0.weight" in model.state_dict()


def test_other_sources(tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(
        "from torch import nn\ndef make(classes): return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))\n"
    )
    model = build_classifier(ModelConfig(name=f"{tmp_path / 'n.py'}:make"), 6)
    check_classifier(model, 2, 6)
    model = build_classifier(ModelConfig(name="torchvision:mobilenet_v3_small"), 6)
    check_classifier(model, 64, 6)


def test_weights_of_the_recipe_are_loaded(tmp_path: Path) -> None:
    saved = build_classifier(ModelConfig(name="resnet20"), 10)
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    model = build_classifier(ModelConfig(name="resnet20", weights=tmp_path / "w.pt"), 10)
    assert torch.equal(model.state_dict()["net.linear.weight"], saved.state_dict()["net.linear.weight"])


def test_unknown_name() -> None:
    with pytest.raises(
        ConfigError,
        match=r"unknown model 'resnet57'; did you mean 'resnet56'\? \(choose from: mobilenetv2, .*, vgg16\); "
        r"torchvision:NAME, timm:NAME and path/to/file\.py:factory work too",
    ):
        build_classifier(ModelConfig(name="resnet57"), 10)


@pytest.mark.parametrize("name", ["resnet20", "net.py:make"])
def test_only_torchvision_has_pretrained_weights(name: str) -> None:
    with pytest.raises(ConfigError, match=f"model '{name}' has no pretrained weights .* give `weights` a .safetensors"):
        build_classifier(ModelConfig(name=name, weights="pretrained"), 10)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (Pair(), r"the model returns tuple; it must return one tensor of logits \(N, classes\): wrap it"),
        (nn.Upsample(scale_factor=2), r"returns shape \(2, 3, 16, 16\) for 2 images; it must return logits \(2, cl"),
        (
            nn.Flatten(),
            r"the model returns 192 logits for 10 classes of the data; both must be equal",
        ),
        (nn.Linear(5, 10), r"the model does not take 3x8x8 images: RuntimeError: .*mat1 and mat2 shapes"),
        (
            nn.Sequential(*[nn.MaxPool2d(2)] * 5),
            r"the model does not take 3x8x8 images: RuntimeError: .*too small",
        ),
    ],
    ids=["tuple", "maps", "classes", "linear", "pool"],
)
def test_check_says_what_does_not_fit(net: nn.Module, message: str) -> None:
    model = Classifier(net, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).train()
    with pytest.raises(ModelError, match=message):
        check_classifier(model, 8, 10)
    assert model.training
