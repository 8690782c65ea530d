"""``slimsight inspect`` as a user meets it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Said


def test_everything_before_a_run_on_one_screen(say: Callable[..., Said], tmp_path: Path) -> None:
    said = say(
        "inspect", "vgg16", "--input", "3x32x32", "--classes", 10, "--budget", "macs=50%", "--json", tmp_path / "v.json"
    )
    assert said.code == 0
    found = json.loads((tmp_path / "v.json").read_text())
    assert found["groups"] == 13
    assert found["plan"]["macs"] == found["plan"]["fvcore_macs"] == found["plan"]["cost_model_macs"]
    assert 0.495 <= found["plan"]["macs"] / found["macs"] <= 0.5
    assert found["plan"]["max_rel"] <= 1e-9
    assert found["plan"]["max_rel_float32"] <= 1e-4
    assert found["smallest_macs"] < 0.01 * found["macs"]
    assert [group["reason"] for group in found["frozen_groups"]] == ["its channels are the network's output"]
    lines = said.out.splitlines()
    assert lines[0] == "vgg16 at 3x32x32"
    assert re.search(r"^MACs +313\.\d\d M *$", said.out, re.MULTILINE)
    assert re.search(r"^channel groups that can shrink +13, proven in \d+ s *$", said.out, re.MULTILINE)
    assert "frozen groups: 1" in lines
    assert re.search(r"^cost model and fvcore +the same: ", said.out, re.MULTILINE)
    assert "13 channel groups found" in said.err


def test_a_run_can_be_looked_into(say: Callable[..., Said], finished: object) -> None:
    said = say("inspect", finished.root, "--input", "3x16x16")
    assert said.code == 0
    assert re.search(r"^MACs +0\.36 M *$", said.out, re.MULTILINE)
    assert "plan by magnitude" not in said.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet57", "--input", "3x32x32"], "unknown model 'resnet57'; did you mean 'resnet56'?"),
        (["resnet20", "--input", "32x32"], "the input is '32x32': give channels x height x width, e.g. 3x224x224"),
        (["resnet20", "--input", "3x32x32", "--budget", "latency=3ms"], "the budget is 'latency=3ms': give macs=50%"),
        (
            ["resnet20", "--input", "3x32x32", "--budget", "macs=3ms"],
            "'3ms' is not a valid limit on MACs: give a ratio",
        ),
        (["resnet20", "--input", "4x32x32"], "the model does not take 4x32x32 images: RuntimeError"),
        (["nowhere.py:net", "--input", "3x32x32"], "nowhere.py"),
    ],
)
def test_wrong_input_is_one_sentence(say: Callable[..., Said], arguments: list[str], words: str) -> None:
    said = say("inspect", *arguments)
    assert (said.code, said.out) == (2, "")
    assert words in said.error
    assert said.error.count("\n") == 1
