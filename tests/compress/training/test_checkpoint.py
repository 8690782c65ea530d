"""A training that is interrupted at any step ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from slimsight.compress.data import ImageSet
from slimsight.compress.training import Checkpoints, History
from slimsight.compress.training import checkpoint as module

from .killed import STEPS, Killed, Notes, Read, drawn_images, same, train


@pytest.fixture
def images() -> ImageSet:
    return drawn_images()


@pytest.mark.parametrize(
    ("adam", "kills"),
    [(True, [0, 1, 3, 2, 9, 1]), (True, [4]), (True, [7]), (True, [19]), (False, [6])],  # epochs are of 4 steps
    ids=str,
)
def test_killed_at_any_step_it_ends_with_the_same_bits(
    kills: list[int], adam: bool, images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    expected, history, weight, _ = train(images, fabric, None, adam=adam)
    for steps in kills:  # each counts the steps of its own process
        with pytest.raises(Killed):
            train(images, fabric, Checkpoints(tmp_path, "key", seconds=0), kill_at=steps, adam=adam)
    found, resumed, resumed_weight, batches = train(images, fabric, Checkpoints(tmp_path, "key", seconds=0), adam=adam)
    assert same(found, expected)
    assert (resumed, resumed_weight) == (history, weight)
    assert batches.read == 10 * (STEPS - sum(kills))  # what was learned from is not even read again


def test_a_checkpoint_every_few_steps_loses_only_the_steps_since(
    images: ImageSet, fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, *_ = train(images, fabric, None)
    clock = iter(range(10_000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with pytest.raises(Killed):
        train(images, fabric, Checkpoints(tmp_path, "key", seconds=4, progress=Notes()), kill_at=15)
    notes = Notes()
    found, _, _, batches = train(images, fabric, Checkpoints(tmp_path, "key", seconds=1e9), progress=notes)
    assert same(found, expected)
    redone = batches.read // 10 - (STEPS - 15)
    assert 0 < redone < 15
    assert notes.said == [f"test: goes on after step {15 - redone} of {STEPS}"]


def test_a_finished_training_is_entered_again_without_a_step(images: ImageSet, fabric: Fabric, tmp_path: Path) -> None:
    expected, history, *_ = train(images, fabric, Checkpoints(tmp_path, "key", seconds=0))
    after = torch.rand(3)
    found, resumed, _, batches = train(images, fabric, Checkpoints(tmp_path, "key", seconds=0))
    assert batches.read == 0
    assert same(found, expected)
    assert resumed == history
    assert torch.equal(torch.rand(3), after)  # the random numbers that follow are the same ones


def test_one_that_stalled_stays_so(images: ImageSet, fabric: Fabric, tmp_path: Path) -> None:
    def run(checkpoints: Checkpoints) -> tuple[dict[str, Tensor], History, float, Read]:
        return train(images, fabric, checkpoints, patience=1)

    expected, history, *_ = run(Checkpoints(tmp_path, "key", seconds=0))
    assert len(history.epochs) < 5
    found, resumed, _, batches = run(Checkpoints(tmp_path, "key", seconds=0))
    assert (same(found, expected), resumed, batches.read) == (True, history, 0)


def test_another_key_is_another_training(images: ImageSet, fabric: Fabric, tmp_path: Path) -> None:
    expected, *_ = train(images, fabric, None)
    with pytest.raises(Killed):
        train(images, fabric, Checkpoints(tmp_path, "key", seconds=0), kill_at=7)
    found, _, _, batches = train(images, fabric, Checkpoints(tmp_path, "another", seconds=0))
    assert same(found, expected)
    assert batches.read == 10 * STEPS


@pytest.mark.parametrize(("how", "place"), [("a bit flipped", 0.1), ("a bit flipped", 0.9), ("cut off", 0.5)])
def test_a_damaged_checkpoint_is_named_and_the_training_starts_over(
    how: str, place: float, images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    expected, *_ = train(images, fabric, None)
    with pytest.raises(Killed):
        train(images, fabric, Checkpoints(tmp_path, "key", seconds=0), kill_at=7)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    if how == "cut off":
        del content[at:]
    else:
        content[at] ^= 8
    path.write_bytes(content)
    notes = Notes()
    found, _, _, batches = train(images, fabric, Checkpoints(tmp_path, "key", seconds=1e9, progress=notes))
    assert same(found, expected)
    assert batches.read == 10 * STEPS
    assert len(notes.said) == 1
    assert notes.said[0].startswith(f"test: starts over, its checkpoint is damaged: {path} ")
