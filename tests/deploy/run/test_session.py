from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from slimsight.compress.data import ImageSet
from slimsight.compress.errors import PruningError
from slimsight.compress.explain import ExplainedClassifier
from slimsight.compress.macs import count_macs
from slimsight.compress.models import Classifier
from slimsight.compress.progress import SILENT
from slimsight.compress.surgery import PrunePlan, gated_vs_slim
from slimsight.deploy.host import default_cache
from slimsight.deploy.run.fingerprints import classifier_parts, fingerprint
from slimsight.deploy.run.session import Session
from slimsight.deploy.run_dir import read_run
from slimsight.deploy.settings.recipe import load_recipe


@pytest.fixture
def session(finished: Any, cache: Path) -> Session:
    """Of the finished run; it only reads."""
    return Session(finished.recipe, read_run(finished.root), SILENT, cache)


@pytest.fixture
def with_overrides(finished: Any, tiny: Path, cache: Path) -> Callable[..., Session]:
    return lambda *overrides: Session(load_recipe(tiny, overrides), read_run(finished.root), SILENT, cache)


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMSIGHT_CACHE", "/a/place")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == Path("/a/place")
    monkeypatch.setenv("SLIMSIGHT_CACHE", "")
    assert default_cache() == Path("/xdg/slimsight")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path("/home/me/.cache/slimsight")


def test_models_come_back_from_their_files_as_they_were(session: Session) -> None:
    images, labels = session.some_images(8), session.some_labels(8)
    original, network = session.classifier(), session.explained()
    assert not any(module.training for module in network.modules())
    with torch.no_grad():
        logits, params = network(images, labels)
        again, same = session.explained()(images, labels)
        torch.testing.assert_close(logits, original(images))
        torch.testing.assert_close(logits, again)
        torch.testing.assert_close(params, same)
        other = session.new_explained()(images, labels)[1]
    assert not torch.allclose(params, other)


def test_some_images_are_spread_over_the_validation_images(session: Session) -> None:
    images, val = session.some_images(5), session.splits.val
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.max() <= 1
    chosen = [0, round((len(val) - 1) / 4), (len(val) - 1) // 2, round(3 * (len(val) - 1) / 4), len(val) - 1]
    np.testing.assert_array_equal(images.numpy(), val.images[np.array(chosen)].astype(np.float32) / 255)
    assert session.some_labels(5).tolist() == val.labels[chosen].tolist()
    assert len(session.some_images(10**6)) == len(session.some_labels(10**6)) == len(val)
    torch.testing.assert_close(session.example, images[:1])


def test_gates_see_a_seeded_sample_in_the_order_of_the_training_images(with_overrides: Callable[..., Session]) -> None:
    everything = with_overrides()
    assert everything.gate_images() is everything.splits.train
    assert len(with_overrides("gates.images=999999").gate_images()) == len(everything.splits.train)
    sample, again = (with_overrides("gates.images=50").gate_images() for _ in range(2))
    assert len(sample) == 50
    np.testing.assert_array_equal(sample.images[:], again.images[:])
    assert (np.diff(sample.images.order) > 0).all()


def test_the_data_key_follows_pixels_labels_and_splits(with_overrides: Callable[..., Session]) -> None:
    key = with_overrides().data_key
    assert with_overrides("data.crop_padding=3", "gates.steps=900").data_key == key
    assert with_overrides("seed=1").data_key != key
    assert with_overrides("data.image_size=24").data_key != key
    changed = with_overrides()
    train = changed.splits.train
    images, labels = np.array(train.images[:]), train.labels.copy()
    changed.splits.train = ImageSet(images, labels, train.classes)
    assert changed.data_key == key
    images[0, 0, 0, 0] ^= 1
    assert with_images(with_overrides(), ImageSet(images, labels, train.classes)).data_key != key
    images[0, 0, 0, 0] ^= 1
    labels[700] = (labels[700] + 1) % 10
    assert with_images(with_overrides(), ImageSet(images, labels, train.classes)).data_key != key


@pytest.mark.parametrize("option", ["data.interpolation=nearest", "data.stretch=true", "data.resize=17"])
def test_a_preprocessing_is_part_of_the_fingerprint_even_where_the_sampled_pixels_are_equal(
    with_overrides: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(Session, "data_key", "the same pixels")
    default, explicit, other = (classifier_parts(with_overrides(*each)) for each in ([], ["data.resize=16"], [option]))
    assert "preprocessing" not in default  # as before there were others
    assert fingerprint(default) == fingerprint(explicit) != fingerprint(other)


def with_images(session: Session, train: ImageSet) -> Session:
    session.splits.train = train
    return session


def test_batches_are_full_and_augmented_only_where_asked(with_overrides: Callable[..., Session]) -> None:
    session = with_overrides("data.flip=true", "data.crop_padding=2")
    train = session.splits.train
    plain, bare = session.plain(train), session.shuffled(train, 64)
    assert plain.count == len(train)
    assert bare.count == len(train) // 64 * 64
    for batch in (next(iter(plain)), next(iter(bare))):
        exact = train.images[batch.indices.numpy()].astype(np.float32) / 255
        np.testing.assert_allclose(batch.images.numpy(), exact, atol=1e-6)
    augmented = next(iter(session.shuffled(train, 64, crop=True, flip=True)))
    exact = train.images[augmented.indices.numpy()].astype(np.float32) / 255
    assert np.abs(augmented.images.numpy() - exact).max() > 0.5
    assert session.shuffled(train, 10**6).count == len(train)


def test_graph_cost_and_surgery_agree(session: Session, finished: Any) -> None:
    assert [group.name for group in session.graph.groups] == [f"net.{index}.0" for index in range(5)]
    assert [group.name for group in session.graph.frozen] == ["net.7"]
    assert session.cost.total == count_macs(session.classifier(), session.example).total
    assert session.limits == {"macs": session.cost.total // 2}
    plan = PrunePlan.load(finished.root / "slim" / "plan.json")
    slimmed = session.slimmed(plan)
    assert isinstance(slimmed, ExplainedClassifier)
    assert session.cost.of_plan(plan) == count_macs(slimmed.classifier, session.example).total
    assert gated_vs_slim(session.network(), slimmed, session.graph.groups, plan, session.some_images(4)) <= 1e-5


def test_slim_is_the_finetuned_model_with_its_explainer(session: Session, finished: Any) -> None:
    classifier, explained = session.slim()
    assert explained is not None
    assert explained.classifier is classifier
    with torch.no_grad():
        hits = classifier(session.some_images(10**6)).argmax(1) == session.some_labels(10**6)
    assert float(hits.float().mean()) == pytest.approx(finished.report.slim.val_accuracy)


def test_without_an_explainer_the_network_is_the_classifier(
    with_overrides: Callable[..., Session], plain: tuple[str, ...]
) -> None:
    session = with_overrides(*plain)
    assert isinstance(session.network(), Classifier)
    assert [group.name for group in session.graph.groups] == [f"net.{index}.0" for index in range(5)]
    assert session.cost.total == count_macs(session.classifier(), session.example).total


def test_a_model_with_nothing_to_prune_names_what_holds_it(session: Session) -> None:
    heads = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
    with pytest.raises(
        PruningError, match=r"has nothing to prune \(net.1: its channels are the network's output\); choo"
    ):
        session.find_groups(Classifier(heads, (0, 0, 0), (1, 1, 1)).eval())
    empty = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(PruningError, match="it has no convolution and no linear layer"):
        session.find_groups(Classifier(empty, (0, 0, 0), (1, 1, 1)).eval())
