"""A backbone's weights under a new head: what is the head, what fits, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ConfigError, ModelError
from slimsight.compress.models import (
    UnknownHeadError,
    build_net,
    build_with_backbone,
    classes_known,
    classes_of_weights,
    head_tensors,
)

NETS = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, classes))

def ten():
    return net(10)
"""


@pytest.fixture
def name(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path / 'nets.py'}:net"


def trained(name: str, classes: int, value: float = 3) -> dict[str, Tensor]:
    """A state dict that no initialisation draws."""
    states = build_net(ModelConfig(name=name), classes).state_dict()
    return {key: torch.full_like(tensor, value) for key, tensor in states.items()}


def on(name: str, tensors: dict[str, Tensor], folder: Path) -> ModelConfig:
    save_file(tensors, folder / "w.safetensors")
    return ModelConfig.model_validate({"name": name, "weights": folder / "w.safetensors", "head": "new"})


def test_the_head_is_what_follows_the_number_of_classes(name: str) -> None:
    state = torch.random.get_rng_state()
    assert head_tensors(ModelConfig(name=name)) == {"7.weight": (0, 0, 1), "7.bias": (0, 0, 1)}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(head_tensors(ModelConfig(name="resnet20"))) == {"linear.weight", "linear.bias"}
    assert set(head_tensors(ModelConfig(name="torchvision:squeezenet1_1"))) == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    fixed = ModelConfig(name=name.replace(":net", ":ten"))
    with pytest.raises(UnknownHeadError, match="give its factory a parameter named classes"):
        head_tensors(fixed)
    save_file(trained(name, 10), Path(name).parent / "ten.safetensors")
    assert classes_known(fixed.model_copy(update={"weights": Path(name).parent / "ten.safetensors"}), 8) == 10


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model."])
def test_weights_of_any_number_of_classes_give_all_but_the_head(
    name: str, tmp_path: Path, classes: int, prefix: str
) -> None:
    config = on(name, {prefix + key: tensor for key, tensor in trained(name, classes).items()}, tmp_path)
    if prefix != "backbone.":
        assert classes_of_weights(config) == classes
    model, found = build_with_backbone(config, 7)
    assert found is not None
    assert set(found.taken) == {key for key in trained(name, 2) if not key.startswith("7.")}
    assert (found.made, found.left) == (("7.bias", "7.weight"), ())
    for key, tensor in model.net.state_dict().items():
        assert bool((tensor == 3).all()) != key.startswith("7."), key
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 7)


def test_weights_without_a_head_or_with_parts_beside_the_network(name: str, tmp_path: Path) -> None:
    body = {key: tensor for key, tensor in trained(name, 2).items() if not key.startswith("7.")}
    config = on(name, {**body, "projector.0.weight": torch.ones(2, 2)}, tmp_path)
    assert classes_of_weights(config) is None
    _, found = build_with_backbone(config, 3)
    assert found is not None
    assert found.left == ("projector.0.weight",)
    assert found.in_words() == "9 tensors taken; made new: 7.bias, 7.weight; left out: projector.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"5.weight": None}, r"8 of 9 tensors fit, but tensor '5.weight' is missing .* expects it with shape \(6, 4\)"),
        ({"0.weight": torch.ones(5, 3, 3, 3)}, r"tensor '0.weight' has shape \(5, 3, 3, 3\), the model expects \(4,"),
        ({"0.extra": torch.ones(1)}, r"the file has tensor '0.extra' of shape \(1,\), the model has none"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_by_name(
    name: str, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    changed = {key: tensor for key, tensor in {**trained(name, 2), **change}.items() if tensor is not None}
    with pytest.raises(ModelError, match=message):
        build_with_backbone(on(name, changed, tmp_path), 2)


def test_a_backbone_of_which_nothing_fits_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hold none of the 9 tensors of the model's backbone \(the file has other.w"):
        build_with_backbone(on(name, {"other.weight": torch.ones(2)}, tmp_path), 2)
    deeper = {key: torch.ones_like(t) for key, t in build_net(ModelConfig(name="resnet32"), 10).state_dict().items()}
    with pytest.raises(ModelError, match=r"114 of 114 tensors fit, but the file has tensor 'layer1.3"):
        build_with_backbone(on("resnet20", deeper, tmp_path), 10)


def test_normalisation_in_the_file_is_taken(name: str, tmp_path: Path) -> None:
    tensors = {f"net.{key}": tensor for key, tensor in trained(name, 2).items()}
    tensors["normalize.mean"] = torch.full((1, 3, 1, 1), 0.25)
    model, found = build_with_backbone(on(name, tensors, tmp_path), 3)
    assert model.normalize.mean.flatten().tolist() == [0.25] * 3
    assert found is not None
    assert "normalize.mean" not in found.taken


def test_pretrained_weights_of_other_classes_need_a_new_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    config = ModelConfig(name="torchvision:squeezenet1_1", weights="pretrained")
    with pytest.raises(ConfigError, match=r"are of 1,000 classes and the data has 7: set model\.head to new"):
        build_with_backbone(config, 7)
    assert classes_of_weights(config) == 1000
    weights = models.get_model_weights("squeezenet1_1").DEFAULT
    states = {key: torch.full_like(tensor, 0.5) for key, tensor in models.squeezenet1_1().state_dict().items()}
    (tmp_path / "checkpoints").mkdir()
    torch.save(states, tmp_path / "checkpoints" / weights.url.rpartition("/")[2])
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, *a, **k: states)
    model, found = build_with_backbone(config.model_copy(update={"head": "new"}), 7)
    assert found is not None
    assert found.made == ("classifier.1.bias", "classifier.1.weight")
    assert bool((model.net.state_dict()["features.0.weight"] == 0.5).all())
    assert model.net.state_dict()["classifier.1.weight"].shape[0] == 7
