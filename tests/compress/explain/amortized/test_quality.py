"""How good a selector is: its figures, what they are compared with, and when it is refused or stopped early."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from scipy.optimize import brentq
from torch import Tensor

from slimsight.compress.data import Batches, ImageSet
from slimsight.compress.errors import ExplainerRefused
from slimsight.compress.explain import (
    ExplainedClassifier,
    Predictor,
    SelectorQuality,
    judge_selector,
    refuse_collapsed,
)
from slimsight.compress.explain.amortized.quality import Extent, hopeless
from slimsight.compress.training import make_fabric

from .good import GOOD

SIDE = 16


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
