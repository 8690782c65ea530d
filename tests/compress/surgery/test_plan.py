import json
from pathlib import Path

import pytest

from slimsight.compress.errors import PruningError
from slimsight.compress.surgery import ChannelGraph, ChannelGroup, PrunePlan


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = PrunePlan({"a": (0, 2), "b": (1,)}, {"a": 4, "b": 2})
    plan.save(tmp_path / "plan.json")
    assert PrunePlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text()) == {
        "schema": 1,
        "groups": {"a": {"width": 4, "kept": [0, 2]}, "b": {"width": 2, "kept": [1]}},
    }
    assert plan.removed("a") == [1, 3]
    assert plan.shrinks
    assert not PrunePlan({"a": (0, 1)}, {"a": 2}).shrinks


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ((), "leaves group 'a' without channels; keep at least one of 4"),
        ((1, 0), "must be sorted, unique and below 4"),
        ((1, 1), "must be sorted, unique and below 4"),
        ((3, 4), "must be sorted, unique and below 4"),
        ((-1, 2), "must be sorted, unique and below 4"),
    ],
)
def test_channels_that_make_no_sense_are_refused(kept: tuple[int, ...], text: str) -> None:
    with pytest.raises(PruningError, match=text):
        PrunePlan({"a": kept}, {"a": 4})


def test_groups_and_widths_must_be_the_same() -> None:
    with pytest.raises(PruningError, match="original width of exactly the groups"):
        PrunePlan({"a": (0,)}, {"b": 4})


@pytest.mark.parametrize("text", ['{"schema": 2, "groups": {}}', "[]", '{"schema": 1, "groups": {"a": {"kept": [0]}}}'])
def test_another_file_is_no_plan(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PruningError, match="not a prune plan"):
        PrunePlan.load(tmp_path / "plan.json")


def test_a_plan_names_the_group_that_does_not_fit() -> None:
    graph = ChannelGraph((ChannelGroup("a", 8, (), (), ()),), ())
    PrunePlan({"a": (0,)}, {"a": 8}).check_fits(graph)
    with pytest.raises(PruningError, match="group 'a' has 4 channels, the model has 8 channels"):
        PrunePlan({"a": (0,)}, {"a": 4}).check_fits(graph)
    with pytest.raises(PruningError, match="group 'b' has 4 channels, the model has no such group"):
        PrunePlan({"b": (0,)}, {"b": 4}).check_fits(graph)
