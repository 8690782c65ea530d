"""The predictor of masked images and the divergence that it is trained on."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from slimsight.compress.config import MaskConfig, PredictorConfig
from slimsight.compress.data import Batches
from slimsight.compress.errors import ExplainerRefused
from slimsight.compress.explain import (
    Predictor,
    PredictorQuality,
    judge_predictor,
    new_predictor,
    rbf_masks,
    refuse_constant,
    train_predictor,
)
from slimsight.compress.explain.amortized.predictor import divergence
from slimsight.compress.explain.amortized.rbf import random_rbf, rbf_map, relaxed_bernoulli
from slimsight.compress.models import Classifier
from slimsight.compress.training import Learning


@torch.no_grad()
def masked_kl(predictor: Predictor, classifier: Classifier, val: Batches) -> float:
    """Mean KL over the validation images under the masks that every validation draws."""
    masks, total = MaskConfig(), 0.0
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(val):
            torch.manual_seed(number)
            params = random_rbf(
                len(batch.images), 16, centre=masks.centre, sigma=masks.sigma, device=torch.device("cpu")
            )
            mask = relaxed_bernoulli(rbf_map(params, 16), masks.temperature)
            reference, logits = classifier(batch.images).softmax(1), predictor(batch.images, mask).softmax(1)
            total += float((reference * (reference / logits).log()).sum())
    return total / val.count


def test_what_a_mask_removes_is_the_mean_colour(classifier: Classifier, images: Tensor) -> None:
    predictor = Predictor(classifier)
    grey = classifier.normalize.mean.expand_as(images)
    with torch.no_grad():
        nothing = predictor(images, torch.zeros(6, 1, 16, 16))
        torch.testing.assert_close(nothing, classifier(grey), rtol=1e-5, atol=1e-5)
        assert (nothing - nothing[0]).abs().max() == 0  # whatever the image
        torch.testing.assert_close(predictor(images, torch.ones(6, 1, 16, 16)), classifier(images))
        left = (torch.arange(16) < 8).float().expand(6, 1, 16, 16)
        half = torch.where(left.bool(), images, grey)
        torch.testing.assert_close(predictor(images, left), classifier(half), rtol=1e-5, atol=1e-5)


def test_divergence_is_torchs() -> None:
    torch.manual_seed(0)
    reference, logits = 5 * torch.randn(40, 7), 5 * torch.randn(40, 7)
    found = divergence(reference, logits)
    expected = F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(found, expected)
    both = [torch.distributions.Categorical(logits=values) for values in (reference, logits)]
    torch.testing.assert_close(found, torch.distributions.kl_divergence(*both))
    assert (found > 0).all()
    assert not torch.allclose(found, divergence(logits, reference))


def test_divergence_by_hand_and_zero_for_equal() -> None:
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(divergence(half, quarter)) == pytest.approx(0.1438410)  # (ln 2 + ln 2/3) / 2
    logits = torch.randn(5, 3)
    assert divergence(logits, logits).abs().max() == 0
    assert divergence(logits, logits + 100).abs().max() < 1e-4  # a shift of logits is no difference
    assert divergence(logits.bfloat16(), logits.bfloat16()).dtype == torch.float32


def test_a_certain_classifier_and_a_predictor_that_is_certainly_wrong_have_a_finite_divergence() -> None:
    assert float(divergence(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))) == pytest.approx(200)


def test_a_new_predictor_is_a_trainable_copy(classifier: Classifier, images: Tensor) -> None:
    classifier.requires_grad_(False)
    predictor = new_predictor(classifier, PredictorConfig())
    for name, value in classifier.state_dict().items():
        assert torch.equal(predictor.classifier.state_dict()[name], value), name
    assert all(p.requires_grad for p in predictor.parameters())
    assert not any(p.requires_grad for p in classifier.parameters())
    before = classifier(images)
    with torch.no_grad():
        predictor.classifier.net.conv1.weight.zero_()
    assert torch.equal(classifier(images), before)


def test_a_predictor_from_scratch_keeps_nothing_but_the_architecture(classifier: Classifier) -> None:
    torch.manual_seed(0)
    predictor = new_predictor(classifier, PredictorConfig(init="scratch"))
    theirs, ours = classifier.net, predictor.classifier.net
    for name in ("conv1", "conv2", "conv3", "linear"):
        assert not torch.equal(getattr(ours, name).weight, getattr(theirs, name).weight), name
    assert (ours.bn2.weight == 1).all()
    assert (ours.bn2.running_mean == 0).all()
    assert (theirs.bn2.running_mean != 0).any()
    assert torch.equal(predictor.classifier.normalize.mean, classifier.normalize.mean)


def test_training_lowers_the_divergence_on_masked_images(
    classifier: Classifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    config = PredictorConfig(epochs=12, lr=5e-3, patience=12)
    predictor = new_predictor(classifier, config)
    weights = {name: value.clone() for name, value in classifier.state_dict().items()}
    before = masked_kl(predictor.eval(), classifier, val)
    history = train_predictor(
        predictor, classifier, train, val, Learning(fabric), config=config, draw=rbf_masks(MaskConfig())
    )
    assert history.best < 0.75 * before
    assert history.best == min(history.validations)
    assert not predictor.training
    assert not any(p.requires_grad for p in predictor.parameters())
    # The best epoch is what stays, and its validation is a mean over all images, the ragged batch included.
    assert masked_kl(predictor, classifier, val) == pytest.approx(history.best, rel=1e-4)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_validation_takes_no_random_numbers_from_training(
    classifier: Classifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    states = []
    for images in (val, Batches(val.images, 20)):
        torch.manual_seed(5)
        config = PredictorConfig(epochs=1)
        train_predictor(
            new_predictor(classifier, config),
            classifier,
            train,
            images,
            Learning(fabric),
            config=config,
            draw=rbf_masks(MaskConfig()),
        )
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


def test_quality_is_that_of_a_plain_computation(classifier: Classifier, val: Batches, fabric: Fabric) -> None:
    predictor = new_predictor(classifier, PredictorConfig())
    found = judge_predictor(predictor, classifier, val, fabric, rbf_masks(MaskConfig()))
    with torch.no_grad():
        reference = torch.cat([classifier(batch.images) for batch in val]).double().softmax(1)
    constant = (reference * (reference / reference.mean(0)).log()).sum(1)
    assert found.kl == pytest.approx(masked_kl(predictor.eval(), classifier, val), rel=1e-4)
    assert found.kl_constant == pytest.approx(float(constant.mean()), rel=1e-6)
    assert found.gain == pytest.approx(found.kl_constant - found.kl, rel=1e-6)
    assert found.gain_error is not None
    assert found.gain_error > 0
    assert found.images == 20


@pytest.mark.parametrize(
    ("gain", "error", "useless"), [(0.3, 0.1, False), (0.1, 0.1, True), (-0.2, 0.1, True), (0.3, None, True)]
)
def test_a_predictor_that_says_what_it_would_of_any_image_is_refused(
    gain: float, error: float | None, useless: bool
) -> None:
    quality = PredictorQuality(1.0 - gain, 1.0, gain, error, 20)
    if not useless:
        refuse_constant(quality)
        return
    with pytest.raises(ExplainerRefused, match=r"no better than a constant prediction: .*a constant prediction 1\.000"):
        refuse_constant(quality)


def test_a_predictor_that_does_not_learn_is_stopped(
    classifier: Classifier, train: Batches, val: Batches, fabric: Fabric
) -> None:
    torch.manual_seed(0)
    predictor = new_predictor(classifier, PredictorConfig(init="scratch"))
    config = PredictorConfig(init="scratch", lr=1e-12, epochs=50, patience=50)
    with pytest.raises(ExplainerRefused, match=r"no better than a constant prediction.*of 200\)") as refused:
        train_predictor(
            predictor, classifier, train, val, Learning(fabric), config=config, draw=rbf_masks(MaskConfig())
        )
    assert refused.value.step in (20, 100)  # statistics of its normalisations still move, and with them its KL
    assert refused.value.steps == 200
