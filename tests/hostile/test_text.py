"""Recipes, budgets, reports, lists and tables of a stranger."""

import json
from collections.abc import Callable
from typing import Any

import pytest

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = {
    "a bomb of aliases": (LAUGHS, "more than 20,000 values"),
    "merged a billion times": (LAUGHS.replace("[", "{<<: [").replace("]", "]}").replace("x, ", ""), "line"),
    "an alias of itself": ("seed: &a {b: *a}", "holds itself"),
    "nested five thousand deep": ("seed: " + "[" * 5000, "nested too deeply"),
    "nested by a chain of aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)),
        "nested too deeply",
    ),
    "a Python object": ("seed: !!python/object/apply:os.system ['touch CANARY']", "the tag !!python/object/apply"),
    "another application's tag": ("seed: !secret x", "the tag !secret is not taken"),
    "half a megabyte": ("#" * 500_000, "at most 0.25 MiB are read"),
    "a number of ten thousand digits": ("seed: " + "9" * 10_000, "seed"),
    "no text": (b"seed: \xff\xfe", "UTF-8"),
    "control characters": (b"seed: 0\x1b[2J", "not allowed in YAML"),
    "a key that moves the cursor": ('"\\e[2J\\n::error::x": 1', r"\x1b[2J"),
}


@pytest.mark.parametrize("what", YAML)
@pytest.mark.parametrize("kind", ["recipe", "budget"])
def test_yaml(what: str, kind: str, place: Any, refused: Callable[..., str]) -> None:
    content, why = YAML[what]
    if isinstance(content, str):
        content = content.replace("CANARY", str(place.canary))
    file = place.write(f"{kind}.yaml", content)
    said = refused("run", file) if kind == "recipe" else refused("check", "x.onnx", "--budget", file)
    assert why in said or (kind == "budget" and "seed" in why + said)


@pytest.mark.parametrize("kind", ["recipe", "budget"])
def test_a_pipe_or_a_device_is_not_waited_for(kind: str, place: Any, refused: Callable[..., str]) -> None:
    for file, what in (
        (place.pipe("pipe.yaml"), "a named pipe"),
        ("/dev/zero", "a device"),
        (place.folder, "a folder"),
    ):
        said = refused("run", file) if kind == "recipe" else refused("check", "x.onnx", "--budget", file)
        assert what in said


JSON = {
    "nested too deep": ("[" * 100_000, "nested too deeply"),
    "a number of ten thousand digits": ('{"schema": 1, "seed": ' + "9" * 10_000 + "}", "is too large"),
    "a number beyond 64 bits": ('{"schema": 1, "seed": 1' + "0" * 25 + "}", "is too large"),
    "a number beyond floats": ('{"schema": 1, "seed": 1e999}', "is too large"),
    "NaN": ('{"schema": 1, "seed": NaN}', "NaN is not a JSON number"),
    "a key twice": ('{"schema": 1, "schema": 1}', "'schema' is written twice"),
    "half a surrogate pair": ('{"schema": "\\ud800"}', "surrogate"),
    "no UTF-8": (b'{"schema": "\xff"}', "utf-8"),
    "no object": ("[1]", "not a slimsight report"),
    "escapes in a schema": ('{"schema": "\\u001b[2J\\n::error::"}', "has report schema"),
    "a key that moves the cursor": (json.dumps({"schema": 1, "\x1b[2J\n::warning::": 1}), "does not hold a report"),
}


@pytest.mark.parametrize("what", JSON)
def test_report(what: str, place: Any, refused: Callable[..., str]) -> None:
    content, why = JSON[what]
    run = place.run()
    (run / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert why in refused("report", run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"macs": -1}, "macs is -1"),
        ({"macs": 1.5}, "macs is 1.5"),
        ({"layers": [{"name": "a", "macs": 1, "params": 1, "inputs": 1, "outputs": True}]}, "outputs is True"),
        ({"layers": [{"name": "a", "\x1b[2J": 1}]}, "not complete"),
        ({"layers": 7}, "not complete"),
    ],
)
def test_what_a_check_is_compared_with(
    change: dict[str, Any], why: str, place: Any, refused: Callable[..., str]
) -> None:
    other = {"schema": 1, "target": "t", "macs": 1, "params": 1, "size_bytes": 1, "layers": None, **change}
    file, budget = place.write("other.json", json.dumps(other)), place.write("budget.yaml", "macs: 1")
    assert why in refused("check", place.run() / "slim" / "model.onnx", "--budget", budget, "--against", file)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "is empty"),
        (b"0/1\n0/1\n", "2 times"),
        (b"../../etc/passwd\n", "not among the training images"),
        (b"\x1b[2J0/1\r\x07\n", r"\x1b[2J0/1"),
        (b"0/" + b"a" * 100_000, "..."),
    ],
)
def test_image_list(content: bytes, why: str, place: Any, refused: Callable[..., str]) -> None:
    file = place.write(
        "recipe.yaml", "data: {source: digits, image_size: 16, val_list: list.txt}\nmodel: {name: resnet20}"
    )
    place.write("list.txt", content)
    assert why in refused("run", file, "--out", place.folder / "out")


def test_an_image_list_that_is_a_pipe(place: Any, refused: Callable[..., str]) -> None:
    file = place.write(
        "recipe.yaml", "data: {source: digits, image_size: 16, val_list: list.txt}\nmodel: {name: resnet20}"
    )
    place.pipe("list.txt")
    assert "a named pipe" in refused("run", file, "--out", place.folder / "out")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("file,x0,y0,x1,y1\n../../../etc/passwd,0,0,1,1\n", "is not below the table's folder"),
        ("file,x0,y0,x1,y1\n/etc/passwd,0,0,1,1\n", "is not below the table's folder"),
        ("file,x0,y0,x1,y1\n" + "a" * 200_000 + ",0,0,1,1\n", "cannot be read"),
        ("file,x0,y0,x1,y1\nlist.csv,0,0,1,1\n", "cannot be read"),
        ("file,x0,y0,x1,y1\n\x1b[2J,0,0,1,nan\n", "must be integers"),
    ],
)
def test_table_of_boxes(content: str, why: str, place: Any, refused: Callable[..., str]) -> None:
    file = place.write("list.csv", content)
    assert why in refused(
        "trust", place.run(), "--with", "gradient", "--tests", "boxes", "--boxes", file, "--images", 2
    )
