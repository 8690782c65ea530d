"""Slim folders of runs and of the Python API load both ways: as a program, and as an instance of the model's class."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimsight
from slimsight.compress.config import GatesConfig
from slimsight.compress.errors import ExportError, ModelError, PruningError
from slimsight.compress.files.atomic import read_tensors
from slimsight.compress.models import Classifier
from slimsight.compress.models.user_code import build_from_file

RAW = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def build(tiny: Path) -> Callable[[], nn.Module]:
    """The model of the run, with other weights."""
    return lambda: build_from_file(f"{tiny.with_name('tiny.py')}:tiny", 10)


def normalised(root: Path) -> Tensor:
    """The images as the run's network takes them."""
    tensors = read_tensors(root / "slim" / "model.safetensors")
    return (RAW - tensors["normalize.mean"]) / tensors["normalize.std"]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as it is": lambda net: net,
    "in eval mode": lambda net: net.eval(),
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,  # type: ignore[dict-item]
    "half": lambda net: net.half(),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_run_s_slim_model_is_an_instance_of_the_user_s_class(name: str, finished: Any, build: Any) -> None:
    expected = slimsight.load(finished.root / "slim")(RAW)
    model = build()
    loaded = slimsight.load(finished.root / "slim", WRAPPERS[name](model))
    assert type(loaded) is type(model)
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert sum(p.numel() for p in loaded.parameters()) == finished.report.slim.params < finished.report.original.params
    assert torch.allclose(loaded(normalised(finished.root)), expected, atol=1e-4)
    assert not loaded.training
    loaded.train()(RAW).sum().backward()


def test_with_its_normalisation_where_the_model_has_one(finished: Any, build: Any) -> None:
    wrapped = slimsight.load(finished.root / "slim", Classifier(build(), (0, 0, 0), (1, 1, 1)))
    assert torch.allclose(wrapped(RAW), slimsight.load(finished.root / "slim")(RAW), atol=1e-4)


@pytest.mark.parametrize("place", [".", "slim", "slim/model.safetensors", "slim/plan.json", "slim/model.pt2"])
def test_the_run_or_a_file_will_do(place: str, finished: Any, build: Any) -> None:
    expected = slimsight.load(finished.root / "slim")(RAW)
    assert torch.equal(slimsight.load(finished.root / place)(RAW), expected)
    loaded = slimsight.load(str(finished.root / place), build())
    assert torch.allclose(loaded(normalised(finished.root)), expected, atol=1e-4)


def test_a_copy_of_the_slim_folder_alone_loads(finished: Any, build: Any, tmp_path: Path) -> None:
    shutil.copytree(finished.root / "slim", tmp_path / "alone")
    expected = slimsight.load(tmp_path / "alone")(RAW)
    loaded = slimsight.load(tmp_path / "alone", build())
    assert torch.allclose(loaded(normalised(finished.root)), expected, atol=1e-4)


class Named(nn.Module):
    """A model whose own layers are below ``net``, as those of a run's classifier are."""

    def __init__(self, width: int = 8, norm: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU())
        self.normalize = nn.BatchNorm2d(3) if norm else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.net(self.normalize(images)).mean((2, 3)))
        return out


@pytest.mark.parametrize("norm", [True, False])
def test_a_model_with_the_names_of_a_run_keeps_them(norm: bool, tmp_path: Path) -> None:
    traced = slimsight.trace(Named(norm=norm), RAW)
    scores = slimsight.learn_gates(traced, [RAW], macs=0.6, config=GatesConfig(steer="magnitude"))
    slim = slimsight.slim(traced, slimsight.select(traced, scores, macs=0.6))
    slimsight.save(slim, tmp_path)
    expected = slim.model.eval()(RAW)
    assert torch.equal(slimsight.load(tmp_path, Named(norm=norm))(RAW), expected)
    assert torch.allclose(slimsight.load(tmp_path)(RAW), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 10)), "no such layer"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(784, 10)), "does not take 3x16x16"),
        (nn.Flatten(), "has 16 channels, the model has no such layer"),
        (lambda images: images, "the model is a function; give a torch.nn.Module"),
    ],
)
def test_another_model_is_refused_in_one_sentence(model: Any, words: str, finished: Any) -> None:
    with pytest.raises((ModelError, PruningError), match=words) as caught:
        slimsight.load(finished.root / "slim", model)
    assert "\n" not in str(caught.value)


def test_other_classes_are_refused(finished: Any, tiny: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit Sequential after the plan .*size mismatch"):
        slimsight.load(finished.root / "slim", build_from_file(f"{tiny.with_name('tiny.py')}:tiny", 7))


def test_a_place_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no .*gone: give the folder that slimsight\.save wrote"):
        slimsight.load(tmp_path / "gone")
    with pytest.raises(ExportError, match=r"there is no .*model\.pt2"):
        slimsight.load(tmp_path)
