"""REAL-X on the small world: masks, training of both variants, judgement."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from slimsight.compress.config import PredictorConfig, RealXConfig, SelectorConfig
from slimsight.compress.data import Batches
from slimsight.compress.explain import (
    ExplainedClassifier,
    Predictor,
    RealXHead,
    Selector,
    explanations,
    find_scales,
    judge_selector,
    new_predictor,
    pixel_masks,
    realx_objective,
    realx_sample,
    refuse_collapsed,
    train_predictor,
    train_selector,
)
from slimsight.compress.explain.amortized.realx import divergence
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning

SIDE = 16


@pytest.fixture
def pixelwise(classifier: Classifier) -> ExplainedClassifier:
    """The trained classifier with a map head that has learned nothing."""
    torch.manual_seed(1)
    scales = find_scales(classifier, torch.zeros(1, 3, SIDE, SIDE))
    return ExplainedClassifier(classifier, Selector(scales, 3, SIDE, RealXHead)).eval()


def to_predictor(classifier: Classifier, train: Batches, val: Batches, fabric: Fabric, realx: RealXConfig) -> Predictor:
    torch.manual_seed(0)
    config = PredictorConfig(epochs=8, lr=5e-3, patience=8)
    predictor = new_predictor(classifier, config)
    train_predictor(predictor, classifier, train, val, Learning(fabric), config=config, draw=pixel_masks(realx))
    return predictor


@pytest.mark.parametrize("keep", [0.5, 0.2])
def test_the_originals_masks_are_hard_and_the_relaxed_ones_nearly(keep: float) -> None:
    torch.manual_seed(0)
    images = torch.zeros(8, 3, 64, 64)
    hard = pixel_masks(RealXConfig(variant="original", keep=keep))(images)
    soft = pixel_masks(RealXConfig(keep=keep))(images)
    assert hard.shape == soft.shape == (8, 1, 64, 64)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert float(hard.mean()) == pytest.approx(keep, abs=0.01)
    assert float((soft > 0.5).float().mean()) == pytest.approx(keep, abs=0.01)
    between = float(((soft > 0.1) & (soft < 0.9)).float().mean())
    assert 0.05 < between < 0.2  # at temperature .1; at 1 it would be most of them
    # Pixels on their own: neighbours do not know of each other.
    pairs = torch.stack([hard[..., 1:].flatten(), hard[..., :-1].flatten()])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.03


@pytest.mark.parametrize(("variant", "epochs", "lr"), [("relaxed", 40, 0.005), ("original", 30, 0.01)])
def test_training_finds_the_pixels_that_matter(
    variant: str, epochs: int, lr: float, pixelwise: ExplainedClassifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    realx = RealXConfig.model_validate({"variant": variant})
    predictor = to_predictor(pixelwise.classifier, train, val, fabric, realx)
    weights = {name: value.clone() for name, value in pixelwise.classifier.state_dict().items()}
    torch.manual_seed(0)
    config = SelectorConfig(epochs=epochs, patience=epochs, lr=lr)
    history = train_selector(
        pixelwise,
        predictor,
        train,
        val,
        Learning(fabric),
        objective=realx_objective(predictor, pixelwise.selector.head, realx, config),
        config=config,
        target_area=0.1,
        sample=realx_sample(realx),
    )
    quality = judge_selector(pixelwise, predictor, val, fabric, sample=realx_sample(realx))
    refuse_collapsed(quality, 0.1, "realx")
    assert abs(quality.mean_area / 0.1 - 1) <= 0.2
    assert quality.kl < 0.7 * quality.kl_random
    assert quality.kl == pytest.approx(history.best, rel=1e-3)
    assert history.epochs[0]["area"] > history.epochs[-1]["area"]
    assert not any(p.requires_grad for p in pixelwise.parameters())
    for name, value in pixelwise.classifier.state_dict().items():
        assert torch.equal(value, weights[name]), name
    # The bright patch, 5 x 5 pixels of the class's colour (a tenth of the image), is what it keeps.
    maps, pixels = explanations(pixelwise, val), torch.from_numpy(val.images.images[:]).float()
    inside = (pixels == 250).any(1)
    assert float(maps[inside].mean()) > 1.5 * float(maps[~inside].mean())


def test_the_original_is_judged_through_hard_masks(
    pixelwise: ExplainedClassifier, classifier: Classifier, val: Batches, fabric: Fabric
) -> None:
    predictor = new_predictor(classifier, PredictorConfig()).eval()
    seen: list[Tensor] = []
    predictor.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    original = RealXConfig(variant="original")
    hard = judge_selector(pixelwise, predictor, val, fabric, sample=realx_sample(original))
    assert all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in seen if mask.numel() > 0)
    assert judge_selector(pixelwise, predictor, val, fabric, sample=realx_sample(original)) == hard
    seen.clear()
    soft = judge_selector(pixelwise, predictor, val, fabric, sample=realx_sample(RealXConfig()))
    assert soft == judge_selector(pixelwise, predictor, val, fabric)
    assert all(0 < float(mask.min()) < float(mask.max()) < 1 for mask in seen)
    assert soft.mean_area == hard.mean_area


@torch.no_grad()
def test_figures_of_maps_are_those_of_a_plain_computation(
    pixelwise: ExplainedClassifier, classifier: Classifier, val: Batches, fabric: Fabric
) -> None:
    predictor = new_predictor(classifier, PredictorConfig()).eval()
    torch.nn.init.normal_(pixelwise.selector.head.weight, std=1.0)
    quality = judge_selector(pixelwise, predictor, val, fabric)
    areas, kls = [], []
    for batch in val:
        logits, p = pixelwise(batch.images, batch.labels)
        kls += divergence(logits, predictor(batch.images, p.unsqueeze(1))).tolist()
        areas += p.mean((1, 2)).tolist()
    assert quality.mean_area == pytest.approx(sum(areas) / 20, rel=1e-5)
    assert quality.kl == pytest.approx(sum(kls) / 20, rel=1e-4)
    assert len({quality.kl, quality.kl_centred_same_area, quality.kl_random}) == 3
