"""The table of stages, which knows the explainers by name alone."""

from __future__ import annotations

import pytest

from slimsight.compress.explain import STEERING
from slimsight.deploy.run.stage_table import WITHOUT_PREDICTOR, stage_needs
from slimsight.deploy.settings.recipe import Recipe


@pytest.mark.parametrize("name", STEERING)
def test_an_explainer_without_masks_has_no_predictor(name: str) -> None:
    assert (STEERING.get(name).masks is None) == (name in WITHOUT_PREDICTOR)


def test_what_a_stage_needs_comes_before_it() -> None:
    done: set[str] = set()
    for stage, needs in stage_needs(Recipe()).items():
        assert done.issuperset(needs), stage
        done.add(stage)
