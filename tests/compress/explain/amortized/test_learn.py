"""Training, judging and refusing selectors."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.optimize import brentq
from torch import Tensor

from slimsight.compress.config import PredictorConfig, SelectorConfig
from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.errors import ExplainerRefused
from slimsight.compress.explain import (
    ExplainedClassifier,
    Predictor,
    SelectorQuality,
    explanations,
    judge_selector,
    new_predictor,
    rbf_objective,
    refuse_collapsed,
    train_selector,
)
from slimsight.compress.explain.amortized import learn
from slimsight.compress.explain.amortized.quality import Extent, hopeless
from slimsight.compress.explain.amortized.rbf import area, rbf_map
from slimsight.compress.models import Classifier
from slimsight.compress.training import History, Learning, make_fabric

SIDE = 16
GOOD = SelectorQuality(
    mean_area=0.25,
    sigma_p10=3.0,
    sigma_median=4.0,
    sigma_p90=5.0,
    centre_spread=2.0,
    kl=0.5,
    kl_predicted_label=0.5,
    kl_centred=0.7,
    kl_centred_same_area=0.7,
    kl_random=0.9,
    kl_random_same_area=0.8,
    gain_centred=0.2,
    gain_centred_error=0.05,
    gain_random=0.3,
    gain_random_error=0.06,
    cornered=0.1,
    images=20,
)


@pytest.fixture
def predictor(classifier: Classifier) -> Predictor:
    return new_predictor(classifier, PredictorConfig()).eval().requires_grad_(False)


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


def naive_map(row: float, column: float, sigma: float) -> list[list[float]]:
    return [
        [math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2)) for j in range(SIDE)] for i in range(SIDE)
    ]


def naive_area(row: float, column: float, sigma: float) -> float:
    return sum(map(sum, naive_map(row, column, sigma))) / SIDE**2


def naive_kl(predictor: Predictor, logits: Tensor, image: Tensor, rbf: list[float]) -> float:
    """KL(Q_class || q_pred) of one image in double precision, class by class."""
    mask = torch.tensor(naive_map(*rbf)).view(1, 1, SIDE, SIDE)
    seen = predictor(image, mask)[0].double().softmax(0)
    return sum(p * math.log(p / q) for p, q in zip(logits[0].double().softmax(0).tolist(), seen.tolist(), strict=True))


def areas_of(network: ExplainedClassifier, batches: Batches) -> float:
    return float(area(rbf_map(explanations(network, batches), SIDE)).mean())


@torch.no_grad()
def spread_out_(network: ExplainedClassifier) -> None:
    """An untrained selector's maps hardly differ: make places and sizes depend on the image and the label."""
    for up in network.selector.ups:
        up.bn.weight.mul_(15)  # what came through the feature filter weighs more than the skips
    network.selector.head.weight.mul_(20)
    network.selector.head.bias[2] = 3.0


def test_figures_are_those_of_a_brute_force_computation(
    network: ExplainedClassifier, predictor: Predictor, val: Batches, fabric: Fabric
) -> None:
    spread_out_(network)
    # Every third label is not what the classifier predicts.
    mislabelled = np.where(np.arange(20) % 3 == 0, (val.images.labels + 1) % 3, val.images.labels)
    val = Batches(ImageSet(val.images.images, mislabelled, val.images.classes), 8)
    quality = judge_selector(network.train(), predictor.train(), val, fabric)
    assert not network.training
    assert not predictor.training
    found, kls = [], []
    with torch.no_grad():
        for number, batch in enumerate(val):
            # The same random places: uniform in 2..30 of 32 pixels, drawn with the batch's number as seed.
            generator = torch.Generator().manual_seed(number)
            places = (2 + 28 * torch.rand(len(batch.images), 3, generator=generator)) * SIDE / 32
            for n in range(len(batch.images)):
                image = batch.images[n : n + 1]
                logits, params = network(image, batch.labels[n : n + 1])
                row, column, sigma = params[0].tolist()
                predicted = network(image, logits.argmax(1))[1][0].tolist()
                wanted, centre = naive_area(row, column, sigma), (SIDE - 1) / 2
                same_area = brentq(lambda s: naive_area(centre, centre, s) - wanted, 0.1, 1000)  # noqa: B023
                there = places[n, :2].tolist()
                there_same_area = brentq(lambda s: naive_area(*there, s) - wanted, 0.1, 1000)  # noqa: B023
                rivals = [
                    [row, column, sigma],
                    predicted,
                    [centre, centre, sigma],
                    [centre, centre, same_area],
                    [*there, sigma],
                    [*there, there_same_area],
                ]
                kls.append([naive_kl(predictor, logits, image, rbf) for rbf in rivals])
                found.append([row, column, sigma])
    params, kl = np.array(found), np.array(kls)
    gains = [kl[:, 3] - kl[:, 0], kl[:, 5] - kl[:, 0]]
    corner = np.abs(params[:, :2] - SIDE / 2) > 0.75 * (SIDE / 2 - 2)
    low, median, high = np.quantile(params[:, 2], [0.1, 0.5, 0.9])
    expected = SelectorQuality(
        float(np.mean([naive_area(*p) for p in found])),
        low,
        median,
        high,
        float(params[:, :2].std(0, ddof=1).mean()),
        *np.mean(kls, 0).tolist(),
        gain_centred=float(gains[0].mean()),
        gain_centred_error=float(gains[0].std(ddof=1) / 20**0.5),
        gain_random=float(gains[1].mean()),
        gain_random_error=float(gains[1].std(ddof=1) / 20**0.5),
        cornered=float(corner.all(1).mean()),
        images=20,
    )
    assert expected.centre_spread > 0.5  # else the rivals would be all alike
    assert expected.sigma_p90 - expected.sigma_p10 > 0.5
    assert abs(expected.kl_predicted_label / expected.kl - 1) > 0.01
    assert quality.to_dict() == pytest.approx(expected.to_dict(), rel=1e-3, abs=1e-5)


def test_judging_takes_no_random_numbers_and_is_repeatable(
    network: ExplainedClassifier, predictor: Predictor, val: Batches, fabric: Fabric
) -> None:
    state = torch.random.get_rng_state()
    first = judge_selector(network, predictor, val, fabric)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert judge_selector(network, predictor, val, fabric) == first


UNEQUAL = {"kl_predicted_label", "kl_centred", "kl_random"}
EQUAL = {"kl_centred_same_area", "kl_random_same_area"}
GAINS = {"gain_centred", "gain_centred_error", "gain_random", "gain_random_error"}


@pytest.mark.parametrize(("extent", "without"), [("brief", UNEQUAL | EQUAL | GAINS), ("equal_area", UNEQUAL)])
def test_a_shorter_judgement_leaves_out_comparisons_only(
    extent: Extent,
    without: set[str],
    network: ExplainedClassifier,
    predictor: Predictor,
    val: Batches,
    fabric: Fabric,
) -> None:
    full = judge_selector(network, predictor, val, fabric).to_dict()
    short = judge_selector(network, predictor, val, fabric, extent=extent).to_dict()
    left_out = {name for name, value in short.items() if value is None or math.isnan(value)}
    assert left_out == without
    assert {name: short[name] for name in short.keys() - left_out} == {
        name: full[name] for name in full.keys() - left_out
    }


def test_the_verdict_is_in_float32_whatever_the_precision_of_learning(
    network: ExplainedClassifier, predictor: Predictor, val: Batches, fabric: Fabric
) -> None:
    half = make_fabric("bf16-mixed", accelerator="cpu")
    assert judge_selector(network, predictor, val, half) == judge_selector(network, predictor, val, fabric)
    brief = [judge_selector(network, predictor, val, each, extent="brief").kl for each in (half, fabric)]
    assert brief[0] != brief[1]
    assert brief[0] == pytest.approx(brief[1], rel=0.1)


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


def refused(**change: Any) -> bool:
    try:
        refuse_collapsed(dataclasses.replace(GOOD, **change), 0.25)
    except ExplainerRefused:
        return True
    return False


def test_a_selector_is_refused_beyond_the_limits_and_not_at_them() -> None:
    assert not refused()
    assert [refused(mean_area=area) for area in (0.019, 0.02, 0.85, 0.851)] == [True, False, False, True]
    assert [refused(gain_centred=gain) for gain in (-0.1, 0.05, 0.051)] == [True, True, False]
    assert [refused(gain_random=gain) for gain in (-0.1, 0.06, 0.061)] == [True, True, False]


def test_masks_of_other_areas_decide_nothing() -> None:
    """A selector of small maps may lose to larger ones at the centre, which show more of the image."""
    assert not refused(kl=0.5, kl_centred=0.1, kl_random=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mean_area": 0.93, "sigma_median": 81.6},
            r"collapsed to the whole image \(mean area 0.93, target 0.25, median sigma 82 px\).*"
            r"area_term=mean, raise explainer.selector.area_weight or train it for longer",
        ),
        (
            {"mean_area": 0.004},
            r"collapsed to nothing \(mean area 0.004, target 0.25\): lower explainer.selector.area_weight",
        ),
        (
            {"kl": 0.313, "kl_centred_same_area": 0.285, "gain_centred": -0.028},
            r"no better than centred ones of the same area \(KL 0.313 against 0.285 nats, 0.028 worse over 20 images; "
            r"it must be better by more than the standard error of 0.050; at random positions 0.800\); train predictor "
            r"and selector for longer \(explainer.predictor.epochs, explainer.selector.epochs\)",
        ),
        ({"gain_centred": 0.04}, r"0\.040 better over 20 images; it must be better by more than the standard error"),
        ({"gain_centred": math.nan, "kl": math.nan}, r"no better than centred ones of the same area \(KL nan"),
        ({"gain_centred_error": None, "images": 1}, r"not defined for one image: give more validation images"),
        (
            {"gain_random": 0.01, "kl_random_same_area": 0.51},
            r"no better than random ones at the same area \(KL 0.500 against 0.510 nats, 0.010 better over 20 images",
        ),
    ],
    ids=["whole image", "nothing", "worse than centred", "within the error", "not a number", "one image", "random"],
)
def test_a_selector_that_explains_nothing_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ExplainerRefused, match=message):
        refuse_collapsed(dataclasses.replace(GOOD, **change), 0.25)


@pytest.mark.parametrize(
    ("change", "early", "late"),
    [
        ({}, None, None),
        ({"kl": math.nan}, "KL of nan: lower explainer.selector.lr", "KL of nan"),
        ({"cornered": 0.97, "gain_centred": 0.01}, "stuck: 97 % of its maps are centred in a corner", "stuck"),
        ({"cornered": 0.97}, None, None),  # there the objects are
        ({"cornered": 0.89, "gain_centred": 0.01}, None, None),
        ({"gain_centred": -0.04, "gain_random": -0.04}, None, None),
        ({"gain_centred": -0.2, "gain_random": -0.04}, None, None),
        ({"gain_centred": -0.2, "gain_random": -0.2}, None, "clearly worse than both"),
        ({"mean_area": 0.004}, None, "collapsed to nothing"),
        ({"mean_area": 0.9}, None, "collapsed to the whole image"),
    ],
    ids=str,
)
def test_what_is_hopeless_early_and_late(change: dict[str, Any], early: str | None, late: str | None) -> None:
    quality = dataclasses.replace(GOOD, **change)
    for expected, found in (
        (early, hopeless(quality, 0.25, "rbf", late=False)),
        (late, hopeless(quality, 0.25, "rbf", late=True)),
    ):
        assert (expected is None) == (found is None)
        assert expected is None or expected in found


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
