"""Names, and what is said where one does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.compress.explain import EXPLAINERS, Explainer, ExplainerFactory, Saliency, make_explainer, needs_weights
from slimsight.compress.models import Classifier


def test_an_unknown_name(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"unknown explainer 'gradcam'; did you mean 'grad_cam'.*guided_backprop"):
        make_explainer("gradcam", classifier)


def test_weights_of_what_learns_nothing(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match=r"'gradient' learns nothing: leave out its weights \(a\.safetensors\)"):
        make_explainer("gradient", classifier, Path("a.safetensors"))


def test_what_is_learned_gets_its_weights(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []

    class Learned:
        name = "learned"

        def explain(self, images: object, labels: object = None) -> Saliency:
            raise AssertionError

    def make(model: object, weights: Path) -> Explainer:
        given.extend([model, weights])
        return Learned()

    monkeypatch.setitem(EXPLAINERS._entries, "learned", ExplainerFactory(trained=make))
    assert needs_weights("learned")
    assert not needs_weights("edges")
    assert make_explainer("learned", classifier, Path("w")).name == "learned"
    assert given == [classifier, Path("w")]
    with pytest.raises(ConfigError, match=r"'learned' is learned: give its weights, .*edges"):
        make_explainer("learned", classifier)
