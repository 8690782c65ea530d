"""A training that is interrupted at any step ends with the same bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.data import Batch, Batches, ImageSet
from compress.errors import PruningError
from compress.progress import Silent
from compress.training import Checkpoints, History, Stop, fit, make_fabric, one_cycle
from compress.training import checkpoint as module


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


class Notes(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


class Weight:
    """A controller: what it says depends on all that it saw."""

    def __init__(self) -> None:
        self.value = 1.0

    def follow(self, _: int, figures: Mapping[str, float]) -> None:
        self.value += 0.1 * figures["ce"]

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, float], /) -> None:
        self.value = state["value"]


class Read(Batches):
    """Batches that count the images that are read."""

    read = 0

    def _read(self, indices: Tensor) -> Tensor:
        self.read += len(indices)
        return super()._read(indices)


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric(accelerator="cpu")


@pytest.fixture
def images() -> ImageSet:
    drawn = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 4
    pixels = drawn.integers(0, 256, (40, 3, 8, 8)).astype(np.uint8)
    return ImageSet(pixels, labels, ("a", "b", "c", "d"))


STEPS = 20  # five epochs of four


def train(
    images: ImageSet,
    fabric: Fabric,
    checkpoints: Checkpoints | None,
    *,
    kill_at: int | None = None,
    adam: bool = True,
    patience: int | None = None,
    before_step: Callable[[int], None] = lambda step: None,
    progress: Any = None,
) -> tuple[dict[str, Tensor], History, float, Read]:
    """Dropout, batch normalisation, channels-last convolutions, a schedule, a controller and a validation."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip
    weight, seen = Weight(), iter(range(STEPS + 1))
    batches = Read(images, 10, shuffle=True, seed=3, crop_padding=1, flip=True)

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        step = next(seen)
        before_step(step)
        if step == kill_at:
            raise Killed
        noise = random.random() + float(np.random.rand())  # noqa: NPY002
        ce = nn.functional.cross_entropy(wrapped(batch.images), batch.labels)
        return {"loss": (weight.value + 0.1 * noise) * ce, "ce": ce}

    def validate() -> float:
        model.eval()
        with torch.no_grad():
            found = sum(float(nn.functional.cross_entropy(model(b.images), b.labels)) for b in Batches(images, 20))
        model.train()
        return found

    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters(), lr=0.02)
        if adam
        else torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    )
    options: dict[str, Any] = {} if progress is None else {"progress": progress}
    history = fit(
        model,
        batches,
        loss,
        optimizer,
        fabric,
        what="test",
        steps=STEPS,
        schedule=one_cycle,
        max_norm=1.0,
        validate=validate,
        patience=patience,
        after_step=weight.follow,
        keeps={"weight": weight},
        checkpoints=checkpoints,
        **options,
    )
    return model.state_dict(), history, weight.value, batches


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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


def test_asked_to_stop_it_ends_its_step_saves_and_goes_on_there(
    images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    expected, *_ = train(images, fabric, None)
    stop, notes, heeded = Stop(), Notes(), []

    def ask(step: int) -> None:
        heeded.append(stop.heeded)
        stop.wanted = step == 5

    checkpoints = Checkpoints(tmp_path, "key", seconds=1e9, stop=stop, progress=notes)
    with pytest.raises(KeyboardInterrupt):
        train(images, fabric, checkpoints, before_step=ask)
    assert (heeded, stop.heeded) == ([True] * 6, False)
    assert notes.said == ["test: stopped after step 6"]
    found, _, _, batches = train(images, fabric, Checkpoints(tmp_path, "key"))
    assert same(found, expected)
    assert batches.read == 10 * (STEPS - 6)


def test_saving_takes_at_most_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk on which a save takes 3 s, steps of 1 s, 600 of them."""
    now = 0.0

    class Slow:
        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Any, /) -> None: ...

    def write(path: Path, value: Any) -> None:
        nonlocal now
        now += 3

    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    monkeypatch.setattr(module, "write_packed", write)
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoint = checkpoints.of("test", {"slow": Slow()})
    for step in range(600):
        now += 1
        if checkpoint.due:
            checkpoint.save(step + 1)
    assert checkpoints.saves == [3, 3, 3, 3]  # the first after 10 s: until then nothing tells that it is slow
    assert sum(checkpoints.saves) <= module.SHARE * now


def test_what_cannot_be_saved_is_said_once_and_costs_only_a_restart(
    images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    class Odd(Weight):
        def state_dict(self) -> dict[str, Any]:
            return {"value": {1, 2}}

    model, notes = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), Notes()
    history = fit(
        model,
        Batches(images, 10),
        lambda m, batch: {"loss": nn.functional.cross_entropy(m(batch.images), batch.labels)},
        torch.optim.SGD(model.parameters(), lr=0.1),
        fabric,
        what="test",
        epochs=2,
        keeps={"odd": Odd()},
        checkpoints=Checkpoints(tmp_path, "key", seconds=0, progress=notes),
    )
    assert len(history.epochs) == 2
    assert notes.said == ["test: would start over if it were interrupted; not to be saved: parts/odd/value is a set"]
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_at_its_step_before_it_is_learned_from(
    images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    done: list[int] = []

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found = nn.functional.cross_entropy(wrapped(batch.images), batch.labels)
        return {"loss": found * float("nan") if len(done) == 6 else found}

    message = r"test: the loss is nan at step 7 of 20, at a learning rate of 0\.1; lower its learning rate and run "
    message += r"again \(the last good checkpoint is of step 6\)"
    with pytest.raises(PruningError, match=message):
        fit(
            model,
            Batches(images, 10),
            loss,
            torch.optim.SGD(model.parameters(), lr=0.1),
            fabric,
            what="test",
            epochs=5,
            after_step=lambda step, _: done.append(step),
            checkpoints=Checkpoints(tmp_path, "key", seconds=0),
        )
    assert done == [0, 1, 2, 3, 4, 5]
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_weights_that_are_no_numbers_are_never_saved(images: ImageSet, fabric: Fabric, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def spoil(step: int, _: object) -> None:
        if step == 3:
            with torch.no_grad():
                model[1].bias[0] = float("inf")

    with pytest.raises(PruningError, match=r"test: 1\.bias is not finite after step 4; lower its learning rate"):
        fit(
            model,
            Batches(images, 10),
            lambda m, batch: {"loss": nn.functional.cross_entropy(m(batch.images), batch.labels)},
            torch.optim.SGD(model.parameters(), lr=0.1),
            fabric,
            what="test",
            epochs=5,
            after_step=spoil,
            checkpoints=Checkpoints(tmp_path, "key", seconds=0),
        )
    (path,) = tmp_path.iterdir()
    assert module.read_packed(path)["step"] == 3


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    """Whatever these tests do to the generators of this process is undone."""
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])
