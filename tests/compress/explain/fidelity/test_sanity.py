import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slimsight.compress.config import ModelConfig
from slimsight.compress.explain import ExplainedClassifier, Saliency
from slimsight.compress.explain.fidelity import sanity_check
from slimsight.compress.explain.fidelity.sanity import cascade, layers_of
from slimsight.compress.models import Classifier, build_classifier


def test_layers_come_as_they_run_with_the_normalisations_that_follow(classifier: Classifier) -> None:
    found = layers_of(classifier, torch.rand(1, 3, 16, 16))
    assert [layer.name for layer in found] == ["net.conv1", "net.conv2", "net.conv3", "net.linear"]
    assert found[1].modules == ("net.conv2", "net.bn2")


def test_a_residual_network_has_a_step_per_layer_with_weights() -> None:
    model = build_classifier(ModelConfig(name="resnet20"), 10).eval()
    found = layers_of(model, torch.rand(1, 3, 32, 32))
    assert len(found) == 20
    assert (found[0].name, found[-1].name) == ("net.conv1", "net.linear")


def test_the_cascade_forgets_from_the_top_and_leaves_the_original(classifier: Classifier) -> None:
    before = copy.deepcopy(classifier.state_dict())
    steps = list(cascade(classifier, torch.rand(1, 3, 16, 16), seed=1))
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert [name for name, _ in steps] == ["net.linear", "net.conv3", "net.conv2", "net.conv1"]
    below = {"net.linear": 3, "net.conv3": 2, "net.conv2": 1, "net.conv1": 0}
    for name, model in steps:
        kept = [f"net.{kind}{number}." for number in range(1, below[name] + 1) for kind in ("conv", "bn")]
        for key, value in model.state_dict().items():
            same = torch.equal(value, before[key])
            assert same == (key.startswith("normalize.") or any(map(key.startswith, kept))), (name, key)
    last = steps[-1][1].net
    assert float(last.conv2.weight.std()) == pytest.approx(0.01, rel=0.1)
    assert float(last.linear.bias.abs().max()) == 0
    assert float(last.bn2.running_mean.abs().max()) == 0
    assert bool((last.bn2.weight == 1).all())
    again = list(cascade(classifier, torch.rand(1, 3, 16, 16), seed=1))[-1][1].net
    torch.testing.assert_close(again.conv2.weight, last.conv2.weight)


def test_a_map_that_reads_the_classifier_passes(classifier: Classifier, gradient: Any, many: Tensor) -> None:
    found = sanity_check(gradient, classifier, many, batch_size=7)
    assert found.passed, found.reason
    assert [step.layer for step in found.steps] == ["net.linear", "net.conv3", "net.conv2", "net.conv1"]
    assert abs(found.steps[-1].spearman.mean) < 0.3
    assert found.steps[-1].spearman.images == 20
    assert found.constant == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_an_edge_detector_fails(classifier: Classifier, edges: Any, many: Tensor) -> None:
    found = sanity_check(lambda _: edges, classifier, many)
    assert not found.passed
    assert found.steps[-1].spearman.mean == pytest.approx(1)
    assert found.steps[-1].ssim.mean == pytest.approx(1)
    assert found.reason.startswith("failed: rank correlation 1.00 with every layer re-initialised (0.5 or more is too")
    assert found.other_images.mean < 0.5
    assert f"of maps of different images: {found.other_images.mean:.2f})" in found.reason


def test_a_constant_map_fails_and_its_correlation_is_not_a_number(
    classifier: Classifier, flat: Any, many: Tensor
) -> None:
    found = sanity_check(lambda _: flat, classifier, many)
    assert not found.passed
    assert found.constant == 20
    assert found.reason.startswith("failed: 20 of 20 maps are constant")
    assert found.steps[-1].spearman.mean is None
    assert found.steps[-1].spearman.images == 0
    assert found.steps[-1].constant == 20
    assert found.other_images.mean is None


def test_a_map_that_becomes_constant_has_changed_and_is_counted(classifier: Classifier, many: Tensor) -> None:
    weight = classifier.net.linear.weight.clone()

    class Fades:
        name = "fades"

        def __init__(self, model: Classifier) -> None:
            self.model = model

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            same = torch.equal(self.model.net.linear.weight, weight)
            return Saliency(images.mean(1) if same else torch.zeros_like(images[:, 0]))

    found = sanity_check(Fades, classifier, many)
    assert found.passed
    assert found.reason.endswith("; 20 of 20 maps became constant")
    assert [step.constant for step in found.steps] == [20] * 4


def test_every_step_explains_the_class_that_the_original_predicts(classifier: Classifier, many: Tensor) -> None:
    asked = []

    class Asked:
        name = "asked"

        def __init__(self, model: Classifier) -> None: ...

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            asked.append(labels)
            return Saliency(images.mean(1))

    sanity_check(Asked, classifier, many)
    with torch.no_grad():
        wanted = classifier(many).argmax(1)
    assert len(asked) == 5
    assert all(torch.equal(labels, wanted) for labels in asked)


def test_an_amortized_explainer_keeps_its_decoder_and_reads_the_new_backbone(
    network: ExplainedClassifier, many: Tensor
) -> None:
    decoder = nn.utils.parameters_to_vector(network.selector.parameters()).clone()
    seen = []

    class Amortized:
        name = "amortized"

        def __init__(self, model: Classifier) -> None:
            self.network = ExplainedClassifier(model, network.selector).eval()

        def explain(self, images: Tensor, labels: Tensor | None = None) -> Saliency:
            with torch.no_grad():
                seen.append(self.network(images, labels)[1])
            return Saliency(images.mean(1))

    sanity_check(Amortized, network.classifier, many)
    assert not torch.allclose(seen[0], seen[-1])
    torch.testing.assert_close(nn.utils.parameters_to_vector(network.selector.parameters()), decoder)
