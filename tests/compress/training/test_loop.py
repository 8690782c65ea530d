"""The loop that every stage learns by."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from slimsight.compress.data import Batch, Batches, ImageSet
from slimsight.compress.errors import PruningError, TrainingError
from slimsight.compress.progress import SILENT
from slimsight.compress.training import History, Learning, evaluate, fit, make_fabric, one_cycle, to_device

T = TypeVar("T")


class Record:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.tracked: list[dict[str, Any]] = []
        self.items = 0
        self.shown: list[dict[str, float]] = []

    def track(
        self, items: Iterable[T], what: str, *, total: int | None = None, unit: str = "it", scale: int = 1
    ) -> Iterator[T]:
        self.tracked.append({"what": what, "total": total, "unit": unit, "scale": scale})
        for item in items:
            self.items += 1
            yield item

    def show(self, **figures: float) -> None:
        self.shown.append(figures)

    def note(self, text: str) -> None:
        raise AssertionError(text)


class Rates:
    """A schedule that notes the learning rate of every step."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def __call__(self, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        scheduler = one_cycle(optimizer, steps)
        optimizer.register_step_pre_hook(lambda o, *_: self.used.append(o.param_groups[0]["lr"]))
        return scheduler


@pytest.fixture
def images() -> ImageSet:
    """20 images of 4 pixels; bright ones are of class 1."""
    random = np.random.default_rng(0)
    labels = np.arange(20, dtype=np.int64) % 2
    low = (labels * 100).reshape(-1, 1, 1, 1)
    return ImageSet((random.integers(0, 120, (20, 3, 2, 2)) + low).astype(np.uint8), labels, ("dark", "bright"))


@pytest.fixture
def batches(images: ImageSet) -> Batches:
    """Three per epoch: 8, 8 and 4 images."""
    return Batches(images, 8, shuffle=True)


def to_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


def entropy(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    return {"loss": nn.functional.cross_entropy(model(batch.images), batch.labels)}


def run(model: nn.Module, batches: Batches, fabric: Fabric, *, lr: float = 0.1, **options: Any) -> History:
    if "steps" not in options:
        options.setdefault("epochs", 1)
    loss = options.pop("loss", entropy)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    learning = Learning(fabric, progress=options.pop("progress", SILENT))
    return fit(model, batches, loss, optimizer, learning, what="test", **options)


@pytest.mark.parametrize(
    ("length", "steps", "epochs"),
    [({"epochs": 1}, 3, 1), ({"epochs": 4}, 12, 4), ({"steps": 6}, 6, 2), ({"steps": 7}, 7, 3), ({"steps": 2}, 2, 1)],
    ids=str,
)
def test_it_runs_as_long_as_it_was_told(
    length: dict[str, int], steps: int, epochs: int, batches: Batches, fabric: Fabric
) -> None:
    seen: list[list[int]] = []

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        seen.append(batch.indices.tolist())
        return entropy(model, batch)

    history = run(to_model(), batches, fabric, loss=loss, **length)
    order = [batch.indices.tolist() for k in range(epochs) for batch in batches.epoch(k)]
    assert seen == order[:steps]
    assert len(history.epochs) == epochs
    assert history.validations == []
    assert (history.best, history.best_epoch) == (math.inf, -1)


@pytest.mark.parametrize("length", [{}, {"epochs": 1, "steps": 3}], ids=["neither", "both"])
def test_epochs_or_steps_but_one_of_them(length: dict[str, int], batches: Batches, fabric: Fabric) -> None:
    model = to_model()
    with pytest.raises(AssertionError):
        fit(
            model,
            batches,
            entropy,
            torch.optim.SGD(model.parameters()),
            Learning(fabric),
            what="test",
            **length,
        )


def test_a_plain_step_is_gradient_descent(images: ImageSet, fabric: Fabric) -> None:
    model = to_model()
    expected = copy.deepcopy(model)
    (batch,) = Batches(images, 20)
    entropy(expected, batch)["loss"].backward()
    run(model, Batches(images, 20), fabric, lr=0.5)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.5 * theirs.grad)


def test_gradients_are_clipped_to_the_norm(images: ImageSet, fabric: Fabric) -> None:
    model = to_model()
    before = [p.detach().clone() for p in model.parameters()]
    run(model, Batches(images, 20), fabric, lr=1.0, max_norm=1e-3)
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


def test_learning_lowers_the_loss(batches: Batches, fabric: Fabric) -> None:
    model = to_model()
    history = run(model, batches, fabric, lr=0.5, epochs=20)
    assert history.epochs[-1]["loss"] < 0.5 * history.epochs[0]["loss"]
    assert evaluate(model, batches).accuracy == 1.0


def test_epoch_figures_are_means_over_the_batches(batches: Batches, fabric: Fabric) -> None:
    number = iter(range(100))

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch.images).sum() * 0, "number": torch.tensor(next(number))}

    history = run(to_model(), batches, fabric, loss=loss, steps=8)  # 3 + 3 + 2 of 3
    assert [epoch["number"] for epoch in history.epochs] == [1.0, 4.0, 6.5]


def test_the_best_state_is_what_the_model_holds_at_the_end(batches: Batches, fabric: Fabric) -> None:
    model, states = to_model(), []
    values = iter([0.9, 0.4, 0.6, 0.5])

    def validate() -> float:
        states.append(copy.deepcopy(model.state_dict()))
        return next(values)

    history = run(model, batches, fabric, epochs=4, validate=validate)
    assert history.validations == [0.9, 0.4, 0.6, 0.5]
    assert (history.best, history.best_epoch) == (0.4, 1)
    assert torch.equal(model.state_dict()["1.weight"], states[1]["1.weight"])
    assert not torch.equal(states[1]["1.weight"], states[3]["1.weight"])


def test_an_equal_validation_is_no_better_one(batches: Batches, fabric: Fabric) -> None:
    assert run(to_model(), batches, fabric, epochs=3, validate=lambda: 0.5).best_epoch == 0


@pytest.mark.parametrize(
    ("patience", "epochs"), [(1, 3), (2, 7), (None, 8)], ids=["1 epoch", "2 epochs", "no early stop"]
)
def test_patience_counts_epochs_without_a_better_validation(
    patience: int | None, epochs: int, batches: Batches, fabric: Fabric
) -> None:
    values = iter([0.9, 0.5, 0.7, 0.4, 0.35, 0.4, 0.36, 0.1])
    seen: list[int] = []
    history = run(
        to_model(),
        batches,
        fabric,
        epochs=8,
        validate=lambda: next(values),
        patience=patience,
        after_step=lambda step, _: seen.append(step),
    )
    assert len(history.epochs) == len(history.validations) == epochs
    assert seen == list(range(3 * epochs))  # nothing was learned after the last validation
    assert history.best == min(history.validations)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(value: float, batches: Batches, fabric: Fabric) -> None:
    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch.images).sum() * value}

    with pytest.raises(
        TrainingError,
        match=r"test: training diverged, the loss is (nan|-?inf) at step 1 of 6, at a learning rate of 0.1; lower",
    ):
        run(to_model(), batches, fabric, loss=loss, epochs=2)


@pytest.mark.parametrize("what", ["classifier", "gates (rbf)", "selector"])
def test_divergence_of_any_training_is_a_training_error_that_names_it(
    what: str, batches: Batches, fabric: Fabric
) -> None:
    model = to_model()
    with pytest.raises(
        TrainingError, match=rf"^{re.escape(what)}: training diverged, the loss is nan at step 1"
    ) as caught:
        fit(
            model,
            batches,
            lambda wrapped, batch: {"loss": wrapped(batch.images).sum() * math.nan},
            torch.optim.SGD(model.parameters(), lr=0.1),
            Learning(fabric),
            what=what,
            epochs=1,
        )
    assert not isinstance(caught.value, PruningError)
    assert caught.value.exit_code == 2


def test_after_every_step_its_number_and_figures_as_floats(batches: Batches, fabric: Fabric) -> None:
    told: list[tuple[int, Mapping[str, float]]] = []

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {**entropy(model, batch), "images": torch.tensor(len(batch.labels))}

    history = run(
        to_model(), batches, fabric, loss=loss, epochs=2, after_step=lambda step, figures: told.append((step, figures))
    )
    assert [step for step, _ in told] == list(range(6))
    assert [figures["images"] for _, figures in told] == [8, 8, 4] * 2
    assert all(type(value) is float for _, figures in told for value in figures.values())
    for epoch in range(2):
        mean = sum(figures["loss"] for _, figures in told[3 * epoch : 3 * epoch + 3]) / 3
        assert history.epochs[epoch]["loss"] == pytest.approx(mean)


def test_equal_seeds_give_equal_weights(images: ImageSet, fabric: Fabric) -> None:
    weights = []
    for seed in (3, 3, 4):
        model = to_model()
        run(model, Batches(images, 8, shuffle=True, seed=seed), fabric, epochs=3, schedule=one_cycle)
        weights.append(model.state_dict()["1.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_progress_hears_of_every_step_and_epoch(batches: Batches, fabric: Fabric) -> None:
    record = Record()
    history = run(to_model(), batches, fabric, epochs=2, progress=record)
    assert record.tracked == [{"what": "test", "total": 6, "unit": "img", "scale": 8}]
    assert record.items == 6
    assert record.shown == history.epochs
    record = Record()
    history = run(to_model(), batches, fabric, steps=4, validate=lambda: 0.25, progress=record)
    assert record.tracked[0]["total"] == record.items == 4
    assert record.shown == [{**epoch, "validation_loss": 0.25} for epoch in history.epochs]


def test_one_cycle_rises_to_its_peak_and_falls_to_almost_nothing(images: ImageSet, fabric: Fabric) -> None:
    rates, model = Rates(), to_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    fit(
        model,
        Batches(images, 20),
        entropy,
        optimizer,
        Learning(fabric),
        what="test",
        steps=99,
        schedule=rates,
    )
    assert len(rates.used) == 99
    assert rates.used[0] == pytest.approx(0.3 / 25)
    assert max(rates.used) == rates.used[19] == pytest.approx(0.3)  # 20 % of the steps
    assert rates.used[:20] == sorted(rates.used[:20])
    assert rates.used[19:] == sorted(rates.used[19:], reverse=True)
    assert rates.used[-1] < 0.3 / 500
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 / 25e4)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 19])
def test_one_cycle_serves_any_number_of_steps(steps: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = one_cycle(optimizer, steps)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert 0.5 <= max(used) <= 1
    assert min(used) > 0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-6)


def test_one_cycle_keeps_the_groups_own_rates() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    scheduler = one_cycle(optimizer, 99)
    for _ in range(19):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])


def test_to_device_changes_the_layout_and_nothing_else(batches: Batches) -> None:
    batch = next(iter(batches))
    moved = to_device(batch, torch.device("cpu"))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    for ours, theirs in zip(moved[:3], batch[:3], strict=True):
        assert torch.equal(ours, theirs)


def test_a_fabric_is_launched_on_one_device_in_the_precision_asked_for() -> None:
    fabric = make_fabric("bf16-mixed", accelerator="cpu")
    assert (fabric.world_size, fabric.device) == (1, torch.device("cpu"))
    with fabric.autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.bfloat16
    with make_fabric(accelerator="cpu").autocast():
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == torch.float32
