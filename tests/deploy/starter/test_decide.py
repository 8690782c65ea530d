"""The rule by which candidates are told apart, on logits that were made up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slimsight.deploy.starter.decide import decide_normalisation, decide_preprocessing
from slimsight.deploy.starter.race import Difference, Pair, Race, cross_entropies

IMAGES = 200


def logits(right: float, noise: float = 0.0, seed: int = 1) -> Tensor:
    """(IMAGES, 2) of two classes in turn: the right one leads by ``right``, give or take ``noise``."""
    lead = right + noise * np.random.default_rng(seed).standard_normal(IMAGES)
    labels = np.arange(IMAGES) % 2
    return torch.from_numpy(np.stack([np.where(labels == 0, lead, 0), np.where(labels == 1, lead, 0)], 1))


def race(found: dict[tuple[int, int], Tensor]) -> Race:
    return Race(torch.arange(IMAGES) % 2, {Pair(*at): values for at, values in found.items()})


def test_a_difference_is_paired_by_image() -> None:
    """Images that are hard for both do not count."""
    hard = np.random.default_rng(0).exponential(5, IMAGES)
    found = Difference.of(hard + 0.1 + 0.01 * (np.arange(IMAGES) % 2), hard)
    assert found.mean == pytest.approx(0.105)
    assert found.error == pytest.approx(0.005 / np.sqrt(IMAGES), rel=0.01)
    assert Difference.of(hard[:16], hard).images == 16


def test_being_less_sure_does_not_change_cross_entropy() -> None:
    """A factor on all logits is undone by the temperature, whatever it is."""
    noisy, labels = logits(1, 2), torch.arange(IMAGES) % 2
    losses = [cross_entropies(factor * noisy, labels).mean() for factor in (0.25, 1, 8)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
    assert losses[0] < float(torch.nn.functional.cross_entropy(8 * noisy, labels)) - 0.5
    assert np.isinf(cross_entropies(torch.full((4, 2), torch.nan), labels[:4])).all()


def test_a_normalisation_that_beats_all_others_is_decided() -> None:
    verdict = decide_normalisation(race({(0, 0): logits(1, 2), (1, 0): logits(3, 2), (2, 0): logits(0, 2)}), None)
    assert (verdict.chosen, verdict.kind, verdict.alike, verdict.runner_up) == (1, "decided", (), 0)
    assert verdict.worse[0].mean > 2 * verdict.worse[0].error > 0


def test_a_stated_one_that_is_worse_is_not_taken() -> None:
    assert decide_normalisation(race({(0, 0): logits(1, 2), (1, 0): logits(3, 2)}), 0).chosen == 1


def test_two_that_answer_alike_are_harmless_and_the_stated_one_is_taken() -> None:
    twins = race({(0, 0): logits(3, 2), (1, 0): logits(3.001, 2), (2, 0): logits(0, 2)})
    for stated in (0, 1):
        verdict = decide_normalisation(twins, stated)
        assert (verdict.chosen, verdict.kind, verdict.alike) == (stated, "harmless", (1 - stated,))


def test_of_two_that_answer_alike_the_most_usual_is_taken() -> None:
    """Not the sharper one: it would win wherever nearly all images are recognised."""
    sharp = logits(4, 1)
    for second in (50, 0.02):
        verdict = decide_normalisation(race({(0, 0): sharp, (1, 0): second * sharp}), None)
        assert (verdict.chosen, verdict.kind, verdict.alike) == (0, "harmless", (1,))


def test_two_that_differ_by_chance_are_undecided() -> None:
    """As good on average, but on different images: neither is known to be harmless."""
    open_race = race({(0, 0): logits(2, 2, 1), (1, 0): logits(2, 2, 2), (2, 0): logits(0, 2)})
    for stated in (None, 0, 1):
        verdict = decide_normalisation(open_race, stated)
        assert verdict.kind == "undecided"
        assert {verdict.chosen, *verdict.alike} == {0, 1}
        assert stated in (None, verdict.chosen)


def test_weights_that_recognise_nothing_decide_nothing() -> None:
    """Whatever wins among guesses is chance; what is stated stays the most plausible."""
    blind = race({(0, 0): logits(0, 2, 1), (1, 0): logits(0, 2, 2), (0, 1): logits(0, 1, 3), (1, 1): logits(0, 1, 4)})
    verdict = decide_normalisation(blind, 1)
    assert (verdict.chosen, verdict.kind, verdict.blind) == (1, "undecided", True)
    placed = decide_preprocessing(blind, [0, 1])
    assert (placed.chosen, placed.kind, placed.blind) == (0, "undecided", True)


def test_each_normalisation_counts_with_the_preprocessing_that_suits_it() -> None:
    """Under the wrong preprocessing another normalisation is better."""
    found = {(0, 0): logits(1, 2), (1, 0): logits(2, 2), (0, 1): logits(4, 2), (1, 1): logits(2, 2)}
    assert decide_normalisation(race(found), None).chosen == 0
    assert decide_preprocessing(race(found), [0, 1]).chosen == 1


def test_of_preprocessings_that_cannot_be_told_apart_the_preferred_one_is_taken() -> None:
    found = {(0, at): logits(3, 2 + 0.001 * at) for at in range(2)} | {(0, 2): logits(1, 2)}
    for preference in ([0, 1, 2], [1, 0, 2], [2, 1, 0]):
        verdict = decide_preprocessing(race(found), preference)
        wanted = preference[0] if preference[0] != 2 else 1
        assert (verdict.chosen, verdict.kind, verdict.alike) == (wanted, "harmless", (1 - wanted,))
    few = {Pair(0, at): logits(1.5, 2, at)[:24] for at in (1, 2)}
    found = Race(torch.arange(24) % 2, few)
    best = found.best().preprocessing
    other = 3 - best
    assert found.compare(Pair(0, other), Pair(0, best)).error > 0.05
    assert decide_preprocessing(found, [other, best]).kind == "undecided"
