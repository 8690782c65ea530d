"""What ``init`` chooses for a small network that was trained on drawn photographs, prepared in twelve ways."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.data import Preprocessing
from slimsight.compress.models import Classifier
from slimsight.deploy.starter.choose import USUAL, Choice, choose
from slimsight.deploy.starter.images import ImageFacts, examine_images

SIDE, CROPPED = 32, 36
RADII = (6.0, 7.5, 9.0)
LEVELS = (0.5, 0.65, 0.8)
CLASSES = [(radius, level) for radius in RADII for level in LEVELS]
NORMALISATIONS = ("ImageNet's", "0.5 and 0.5", "127 and 128 of 255", "none")
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

Picture = np.ndarray


def draw(label: int, generator: np.random.Generator, width: int = SIDE) -> Picture:
    """A disc near the centre of an image (SIDE, width, 3) uint8; the class is its radius and its brightness."""
    radius, level = CLASSES[label]
    y, x = np.mgrid[:SIDE, :width] + 0.5
    shift = generator.uniform(-1, 1, 2)
    distance = np.hypot(x - width / 2 - shift[0], y - SIDE / 2 - shift[1]) / radius
    inside = 1 / (1 + np.exp(12 * (distance - 1)))[..., None]
    back, front = generator.uniform(0.1, 0.3, 3), level + generator.uniform(-0.06, 0.06, 3)
    noise = generator.normal(0, 0.05, (SIDE, width, 3))
    return np.clip((back + (front - back) * inside + noise) * 255, 0, 255).round().astype(np.uint8)


def plain(label: int, generator: np.random.Generator) -> Picture:
    """Wider than high: the centre square is what the network was trained on."""
    return draw(label, generator, 48)


def bordered(label: int, generator: np.random.Generator) -> Picture:
    """With a border, as wide as a centre crop of 0.875 removes."""
    width = (CROPPED - SIDE) // 2
    return np.pad(draw(label, generator), ((width, width), (width, width), (0, 0)), mode="reflect")


def widened(label: int, generator: np.random.Generator) -> Picture:
    """Half as wide again: what the network was trained on comes back when both sides are scaled."""
    return np.asarray(Image.fromarray(draw(label, generator)).resize((48, SIDE), Image.Resampling.BICUBIC))


PREPARED: dict[str, tuple[Callable[[int, np.random.Generator], Picture], Preprocessing]] = {
    "plain": (plain, Preprocessing.square(SIDE)),
    "bordered": (bordered, Preprocessing(SIDE, CROPPED)),
    "widened": (widened, Preprocessing(SIDE, SIDE, stretch=True)),
}


def new_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 9)
    )


class Expecting(nn.Module):
    """``net``, trained on images in [0, 1], behind the inverse of the normalisation that it is to expect."""

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.mean, self.std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (mean, std))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.std + self.mean)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    net, generator = new_net(), np.random.default_rng(0)
    labels = np.arange(1800) % 9
    pixels = (
        torch.from_numpy(np.stack([draw(label, generator) for label in labels]).transpose(0, 3, 1, 2)).float() / 255
    )
    answers = torch.from_numpy(labels)
    steps = 400
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (64,))
        loss = nn.functional.cross_entropy(net((pixels[rows] - 0.5) / 0.25), answers[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Expecting(net, (-0.5 / 0.25,) * 3, (1 / 0.25,) * 3).eval()


def write(root: Path, picture: Callable[[int, np.random.Generator], Picture], each: int, split: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for label in range(len(CLASSES)):
        (root / split / f"c{label}").mkdir(parents=True, exist_ok=True)
        for number in range(each):
            Image.fromarray(picture(label, generator)).save(root / split / f"c{label}" / f"{number}.png")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageFacts]:
    """Folders with 2 training and 14 validation images of each class."""
    found = {}
    for name, (picture, _) in PREPARED.items():
        root = tmp_path_factory.mktemp(name)
        write(root, picture, 2, "train", 1)
        write(root, picture, 14, "val", 2)
        found[name] = examine_images(root, cache=root / "cache")
    return found


def chosen(net: nn.Module, images: ImageFacts, *, stored: bool = False, mean=PLAIN[0], std=PLAIN[1]) -> Choice:
    config = ModelConfig(name="my.py:build", weights=Path("my.safetensors"))
    return choose(config, Classifier(net, mean, std).eval(), images, images.size, len(images.classes), stored=stored)


def stating(net: nn.Module, **changes: object) -> nn.Module:
    """``net`` with a configuration as timm's networks carry: ImageNet's, bicubic, a centre crop of 0.875."""
    config = {"input_size": (3, SIDE, SIDE), "crop_pct": 0.875, "interpolation": "bicubic"}
    mean, std = USUAL["ImageNet's"]
    net.pretrained_cfg = {**config, "mean": mean, "std": std, "architecture": "net", **changes}
    return net


@pytest.mark.parametrize("name", PREPARED)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_what_the_weights_expect_is_found_in_twelve_of_twelve(
    trained: nn.Module, prepared: dict[str, ImageFacts], name: str, normalisation: str
) -> None:
    """Every validation image is recognised with several candidates: accuracy could not tell."""
    expected = USUAL[normalisation]
    choice = chosen(Expecting(trained, *expected), prepared[name])
    assert choice.accuracy == 1
    assert choice.preprocessing == PREPARED[name][1]
    # With nothing to scale, both filters make one picture.
    assert choice.kind == ("harmless" if name == "bordered" else "decided")
    assert "cross entropy on the 126 images in val/; next: " in choice.why
    found = choice.normalisation
    if normalisation in ("0.5 and 0.5", "127 and 128 of 255"):  # they differ by a grey level, and that is said
        assert (found.mean, found.std) == USUAL["0.5 and 0.5"]
        assert found.kind == "harmless"
        assert found.why.startswith("0.5 and 0.5, decided by cross entropy on the 126 images in val/; next: ")
        assert found.why.endswith("; 127 and 128 of 255, a grey level from it at most, was not tried")
    else:
        assert (found.mean, found.std, found.kind) == (*expected, "decided")


def test_a_statement_is_taken_where_it_cannot_be_told_apart(
    trained: nn.Module, prepared: dict[str, ImageFacts]
) -> None:
    mean, std = USUAL["127 and 128 of 255"]
    net = stating(Expecting(trained, mean, std), mean=mean, std=std)
    choice = chosen(net, prepared["bordered"])
    assert (choice.normalisation.mean, choice.normalisation.kind) == (mean, "harmless")
    assert choice.preprocessing == Preprocessing(SIDE, CROPPED, "bicubic")
    assert choice.sized_by_model
    assert choice.why.startswith("resize 36 bicubic, crop 32 (of timm's pretrained_cfg of net); resize 36 bilinear, ")


def test_a_statement_that_measures_badly_is_not_taken(trained: nn.Module, prepared: dict[str, ImageFacts]) -> None:
    """Weights were finetuned otherwise than the network's configuration says."""
    choice = chosen(stating(Expecting(trained, *PLAIN)), prepared["plain"])
    assert (choice.normalisation.mean, choice.normalisation.std, choice.normalisation.kind) == (*PLAIN, "decided")
    assert "ImageNet's, of timm's pretrained_cfg of net, 0.0" in choice.normalisation.why
    assert (choice.preprocessing, choice.kind) == (Preprocessing.square(SIDE), "decided")
    assert "(of timm's pretrained_cfg of net)" in choice.why
    assert not choice.sized_by_model


def test_a_side_that_the_model_does_not_take_is_not_tried(trained: nn.Module, prepared: dict[str, ImageFacts]) -> None:
    choice = chosen(stating(Expecting(trained, *PLAIN), input_size=(3, 64, 64)), prepared["plain"])
    assert choice.preprocessing == Preprocessing.square(SIDE)
    assert "resize 73 bicubic, crop 64 of timm's pretrained_cfg of net is not tried: the model does not" in choice.why


def test_a_normalisation_in_the_weights_file_is_kept(trained: nn.Module, prepared: dict[str, ImageFacts]) -> None:
    """A run loads it, whatever the recipe says; the preprocessing is decided under it."""
    mean, std = (0.25, 0.25, 0.25), (2.0, 2.0, 2.0)
    choice = chosen(Expecting(trained, mean, std), prepared["widened"], stored=True, mean=mean, std=std)
    found = choice.normalisation
    assert (found.mean, found.std, found.why, found.kind) == (mean, std, "stored in the weights file", "stated")
    assert choice.preprocessing == PREPARED["widened"][1]


def test_weights_that_recognise_nothing_leave_both_undecided(prepared: dict[str, ImageFacts]) -> None:
    torch.manual_seed(3)
    choice = chosen(stating(Expecting(new_net(), *PLAIN)), prepared["plain"])
    assert (choice.normalisation.kind, choice.kind) == ("undecided", "undecided")
    assert choice.normalisation.mean == USUAL["ImageNet's"][0]  # as stated
    assert choice.preprocessing == Preprocessing(SIDE, CROPPED, "bicubic")
    assert (
        "recognise nothing with any of 7 that were tried; set model.mean and model.std to" in choice.normalisation.why
    )
    assert "set data.resize, data.interpolation and data.stretch to" in choice.why


def test_a_handful_of_images_does_not_pretend_to_decide(trained: nn.Module, tmp_path: Path) -> None:
    write(tmp_path / "few", plain, 1, "train", 1)
    write(tmp_path / "few", plain, 1, "val", 2)
    choice = chosen(Expecting(trained, *USUAL["0.5 and 0.5"]), examine_images(tmp_path / "few", cache=tmp_path))
    assert choice.normalisation.kind in ("undecided", "harmless")
    assert "127 and 128 of 255" in choice.normalisation.why
    assert "on the 9 images in val/" in choice.normalisation.why


def test_test_images_are_never_looked_at(trained: nn.Module, tmp_path: Path) -> None:
    """Without validation images it is decided on those that a run will hold out, and said that these may be known."""
    write(tmp_path / "images", plain, 10, "train", 1)
    write(tmp_path / "images", plain, 3, "test", 2)
    images = examine_images(tmp_path / "images", cache=tmp_path)
    assert {file.parts[-3] for file in images.unseen.files} == {"train"}
    assert (len(images.unseen), images.unseen.learned) == (images.splits["val"], True)
    for file in (tmp_path / "images" / "test").glob("*/*"):
        file.unlink()
    choice = chosen(Expecting(trained, *PLAIN), images)
    assert choice.preprocessing == Preprocessing.square(SIDE)
    assert "18 images held out to validate, which the weights may have learned" in choice.normalisation.why


def test_images_of_an_archive_are_taken_as_they_are(trained: nn.Module, tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 8)):
        write(tmp_path / "images", draw, count, split, count)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "images", ".")
    images = examine_images(tmp_path / "images.tar", cache=tmp_path / "cache")
    expected = USUAL["ImageNet's"]
    choice = chosen(Expecting(trained, *expected), images)
    found = choice.normalisation
    assert (found.mean, found.std, choice.preprocessing, choice.why) == (*expected, Preprocessing.square(SIDE), "")
    assert "on the 72 images that validate" in found.why
