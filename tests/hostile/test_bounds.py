"""Numbers without measure: refused in one sentence before anything is allocated or started."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel

from slimsight.compress.amounts import read_count, read_image_shape
from slimsight.compress.data import Preprocessing
from slimsight.compress.data.decode import Encoded, _chunk_size, decode
from slimsight.compress.errors import ConfigError
from slimsight.compress.models import build_classifier
from slimsight.deploy import host
from slimsight.deploy.bench.sweep import BenchSettings
from slimsight.deploy.host import check_batches_fit
from slimsight.deploy.run.export import read_batch
from slimsight.deploy.run.processes import check_devices
from slimsight.deploy.settings.recipe import Recipe
from slimsight.deploy.testing.arguments import to_images


@pytest.mark.parametrize(
    ("key", "given", "allowed"),
    [
        ("data.image_size", 1_000_000, "a whole number at least 8 and at most 4096 or null"),
        ("data.resize", 5000, "at least 8 and at most 4096"),
        ("data.workers", 100_000, "at least 0 and at most 256"),
        ("threads", 100_000, "at least 1 and at most 1024"),
        ("accumulate", 10**9, "at least 1 and at most 65536"),
        ("model.train.epochs", 10**12, "at least 1 and at most 100000"),
        ("model.train.batch_size", 10**9, "at least 1 and at most 65536"),
        ("gates.steps", 10**12, "at least 20 and at most 10000000"),
        ("latency.rounds", 10**9, "at least 20 and at most 1000000"),
        ("latency.sessions", 10**6, "at least 1 and at most 10000"),
        ("latency.warmup_seconds", 1e9, "above 0 and at most 3600"),
    ],
)
def test_a_recipe(place: Any, refused: Callable[..., str], key: str, given: float, allowed: str) -> None:
    place.write("r.yaml", "data: {source: digits}\n")
    sentence = refused("run", "r.yaml", "--set", f"{key}={given}")
    assert f"--set {key}={given}: {key}: " in sentence
    assert allowed in sentence
    assert not (place.folder / "runs").exists()
    in_file = ": {".join(key.split(".")) + f": {given}" + "}" * key.count(".")
    place.write("r.yaml", in_file)
    assert f"line 1: {key}: " in refused("run", "r.yaml")


def test_every_whole_number_of_a_recipe_is_bounded() -> None:
    """A setting that is added later has to have a bound, too."""

    def unbounded(section: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        definitions = section.model_json_schema()
        for name, schema in definitions["properties"].items():
            branches = schema.get("anyOf", [schema])
            found += [f"{prefix}{name}" for b in branches if b.get("type") == "integer" and "maximum" not in b]
            kind = section.model_fields[name].annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += unbounded(kind, f"{prefix}{name}.")
        return found

    # Of images, where more than there are is all of them.
    assert unbounded(Recipe) == ["explainer.images", "gates.images"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bench", "m.onnx", "--batch", "99999999"), "--batch is '99999999': give whole numbers from 1 to 65,536"),
        (("bench", "m.onnx", "--batch", "9" * 5000), "give whole numbers from 1 to 65,536"),
        (("bench", "m.onnx", "--threads", "1,4096"), "--threads is '1,4096': give whole numbers from 1 to 1,024"),
        (("bench", "m.onnx", "--seconds", "nan"), "seconds is nan: give a number above 0 and at most 86,400"),
        (("inspect", "resnet20", "--input", "3x1000000x1000000"), "of at most 4,096 each and 67,108,864 values in all"),
        (("inspect", "resnet20", "--input", f"3x{'9' * 5000}x8"), "give channels x height x width"),
        (("export", "run", "--batch", "1:8:999999"), "1 <= MIN <= OPT <= MAX <= 65,536"),
        (("run", "r.yaml", "--devices", "100000"), "--devices 100000: "),
    ],
)
def test_an_option(place: Any, refused: Callable[..., str], arguments: tuple[str, ...], said: str) -> None:
    place.write("r.yaml", "data: {source: digits}\n")
    assert said in refused(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench", "m.onnx", "--rounds", "1000000000"),
        ("bench", "m.onnx", "--sessions", "1000000000"),
        ("check", "m.onnx", "--budget", "b.yaml", "--classes", "1000000000"),
        ("inspect", "resnet20", "--input", "3x8x8", "--classes", "1000000000"),
        ("trust", "run", "--epochs", "1000000000"),
        ("export", "run", "--opset", "1000000000"),
    ],
)
def test_an_option_of_a_number(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    from slimsight.deploy.cli.main import main

    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert left.value.code == 2
    assert re.search("less than or equal to|not in the range", capsys.readouterr().err)  # as typer says it


def test_batches_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "usable_memory", lambda: 4 * 3 * 10 * 10 * 50)  # 50 images of 10 x 10
    check_batches_fit({"gates.batch_size": 50}, (3, 10, 10))
    with pytest.raises(ConfigError, match=r"gates\.batch_size is 51: so many images of 3 x 10 x 10 .* at most 50 fit"):
        check_batches_fit({"gates.batch_size": 51}, (3, 10, 10))
    with pytest.raises(ConfigError, match="not one fits: give smaller images"):
        check_batches_fit({"latency.batch": 1}, (3, 4096, 4096))
    monkeypatch.setattr(host, "usable_memory", lambda: None)  # not known
    check_batches_fit({"gates.batch_size": 10**9}, (3, 10, 10))


def test_a_run_whose_batch_does_not_fit(
    place: Any, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("r.yaml", "data: {source: digits}\nthreads: 1\nlatency: {batch: 65536}\n")
    monkeypatch.setattr(host, "usable_memory", lambda: 100_000_000)
    assert "latency.batch is 65,536: so many images of 3 x 32 x 32 take 0.8 GB" in refused("run", "r.yaml")


def test_large_images_are_decoded_in_small_chunks(tmp_path: Path) -> None:
    sizes = {side: _chunk_size(Preprocessing.square(side)) for side in (32, 224, 1024, 4096)}
    assert sizes == {32: 32, 224: 32, 1024: 5, 4096: 1}
    assert _chunk_size(None) == 32
    paths = []
    for value in range(7):
        paths.append(tmp_path / f"{value}.png")
        Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(paths[-1])
    made = decode((Encoded("", path.name, path, str(path)) for path in paths), Preprocessing.square(1500))
    assert [int(item.image.max()) for item in made] == list(range(7))  # two a chunk


def test_read_count() -> None:
    given = ["1", " 7 ", "8", "9", "0", "-1", "1e3", "²", "9" * 9999, "", "٣"]
    assert [read_count(text, 8) for text in given] == [1, 7, 8, None, None, None, None, None, None, None, 3]
    assert read_count("0", 8, least=0) == 0
    assert read_image_shape("3x4096x4096") == (3, 4096, 4096)


def test_figures_in_python() -> None:
    with pytest.raises(ConfigError, match="batches 65537: give whole numbers from 1 to 65,536"):
        BenchSettings(batches=(65537,))
    with pytest.raises(ConfigError, match="sessions is 1000000: give a number above 0 and at most 10,000"):
        BenchSettings(sessions=1_000_000)
    with pytest.raises(ConfigError, match="--batch is '0'"):
        read_batch("0")
    model = build_classifier(Recipe().model, 10)
    for x in ("3x99999x99999", (64, 3, 4096, 4096), f"3x{'9' * 5000}x1"):
        with pytest.raises(ConfigError, match="of at most 268,435,456 values"):
            to_images(x, model)


def test_devices_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_devices(8)
    with pytest.raises(ConfigError, match="--devices 5000: without a GPU processes share the cores; give at most"):
        check_devices(5000)
