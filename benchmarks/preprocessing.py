"""Does ``slimsight init`` find how weights were trained? Four normalisations times three preprocessings.

    .venv/bin/python benchmarks/preprocessing.py WEIGHTS.safetensors CLOTHING_FOLDER [--side 128] [--only stretched]

Weights that expect photographs squared by their centre and normalised by 127/128 are wrapped so that they expect
another normalisation, and photographs are changed beforehand so that one preprocessing alone undoes the change:
bordered, so that the centre crop of 0.875 removes the border; or widened, so that only stretching both sides restores
the shapes. For each of the twelve, ``init``'s own code chooses on validation photographs; the choice is judged
against the truth on test photographs, which it never sees. Rows go to results/preprocessing.json as they come.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from slimsight.compress.config import ModelConfig
from slimsight.compress.data import Preprocessing
from slimsight.compress.data.decode import to_bytes
from slimsight.compress.files.atomic import write_text
from slimsight.compress.models import Classifier, build_classifier
from slimsight.compress.models.weights import load_weights
from slimsight.deploy.machine import device_name, versions
from slimsight.deploy.starter.choose import USUAL, Choice, choose
from slimsight.deploy.starter.images import ImageFacts, examine_images

RESULT = Path(__file__).parent / "results" / "preprocessing.json"
Case = tuple[str, str]
"""A normalisation and a preprocessing, by name."""
NORMALISATIONS = ("ImageNet's", "0.5 and 0.5", "127 and 128 of 255", "none")
CROPPED = 0.875
TRAINING = 8
"""Training photographs of each class that are prepared: ``init`` only takes their statistics."""

FACTORY = """
import timm
import torch

EXPECTED = ({mean}, {std})
TRAINED = ((127 / 255,) * 3, (128 / 255,) * 3)


class Expecting(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        (mean, std), (own_mean, own_std) = (map(torch.tensor, pair) for pair in (EXPECTED, TRAINED))
        self.register_buffer("scale", (std / own_std).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x):
        return self.net(x * self.scale + self.shift)


def build(classes):
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=classes)
    for module in net.modules():
        module.__dict__.pop("pretrained_cfg", None)
        module.__dict__.pop("default_cfg", None)
    return Expecting(net)
"""


def centre(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def bordered(image: Image.Image) -> Image.Image:
    """The centre square with its own mirror image around it, which a centre crop of 0.875 removes."""
    square = centre(image)
    border = round(square.width * (1 / CROPPED - 1) / 2)
    return Image.fromarray(np.pad(np.asarray(square), ((border, border), (border, border), (0, 0)), mode="reflect"))


def widened(image: Image.Image) -> Image.Image:
    """The centre square, half as wide again."""
    square = centre(image)
    return square.resize((square.width * 3 // 2, square.height), Image.Resampling.BICUBIC)


def truths(side: int) -> dict[str, tuple[Callable[[Image.Image], Image.Image], Preprocessing]]:
    """What is done to the photographs, and the preprocessing that undoes it, by name."""
    return {
        "centre square": (lambda image: image, Preprocessing.square(side)),
        "crop of 0.875": (bordered, Preprocessing(side, int(side / CROPPED))),
        "stretched": (widened, Preprocessing(side, side, stretch=True)),
    }


def prepare(source: Path, out: Path, change: Callable[[Image.Image], Image.Image], side: int) -> None:
    """Write changed training and validation photographs, their content of ``side`` pixels, as lossless files."""
    for split in ("train", "validation"):
        for folder in sorted((source / split).iterdir()):
            files = sorted(folder.iterdir())[: TRAINING if split == "train" else None]
            for file in files:
                target = out / split / folder.name / f"{file.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                changed(file, change, side).save(target, compress_level=1)


def changed(file: Path, change: Callable[[Image.Image], Image.Image], side: int) -> Image.Image:
    """The photograph with a short side of ``side`` pixels (bicubic, as it was trained on), then changed."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = side / min(image.size)
    scaled = image.resize([max(side, round(length * scale)) for length in image.size], Image.Resampling.BICUBIC)
    return change(scaled)


def test_images(source: Path, change: Callable[[Image.Image], Image.Image], side: int) -> list[tuple[Image.Image, int]]:
    classes = sorted(folder.name for folder in (source / "test").iterdir())
    files = [(file, classes.index(file.parent.name)) for file in sorted((source / "test").glob("*/*"))]
    return [(changed(file, change, side), label) for file, label in files]


def accuracy(model: Classifier, images: list[tuple[Image.Image, int]], made: Preprocessing, choice: Any) -> float:
    """On test photographs, preprocessed as ``made`` and normalised by ``choice`` (mean, std)."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in choice)
    right = 0
    with torch.inference_mode():
        for first in range(0, len(images), 32):
            part = images[first : first + 32]
            pixels = torch.from_numpy(np.stack([to_bytes(image, made) for image, _ in part])).float() / 255
            labels = torch.tensor([label for _, label in part])
            right += int((model.net((pixels - mean) / std).argmax(1) == labels).sum())
    return right / len(images)


def cases(source: Path, weights: Path, side: int, only: str | None, done: Collection[Case]) -> Iterator[dict[str, Any]]:
    """The rows of all cases that are not ``done``; ``only``: those of one preprocessing."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, (change, truth) in truths(side).items():
            wanted = [each for each in NORMALISATIONS if (each, name) not in done]
            if not wanted or only not in (None, name):
                continue
            root = place / name.replace(" ", "-")
            prepare(source, root, change, side)
            images = examine_images(root, cache=place / "cache")
            tested = test_images(source, change, side)
            for normalisation in wanted:
                yield one_case(place, weights, images, tested, normalisation, name, truth)


def read_rows(side: int) -> list[dict[str, Any]]:
    """The rows of the results so far that were measured at ``side`` pixels."""
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    return found["cases"] if found.get("side") == side else []


def one_case(
    place: Path,
    weights: Path,
    images: ImageFacts,
    tested: list[tuple[Image.Image, int]],
    normalisation: str,
    name: str,
    truth: Preprocessing,
) -> dict[str, Any]:
    mean, std = USUAL[normalisation]
    file = place / f"model_{NORMALISATIONS.index(normalisation)}.py"
    file.write_text(FACTORY.format(mean=tuple(mean), std=tuple(std)))
    wrapped = place / "weights.safetensors"
    save_file({f"net.net.{name}": tensor for name, tensor in load_file(weights).items()}, wrapped)
    config = ModelConfig(name=f"{file}:build", weights=wrapped)
    model = build_classifier(config.model_copy(update={"weights": None}), len(images.classes)).eval()
    load_weights(model, wrapped)
    choice = choose(config, model, images, images.size, len(images.classes), stored=False)
    given = choice.normalisation
    same = bool(np.allclose([given.mean, given.std], [mean, std], atol=1e-6)), choice.preprocessing == truth
    right = accuracy(model, tested, truth, (mean, std))
    chosen = right if all(same) else accuracy(model, tested, choice.preprocessing, (given.mean, given.std))
    return {
        "normalisation": normalisation,
        "preprocessing": name,
        "chosen": {"mean": given.mean, "std": given.std, "kind": given.kind, "why": given.why},
        "chosen_preprocessing": {"brief": choice.preprocessing.brief, "kind": choice.kind, "why": choice.why},
        "same_normalisation": same[0],
        "same_preprocessing": same[1],
        "said": said(choice),
        "validation_images": choice.accuracy_images,
        "validation_accuracy": choice.accuracy,
        "test_accuracy_of_the_truth": right,
        "test_accuracy_of_the_choice": chosen,
        "cpu_seconds": round(choice.seconds, 1),
    }


def said(choice: Choice) -> str:
    """``right`` is for the table to say; this is what ``init`` said of both."""
    kinds = {choice.normalisation.kind, choice.kind}
    return next(kind for kind in ("undecided", "harmless", "decided") if kind in kinds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument(
        "--side", type=int, default=128, help="pixels; the weights were trained at 192, where a case takes a minute"
    )
    parser.add_argument("--only", choices=[*truths(8)], help="of the three preprocessings, this one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["normalisation"], row["preprocessing"]) for row in read_rows(given.side)}
    for row in cases(given.source, given.weights, given.side, given.only, done):
        print(
            f"{row['normalisation']:>20} {row['preprocessing']:>14}: {row['said']:>9}, "
            f"normalisation {'same' if row['same_normalisation'] else row['chosen']['mean']}, "
            f"{row['chosen_preprocessing']['brief']}, test {100 * row['test_accuracy_of_the_choice']:.1f} % "
            f"(truth {100 * row['test_accuracy_of_the_truth']:.1f} %), {row['cpu_seconds']:.0f} s",
            flush=True,
        )
        print(f"    {row['chosen']['why']}\n    {row['chosen_preprocessing']['why']}", flush=True)
        found = {"side": given.side, "weights": given.weights.name, "device": device_name(), "versions": versions()}
        rows = [*read_rows(given.side), row]  # read again: another process may work on another preprocessing
        write_text(RESULT, json.dumps({**found, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
