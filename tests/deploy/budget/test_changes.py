"""Which layers changed, and whose doing it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slimsight.deploy.budget.changes import find_changes
from slimsight.export.costs.layers import LayerCost


def conv(name: str, inputs: int, outputs: int, *, groups: int = 1, kernel: int = 9, side: int = 8) -> LayerCost:
    weights = outputs * inputs // groups * kernel
    positions = side * side
    return LayerCost(name, weights * positions, weights, inputs, outputs, groups, kernel, positions, positions)


NET = (conv("a", 16, 20), conv("b", 20, 40), conv("c", 40, 20), conv("head", 20, 10, kernel=1, side=1))


def test_nothing_changed() -> None:
    assert find_changes(NET, NET) == ()


def test_the_layer_that_was_widened_comes_before_the_one_that_grew_with_it() -> None:
    """``c`` gains as much as ``b`` by reading b's channels, and four times as much where its kernel is large."""
    after = (NET[0], conv("b", 20, 44), replace(conv("c", 44, 20), kernel=9), NET[3])
    found = find_changes(NET, after)
    assert [change.name for change in found] == ["b", "c"]
    assert [change.own for change in found] == [found[0].growth, 0]
    assert [change.why for change in found] == ["40 -> 44 output channels", "reads 40 -> 44 channels"]

    before = (conv("b", 3, 40), conv("c", 40, 80))
    found = find_changes(before, (conv("b", 3, 44), conv("c", 44, 80)))
    assert found[1].growth > 10 * found[0].growth
    assert [change.name for change in found] == ["b", "c"]


def test_a_depthwise_layer_only_follows() -> None:
    before = (conv("b", 8, 32, kernel=1), conv("dw", 32, 32, groups=32), conv("p", 32, 8, kernel=1))
    after = (conv("b", 8, 36, kernel=1), conv("dw", 36, 36, groups=36), conv("p", 36, 8, kernel=1))
    found = find_changes(before, after)
    assert found[0].name == "b"
    assert [change.own > 0 for change in found] == [True, False, False]
    assert {change.name: change.why for change in found}["dw"] == "32 -> 36 output channels, as its input"


def test_a_stride_is_the_layer_s_own_and_a_larger_map_is_not() -> None:
    before = (replace(conv("a", 8, 8, side=8), reads=256), conv("b", 8, 8, side=8))
    after = (replace(conv("a", 8, 8, side=16), reads=256), conv("b", 8, 8, side=16))
    found = find_changes(before, after)
    assert [(change.name, change.own) for change in found] == [("a", found[0].growth), ("b", 0)]
    assert [change.why for change in found] == ["gives 64 -> 256 pixels", "reads 64 -> 256 pixels"]


def test_a_kernel_groups_and_layers_that_come_and_go() -> None:
    after = (conv("a", 16, 20, kernel=25), conv("b", 20, 40, groups=4), conv("new", 40, 20), NET[3])
    found = {change.name: change for change in find_changes(NET, after)}
    assert {name: change.kind for name, change in found.items()} == {
        "a": "grown",
        "new": "added",
        "b": "shrunk",
        "c": "removed",
    }
    assert found["a"].why == "kernel of 9 -> 25"
    assert found["b"].why == "1 -> 4 groups"
    assert (found["new"].own, found["c"].growth) == (NET[2].macs, -NET[2].macs)


@pytest.mark.parametrize("factor", [2, 3])
def test_growth_is_what_macs_say(factor: int) -> None:
    (change,) = find_changes((NET[1],), (conv("b", 20, 40 * factor),))
    assert change.growth == change.own == (factor - 1) * NET[1].macs


def test_a_wrapper_around_one_of_the_models_hides_nothing() -> None:
    wrapped = tuple(replace(layer, name=f"net.{layer.name}") for layer in NET)
    assert find_changes(wrapped, NET) == find_changes(NET, wrapped) == ()
    after = (NET[0], conv("b", 20, 44), *NET[2:])
    assert [change.name for change in find_changes(wrapped, after)] == ["b"]
    assert [change.name for change in find_changes(after, wrapped)] == ["net.b"]


def test_models_that_share_no_layer_are_not_forced_together() -> None:
    others = (conv("x.stem", 16, 20), conv("y.stem", 20, 40))
    assert {change.kind for change in find_changes(NET, others)} == {"added", "removed"}
