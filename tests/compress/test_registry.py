import pytest

from slimsight.compress.errors import ConfigError
from slimsight.compress.registry import Registry, nearest


@pytest.fixture
def colours() -> Registry[int]:
    registry: Registry[int] = Registry("colour")
    registry.add("red")(1)
    registry.add("blue")(2)
    return registry


def test_entries_are_found_by_name_in_order(colours: Registry[int]) -> None:
    assert colours.get("red") == 1
    assert list(colours) == ["blue", "red"]
    assert "red" in colours
    assert "green" not in colours


def test_add_returns_what_it_registers() -> None:
    registry: Registry[type] = Registry("class")

    @registry.add("thing")
    class Thing:
        pass

    assert registry.get("thing") is Thing


def test_a_miss_names_the_nearest_and_all(colours: Registry[int]) -> None:
    with pytest.raises(ConfigError, match=r"^unknown colour 'bleu'; did you mean 'blue'\? \(choose from: blue, red\)$"):
        colours.get("bleu")
    with pytest.raises(ConfigError, match=r"^unknown colour 'x' \(choose from: blue, red\)$"):
        colours.get("x")


def test_duplicates_are_refused(colours: Registry[int]) -> None:
    with pytest.raises(ValueError, match=r"^colour 'red' is registered already$"):
        colours.add("red")(3)
    assert colours.get("red") == 1


@pytest.mark.parametrize(("name", "hint"), [("stpes", "; did you mean 'steps'?"), ("zzz", ""), ("", "")])
def test_nearest(name: str, hint: str) -> None:
    assert nearest(name, ["steps", "lr"]) == hint
