"""Training, judging and refusing selectors."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from lightning_fabric import Fabric

from slimsight.compress.config import SelectorConfig
from slimsight.compress.data import Batches
from slimsight.compress.errors import ExplainerRefused
from slimsight.compress.explain import (
    ExplainedClassifier,
    Predictor,
    SelectorQuality,
    explanations,
    judge_selector,
    rbf_objective,
    refuse_collapsed,
    train_selector,
)
from slimsight.compress.explain.amortized import learn
from slimsight.compress.explain.amortized.rbf import area, rbf_map
from slimsight.compress.training import History, Learning

from .good import GOOD

SIDE = 16


def learned(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: Batches,
    val: Batches,
    fabric: Fabric,
    config: SelectorConfig,
) -> History:
    objective = rbf_objective(predictor, SIDE, config)
    return train_selector(
        network, predictor, train, val, Learning(fabric), objective=objective, config=config, target_area=0.25
    )


def areas_of(network: ExplainedClassifier, batches: Batches) -> float:
    return float(area(rbf_map(explanations(network, batches), SIDE)).mean())


@pytest.mark.parametrize("term", ["mean", "power"])
def test_training_moves_the_area_from_the_largest_maps_towards_the_target(
    term: str, network: ExplainedClassifier, predictor: Predictor, train: Batches, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        network.selector.head.bias[2] = 16.0
    start = areas_of(network, val)
    assert start > 0.4  # nearly what the largest sigma covers
    weights = {name: value.clone() for name, value in network.classifier.state_dict().items()}
    config = SelectorConfig.model_validate({"epochs": 8, "patience": 8, "area_term": term})
    history = learned(network, predictor, train, val, fabric, config)
    assert abs(areas_of(network, val) - 0.25) < 0.15
    assert history.epochs[0]["area"] > 0.4
    assert history.epochs[7]["area"] < 0.35
    assert history.epochs[3]["area_weight"] > history.epochs[0]["area_weight"]  # for as long as it was too large
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for name, value in network.classifier.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_training_finds_better_places_than_random_ones(
    network: ExplainedClassifier, predictor: Predictor, train: Batches, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    config = SelectorConfig(epochs=10, patience=10)
    history = learned(network, predictor, train, val, fabric, config)
    quality = judge_selector(network, predictor, val, fabric)
    refuse_collapsed(quality, 0.25)
    assert quality.kl < 0.5 * quality.kl_random
    assert abs(quality.mean_area / 0.25 - 1) <= learn.AREA_BAND
    assert quality.kl == pytest.approx(history.best, rel=1e-4)  # the best epoch stays


def test_the_best_epoch_within_the_band_of_areas_stays(
    network: ExplainedClassifier,
    predictor: Predictor,
    train: Batches,
    val: Batches,
    fabric: Fabric,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # KL and area by epoch: the lowest KL belongs to maps of nearly the whole image, which is no merit.
    script = [(0.01, 0.9), (0.5, 0.29), (0.4, 0.21), (0.05, 0.31), (0.45, 0.25), (0.3, 0.25)]
    states = []

    def judge(*_args: object, extent: str, sample: None) -> SelectorQuality:
        assert sample is None
        if extent == "equal_area":  # an early check
            return GOOD
        assert extent == "brief"
        kl, mean_area = script[len(states)]
        states.append(copy.deepcopy(network.state_dict()))
        network.eval()
        return dataclasses.replace(GOOD, kl=kl, mean_area=mean_area)

    monkeypatch.setattr(learn, "judge_selector", judge)
    history = learned(network, predictor, train, val, fabric, SelectorConfig(epochs=6, patience=2))
    assert history.validations == [0.01, 0.5, 0.4, 0.05, 0.45]  # losses, whatever the areas; then it stopped
    assert (history.best, history.best_epoch, history.best_excess) == (0.4, 2, 0.0)
    for name, value in network.state_dict().items():
        assert torch.equal(value, states[2][name]), name
    assert not torch.equal(states[2]["selector.head.bias"], states[4]["selector.head.bias"])


@pytest.mark.parametrize(("steps", "rate"), [(10, 0.1), (200, 0.1), (400, 0.05), (1000, 0.02), (20_000, 0.02)], ids=str)
def test_the_area_weight_follows_the_error_within_limits(steps: int, rate: float) -> None:
    weight = learn._AreaWeight(1.0, 0.25, steps)
    weight.update({"area": 0.25})
    assert weight.value == 1
    weight.update({"area": 0.3})
    assert weight.value == pytest.approx(math.exp(rate * 0.2))
    weight.update({"area": 0.2})
    assert weight.value == pytest.approx(1)
    weight.update({"area": 0.99})  # an error counts as 1 at most
    assert weight.value == pytest.approx(math.exp(rate))
    for _ in range(int(12 / rate)):
        weight.update({"area": 1.0})
    assert weight.value == 1e4
    for _ in range(int(25 / rate)):
        weight.update({"area": 0.0})
    assert weight.value == 1e-4


def test_a_selector_stuck_in_a_corner_is_stopped_after_few_steps(
    network: ExplainedClassifier, predictor: Predictor, train: Batches, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        network.selector.head.bias[:2] = 60.0  # saturated: no gradient leads out
    stuck = r"100 % of its maps are centred in a corner, and .*\(after step 20 of 200\)"
    with pytest.raises(ExplainerRefused, match=stuck) as refused:
        learned(network, predictor, train, val, fabric, SelectorConfig(epochs=50))
    assert (refused.value.step, refused.value.steps) == (20, 200)
    assert refused.value.seconds_saved is not None
    assert refused.value.seconds_saved > 0
