"""When a training is asked to stop, cannot save, or learns nothing but NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.errors import TrainingError
from slimsight.compress.training import Checkpoints, Learning, Stop, fit
from slimsight.compress.training import checkpoint as module

from .killed import STEPS, Notes, Weight, drawn_images, same, train


@pytest.fixture
def images() -> ImageSet:
    return drawn_images()


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
        Learning(fabric, checkpoints=Checkpoints(tmp_path, "key", seconds=0, progress=notes)),
        what="test",
        epochs=2,
        keeps={"odd": Odd()},
    )
    assert len(history.epochs) == 2
    assert notes.said == ["test: cannot be saved and would start over after an interrupt: parts/odd/value is a set"]
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_at_its_step_before_it_is_learned_from(
    images: ImageSet, fabric: Fabric, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    done: list[int] = []

    def loss(wrapped: nn.Module, batch: Batch) -> dict[str, Tensor]:
        found = nn.functional.cross_entropy(wrapped(batch.images), batch.labels)
        return {"loss": found * float("nan") if len(done) == 6 else found}

    message = (
        r"test: training diverged, the loss is nan at step 7 of 20, at a learning rate of 0\.1; lower its learning "
    )
    message += r"rate and run again \(the last good checkpoint is of step 6\)"
    with pytest.raises(TrainingError, match=message):
        fit(
            model,
            Batches(images, 10),
            loss,
            torch.optim.SGD(model.parameters(), lr=0.1),
            Learning(fabric, checkpoints=Checkpoints(tmp_path, "key", seconds=0)),
            what="test",
            epochs=5,
            after_step=lambda step, _: done.append(step),
        )
    assert done == [0, 1, 2, 3, 4, 5]
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_weights_that_are_no_numbers_are_never_saved(images: ImageSet, fabric: Fabric, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

    def spoil(step: int, _: object) -> None:
        if step == 3:
            with torch.no_grad():
                model[1].bias[0] = float("inf")

    with pytest.raises(
        TrainingError, match=r"test: training diverged, 1\.bias is not finite after step 4; lower its learning rate"
    ):
        fit(
            model,
            Batches(images, 10),
            lambda m, batch: {"loss": nn.functional.cross_entropy(m(batch.images), batch.labels)},
            torch.optim.SGD(model.parameters(), lr=0.1),
            Learning(fabric, checkpoints=Checkpoints(tmp_path, "key", seconds=0)),
            what="test",
            epochs=5,
            after_step=spoil,
        )
    (path,) = tmp_path.iterdir()
    assert module.read_packed(path)["step"] == 3
