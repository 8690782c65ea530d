"""The objective on a classifier whose evidence is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.explain.varsal import SoftTVPrior, VarSalObjective, objective
from slimsight.compress.models import Classifier

SIDE = 16


def to_maps(mean: Tensor, log_variance: float = -20.0) -> Tensor:
    return torch.stack([mean, torch.full_like(mean, log_variance)], 1)


def patch_of(images: Tensor) -> Tensor:
    """(N, H, W) 1 on the bright patch that the label is made of."""
    return (images.amax(1) > 0.9).float()


def test_the_loss_is_the_sum_of_its_parts(classifier: Classifier, images: Tensor) -> None:
    classifier.requires_grad_(False)
    maps = torch.randn(len(images), 2, SIDE, SIDE, requires_grad=True)
    figures = VarSalObjective(classifier, SIDE, SIDE, alpha=0.3)(images, maps)
    prior = SoftTVPrior(SIDE, SIDE, 0.3).kl(maps[:, 0], maps[:, 1]).mean()
    torch.testing.assert_close(figures["prior_kl"], prior)
    torch.testing.assert_close(figures["loss"], figures["kl"] + prior / (10 * SIDE * SIDE))
    figures["kl"].backward()
    assert maps.grad is not None
    assert (maps.grad.flatten(2).abs().sum(2) > 0).all()  # both mu and log nu learn from the predictions
    assert all(parameter.grad is None for parameter in classifier.parameters())


def test_maps_of_the_evidence_keep_the_prediction(classifier: Classifier, images: Tensor) -> None:
    classifier.requires_grad_(False)
    to_loss = VarSalObjective(classifier, SIDE, SIDE)
    many = images.repeat(50, 1, 1, 1)
    torch.manual_seed(0)
    right = to_loss(many, to_maps(patch_of(many)))["kl"]
    wrong = to_loss(many, to_maps(-patch_of(many)))["kl"]
    assert right < 0.5 * wrong


def test_k_is_uniform_between_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[Tensor] = []

    def spy(images: Tensor, mask: Tensor, references: Tensor) -> Tensor:
        masks.append(mask)
        return references

    monkeypatch.setattr(objective, "perturb", spy)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2))
    maps = to_maps(torch.randn(3000, 8, 8, generator=torch.Generator().manual_seed(0)))
    VarSalObjective(classifier, 8, 8, kept=(0.2, 0.6))(torch.rand(3000, 3, 8, 8), maps)
    kept = masks[0].mean((1, 2, 3))
    assert 0.1999 < kept.min() < 0.21
    assert 0.59 < kept.max() < 0.6001
    assert abs(float(kept.mean()) - 0.4) < 0.01


def test_logits_that_are_known_are_not_computed_again(classifier: Classifier, images: Tensor) -> None:
    to_loss = VarSalObjective(classifier, SIDE, SIDE)
    maps = torch.randn(len(images), 2, SIDE, SIDE)
    torch.manual_seed(1)
    once = to_loss(images, maps)["kl"]
    torch.manual_seed(1)
    calls = []
    handle = classifier.register_forward_hook(lambda *_: calls.append(1))
    given = to_loss(images, maps, classifier(images))["kl"]
    handle.remove()
    torch.testing.assert_close(once, given)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.6}, "alpha of the soft-TV prior is 0.6"),
        ({"kept": (0.9, 0.1)}, "keep 0.9 to 0.1 of the pixels: give two shares between 0 and 1"),
        ({"kept": (0.0, 0.5)}, "keep 0 to 0.5 of the pixels"),
        ({"beta": -1.0}, "beta is -1; it must be 0 or more"),
        ({"epsilon": 0.0}, "epsilon is 0; it must be more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(classifier: Classifier, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VarSalObjective(classifier, SIDE, SIDE, **settings)  # type: ignore[arg-type]


def test_small_images_are_refused(classifier: Classifier) -> None:
    with pytest.raises(DataError, match=r"images of 7 x 32 pixels are too small for VarSal: give images of 8 x 8"):
        VarSalObjective(classifier, 7, 32)
