"""PruneGrad and PrunePGD against the same, one image and one step at a time, by hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.errors import ConfigError, DataError
from slimsight.compress.explain import PruneGrad, PrunePGD, calibrate_percent, signed_max_abs
from slimsight.compress.explain.attribution.prunegrad import LAST_STEP, LIMIT
from slimsight.compress.models import Classifier, ResNet


def relus(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.ReLU)]


def naive_change(model: nn.Module, image: Tensor, label: int, percent: int) -> float:
    """|p' - p| / p with ``percent`` of the neurons closed by rank; the network's ReLUs are modules used once each."""
    outputs: list[Tensor] = []
    handles = [module.register_forward_hook(lambda *call: outputs.append(call[2])) for module in relus(model)]
    logits = model(image.clone().requires_grad_())
    for handle in handles:
        handle.remove()
    slopes = torch.autograd.grad(logits[0, label], outputs)
    scores = torch.cat([(out * slope).abs().flatten() for out, slope in zip(outputs, slopes, strict=True)])
    silent = torch.cat([out.flatten() == 0 for out in outputs])
    ranked = sorted(range(len(scores)), key=lambda k: (not bool(silent[k]), scores[k].item()))
    keep = torch.ones(len(scores))
    keep[ranked[: percent * len(scores) // 100]] = 0
    factors = iter(torch.split(keep, [out.numel() for out in outputs]))
    handles = [
        module.register_forward_hook(lambda _module, _inputs, out: out * next(factors).view_as(out))
        for module in relus(model)
    ]
    pruned = model(image)
    for handle in handles:
        handle.remove()
    p, q = (values.detach().softmax(1)[0, label].item() for values in (logits, pruned))
    return abs(q - p) / p


def test_the_last_step_within_the_limit_is_taken(classifier: Classifier, images: Tensor) -> None:
    labels = classifier(images).argmax(1)
    found = PruneGrad(classifier).prune(images)
    total = sum(part[0].numel() for part in found.closed)
    open_end = 0
    for k in range(len(images)):
        step = next(s for s in range(100) if s * total // 100 == round(float(found.percent[k]) * total / 100))
        image, label = images[k : k + 1], int(labels[k])
        changes = [naive_change(classifier, image, label, s) for s in range(0, step + 1, 10)]
        assert max(changes) <= LIMIT
        assert naive_change(classifier, image, label, step) == pytest.approx(float(found.change[k]), abs=1e-5)
        assert found.change[k] <= LIMIT
        if step < LAST_STEP:
            assert naive_change(classifier, image, label, step + 1) > LIMIT
            open_end += 1
    assert open_end >= 3
    assert found.percent.min() > 5


def test_the_gradient_of_the_pruned_network(classifier: Classifier, images: Tensor) -> None:
    labels = torch.tensor([0, 1, 2, 1, 2, 0])
    explainer = PruneGrad(classifier)
    closed = iter(explainer.prune(images, labels).closed)
    handles = [
        module.register_forward_hook(lambda _module, _inputs, out: out * ~next(closed)) for module in relus(classifier)
    ]
    given = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(classifier(given).gather(1, labels[:, None]).sum(), given)
    for handle in handles:
        handle.remove()
    found = explainer.explain(images, labels)
    torch.testing.assert_close(found.maps, signed_max_abs(slope))
    assert found.signed


def test_an_image_is_pruned_alike_alone_and_in_company(images: Tensor) -> None:
    torch.manual_seed(0)
    model = Classifier(ResNet(8, 3), (0.5,) * 3, (0.2,) * 3).eval().double()  # rounding must not swap ranks
    images = images.double()
    labels = torch.tensor([0, 1, 2, 1, 2, 0])
    together = PruneGrad(model).prune(images, labels)
    for k in range(len(images)):
        alone = PruneGrad(model).prune(images[k : k + 1], labels[k : k + 1])
        assert alone.percent == together.percent[k]
        assert all(torch.equal(a[0], b[k]) for a, b in zip(alone.closed, together.closed, strict=True))


def test_a_percentage_closes_that_many_and_asks_nothing(classifier: Classifier, images: Tensor) -> None:
    found = PruneGrad(classifier, percent=62.5).prune(images)
    total = sum(part[0].numel() for part in found.closed)
    assert [int(sum(part[k].sum() for part in found.closed)) for k in range(6)] == [int(0.625 * total)] * 6
    none = PruneGrad(classifier, percent=0).explain(images)
    given = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(classifier(given).amax(1).sum(), given)
    torch.testing.assert_close(none.maps, signed_max_abs(slope))


def test_calibration_finds_the_first_mean_beyond_the_limit(classifier: Classifier, images: Tensor) -> None:
    percent = calibrate_percent(classifier, [images[:4], images[4:]])
    labels = classifier(images).argmax(1)

    def mean(step: int) -> float:
        pairs = zip(images.split(1), labels.tolist(), strict=True)
        return sum(naive_change(classifier, image, label, step) for image, label in pairs) / len(images)

    assert 0 < percent < LAST_STEP
    assert mean(percent) <= LIMIT < mean(percent + 1)
    found = PruneGrad(classifier, percent=percent).prune(images)
    assert float(found.change.mean()) == pytest.approx(mean(percent), abs=1e-5)
    with pytest.raises(DataError, match="no images to calibrate"):
        calibrate_percent(classifier, [])


def test_pgd_stays_in_the_ball_and_raises_the_logit(classifier: Classifier, images: Tensor) -> None:
    explainer = PrunePGD(classifier)
    delta = explainer.perturbation(images)
    lengths = delta.flatten(1).norm(dim=1)
    assert lengths.max() <= 0.1 * (1 + 1e-6)
    assert lengths.min() > 0.09  # 20 steps of .01 reach the border where the network is nearly linear
    torch.testing.assert_close(explainer.explain(images).maps, signed_max_abs(delta))
    labels = classifier(images).argmax(1)
    closed = explainer.prune(images).closed

    def logit(inputs: Tensor) -> Tensor:
        parts = iter(closed)
        handles = [
            module.register_forward_hook(lambda _module, _inputs, out: out * ~next(parts))
            for module in relus(classifier)
        ]
        values = classifier(inputs).gather(1, labels[:, None]).squeeze(1)
        for handle in handles:
            handle.remove()
        return values

    with torch.no_grad():
        assert (logit(images + delta) > logit(images)).all()
    short = PrunePGD(classifier, steps=3).perturbation(images).flatten(1).norm(dim=1)
    assert short.max() <= 0.03 * (1 + 1e-6)


def test_one_step_of_pgd_is_the_scaled_gradient(classifier: Classifier, images: Tensor) -> None:
    delta = PrunePGD(classifier, steps=1).perturbation(images)
    maps = PruneGrad(classifier).explain(images).maps
    steps = signed_max_abs(delta)
    cosine = torch.nn.functional.cosine_similarity(steps.flatten(1), maps.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(6))


def test_where_the_logit_is_flat_nothing_moves() -> None:
    flat = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    nn.init.zeros_(flat[4].weight)
    images = torch.rand(2, 3, 4, 4)
    assert PrunePGD(flat).explain(images).maps.eq(0).all()
    assert PruneGrad(flat).prune(images).percent.tolist() == pytest.approx([99, 99], abs=4)  # of 32 neurons


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limit": -0.1}, "limit -0.1: the largest output change is 0 or more"),
        ({"percent": 100}, "percent 100: the share of neurons to close is from 0 to below 100"),
        ({"steps": 0}, "steps 0, size 0.01, radius 0.1: all are more than 0"),
    ],
)
def test_options_out_of_range(options: dict[str, float], sentence: str, classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PrunePGD(classifier, **options)
