"""The commented recipe and budget file that ``slimsight init`` writes, and what it prints."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimsight.compress.config import DataConfig

from ..report.units import as_bytes, as_count, as_macs, as_percent, plural
from ..settings.yaml_text import dump_yaml
from .images import ImageFacts
from .model import ModelFacts
from .schedule import FEW, Schedule

BESIDE = 40
"""The column of comments beside keys."""

_COLUMNS = 100


class CommentedYaml:
    """Lines of YAML with comments. A comment that has no room beside its key stands above it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.guesses: list[str] = []
        self._section = ""

    def text(self) -> str:
        return "\n".join(self.lines).lstrip("\n") + "\n"

    def comment(self, text: str, level: int = 0, *, wrap: bool = True) -> None:
        start = "  " * level + "# "
        width = _COLUMNS if wrap else 10_000
        self.lines += textwrap.wrap(
            text, width, initial_indent=start, subsequent_indent=start, break_long_words=False, break_on_hyphens=False
        )

    def section(self, name: str, comment: str = "") -> None:
        self._section = name
        self.lines += ["", f"{name}:".ljust(BESIDE) + f"# {comment}" if comment else f"{name}:"]

    def key(self, name: str, value: Any, comment: str = "", level: int = 0, *, guess: bool = False) -> None:
        line = "  " * level + dump_yaml({name: value}).rstrip("\n")
        if guess:
            comment = f"a guess: {comment}"
            self.guesses.append(f"{self._section}.{name}: {comment.removeprefix('a guess: ')}")
        beside = f"{line:<{BESIDE - 1}} # {comment}"
        if comment and len(beside) <= _COLUMNS:
            self.lines.append(beside)
            return
        if comment:
            self.comment(comment, level)
        self.lines.append(line)


_NAMED = 12
_UNEVEN = 3.0
_CHANCE = 1.5
_LARGE_CACHE = 20_000_000_000
_USUAL_VAL = DataConfig().val_fraction


@dataclass(frozen=True)
class Starter:
    """A recipe to begin with: ``text``, its ``budget`` file, and ``messages``: facts, guesses and warnings."""

    text: str
    budget: str
    messages: tuple[str, ...]


def to_recipe(
    images: ImageFacts, model: ModelFacts, *, out: Path, memory: int | None, schema: Callable[[str], Path]
) -> Starter:
    """The commented recipe for these images and this model.

    Args:
        out: file that it is written to: relative paths count from its folder.
        memory: bytes that a run may allocate.
        schema: gives the path of the JSON Schema of recipes and of budget files, for editors.
    """
    schedule = Schedule.of(images.splits["train"], model.batch_bytes, memory)
    text = CommentedYaml()
    text.comment(f"yaml-language-server: $schema={schema('recipe').as_posix()}", wrap=False)  # editors complete by it
    text.comment(f"A recipe to begin with, for {model.config.name} and {_source(images)}; written by 'slimsight init'.")
    text.comment(
        "What says 'guess' is for you to check. What is not written here has a default; the run writes all of "
        "them to recipe.yaml in its folder. Paths count from this file's folder."
    )
    text.key("seed", 0)
    _data(text, images, model, out)
    _model(text, images, model, schedule, out)
    _explainer(text, images, schedule)
    _gates(text, schedule)
    _budget(text, model)
    text.section("finetune", "of the slim model")
    text.key("epochs", schedule.finetune_epochs, f"about {_steps(schedule, images, schedule.finetune_epochs)} steps", 1)
    text.key("lr", 0.02, "lower it if accuracy falls while it learns", 1)
    text.key("batch_size", schedule.batch, "", 1)
    text.section("latency", "original and slim model in turn, in ONNX Runtime")
    text.key("threads", 1, "as many as the device will give it", 1)
    text.key("batch", 1, "images per call", 1)
    budget = _budget_file(images, model, schema("budget"))
    return Starter(text.text(), budget.text(), (*_facts(images, model), *(f"guess: {guess}" for guess in text.guesses)))


def _budget_file(images: ImageFacts, model: ModelFacts, schema: Path) -> CommentedYaml:
    """The limits of 'slimsight check' on the finished run."""
    text = CommentedYaml()
    text.comment(f"yaml-language-server: $schema={schema.as_posix()}", wrap=False)
    text.comment(
        "What the slim model is held to, by 'slimsight check RUN --budget THIS_FILE'. Beyond warn it is said, "
        "beyond fail the exit code is 1."
    )
    text.key("macs", f"{_macs_share(model):.0%}", "of the original, as the recipe asks")
    one = 1 / max(1, images.splits["test"])
    allowed = max(0.03, math.ceil(200 * one) / 100)
    text.comment(f"points on the test set: of {images.splits['test']} images each is worth {100 * one:.2g}")
    text.lines.append(f"accuracy_drop: {{fail: {allowed:.0%}, warn: 1%}}")
    text.key("parity", True, "the exported files compute what PyTorch computes")
    text.lines.append(f"{'# speedup: 1.1':<{BESIDE - 1}} # the low end of its interval; for your device to say")
    return text


def _source(images: ImageFacts) -> str:
    return images.config.path.name if images.config.path is not None else "digits"


def _data(text: CommentedYaml, images: ImageFacts, model: ModelFacts, out: Path) -> None:
    text.section("data")
    text.comment(
        f"{images.layout}: {len(images.classes)} classes, {_per_class(images.counts)}",
        1,
    )
    if images.imbalance > _UNEVEN:
        text.comment(_uneven(images), 1)
    text.comment(f"{_splits(images.splits)}; the draw depends on seed alone", 1)
    text.key("source", images.config.source, "", 1)
    if images.config.path is not None:
        text.key("path", _relative(images.config.path, out), "", 1)
    if images.config.source == "image_folder":
        sizes = ", ".join(f"{size} ({count})" for size, count in images.sizes[:3])
        more = f" and {len(images.sizes) - 3} more" if len(images.sizes) > 3 else ""
        refused = f"; {', '.join(model.refused_sizes)} px: the model does not take them" if model.refused_sizes else ""
        why = images.why_size if model.size == images.size else "the nearest usual side that the model takes"
        text.comment(f"sizes found: {sizes}{more}; each is scaled, and its centre square taken", 1)
        text.key(
            "image_size", model.size, f"{why}{refused}. Use the side that your weights were trained at", 1, guess=True
        )
    decoded = 3 * model.size**2 * sum(images.counts.values())
    if images.config.source == "image_folder" and decoded > _LARGE_CACHE:
        text.key("decode", "on_the_fly", f"decoded once, they would take {as_bytes(decoded)} of disk", 1, guess=True)
    if images.config.val_fraction != _USUAL_VAL:
        text.key("val_fraction", images.config.val_fraction, "few images: a tenth of them would say little", 1)
    if images.config.flip:
        text.key("flip", True, "mirrored images are the same class (not so for letters or digits)", 1, guess=True)
    else:
        text.key("flip", False, "a mirrored digit is another sign", 1)
    if images.config.source != "digits":
        text.key("crop_padding", model.size // 8, "shifts of up to so many pixels while weights learn", 1)


def _model(text: CommentedYaml, images: ImageFacts, model: ModelFacts, schedule: Schedule, out: Path) -> None:
    inspection, config = model.inspection, model.config
    text.section("model")
    text.comment(
        f"{as_macs(inspection.macs)} MACs at {model.size} px, {as_count(inspection.params)} parameters, "
        f"{as_bytes(inspection.size_bytes)}; {len(images.classes)} logits, as many as there are classes",
        1,
    )
    text.comment(
        f"{plural(inspection.groups, 'channel group')} can be slimmed, each proven on a copy; frozen: "
        f"{_frozen(inspection.frozen_groups)}",
        1,
    )
    text.key("name", _model_name(config.name, out), "", 1)
    if config.name.startswith("resnet"):
        text.key("shortcut", config.shortcut, "", 1)
    if config.weights is None:
        near = (
            f" ({model.weights_beside.name} lies beside the model: is it its weights?)" if model.weights_beside else ""
        )
        text.key("weights", None, f"none given: the model is trained first, as `train` says{near}", 1)
    else:
        weights = config.weights if isinstance(config.weights, str) else _relative(config.weights, out)
        right = (
            f"; {as_percent(model.accuracy, 0)} of {model.accuracy_images} training images right"
            if model.accuracy is not None
            else ""
        )
        text.key("weights", weights, f"loaded: every tensor fits{right}", 1)
    text.key("mean", list(model.normalisation.mean), model.normalisation.why, 1, guess=model.normalisation.guessed)
    text.key("std", list(model.normalisation.std), "", 1)
    if config.weights is None:
        steps = _steps(schedule, images, schedule.train_epochs)
        text.key("train", {"epochs": schedule.train_epochs, "lr": 0.05, "batch_size": schedule.batch}, "", 1)
        text.lines[-1:] = [
            "  train:" + " " * (BESIDE - 8) + f"# about {steps} steps",
            f"    epochs: {schedule.train_epochs}",
            "    lr: 0.05",
            f"    batch_size: {schedule.batch}",
        ]


def _explainer(text: CommentedYaml, images: ImageFacts, schedule: Schedule) -> None:
    text.section("explainer", "learns where the model looks; its answers steer the gates")
    if not schedule.explained:
        text.key(
            "enabled",
            False,
            f"{images.splits['train']} training images are too few to learn it (from {FEW} on)",
            1,
            guess=True,
        )
        return
    text.key("target_area", 0.25, "share of the image that an explanation should keep", 1)
    for part in ("predictor", "selector"):
        text.lines += [f"  {part}:", f"    epochs: {schedule.explainer_epochs}", f"    batch_size: {schedule.batch}"]


def _gates(text: CommentedYaml, schedule: Schedule) -> None:
    text.section("gates", "learn which channels matter, with all weights frozen")
    steer = "rbf" if schedule.explained else "none"
    why = "explanations must stay where they are" if schedule.explained else "without an explainer (see above)"
    text.key("steer", steer, why, 1)
    text.key("images", schedule.gate_images, "training images that the gates see; null: all", 1)
    text.key("steps", schedule.gate_steps, "more of them rank more surely", 1)
    text.key("batch_size", schedule.batch, "", 1)


def _budget(text: CommentedYaml, model: ModelFacts) -> None:
    inspection = model.inspection
    text.section("budget", "what the slim model may cost at most")
    smallest = inspection.smallest_macs / inspection.macs
    text.key(
        "macs",
        f"{_macs_share(model):.0%}",
        f"of {as_macs(inspection.macs)}; down to {as_percent(smallest, 1)} can be reached",
        1,
    )
    text.key("align", 8, "channels in multiples of 8, where a group is large enough: processors like them", 1)


def _macs_share(model: ModelFacts) -> float:
    """Half, or what is easily reached where much is frozen."""
    smallest = model.inspection.smallest_macs / model.inspection.macs
    return 0.5 if smallest < 0.45 else min(0.95, math.ceil(smallest * 110) / 100)


def _facts(images: ImageFacts, model: ModelFacts) -> list[str]:
    """Facts about the images and the model, for the terminal."""
    inspection = model.inspection
    lines = [
        f"images: {images.layout}",
        f"  {len(images.classes)} classes: {_per_class(images.counts)}",
        f"  {_splits(images.splits)}",
    ]
    if images.imbalance > _UNEVEN:
        lines.append(f"  {_uneven(images)}")
    lines += [f"  {note}" for note in images.notes]
    lines += [
        f"model: {model.config.name}: {as_macs(inspection.macs)} MACs at {model.size} px, "
        f"{as_count(inspection.params)} parameters, {len(images.classes)} logits",
        f"  {plural(inspection.groups, 'channel group')} can be slimmed; frozen: {_frozen(inspection.frozen_groups)}",
    ]
    if model.accuracy is not None:
        lines.append(
            f"  the weights load, and get {as_percent(model.accuracy, 0)} of {model.accuracy_images} training images "
            "right"
        )
        if model.accuracy < _CHANCE / len(images.classes):
            lines.append(
                "  WARNING: no better than chance: is the order of classes another (here: sorted folder names: "
                f"{', '.join(images.classes[:5])}...), or the image size, or are these weights of another task?"
            )
    elif model.weights_beside is not None:
        beside = model.weights_beside
        lines.append(f"  {beside.name} lies beside it: if those are its weights, say --weights {beside}")
    return lines


def _per_class(counts: Mapping[str, int]) -> str:
    named = [f"{name} {count:,}" for name, count in counts.items()]
    return ", ".join(named[:_NAMED]) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def _uneven(images: ImageFacts) -> str:
    largest, smallest = (f(images.counts, key=lambda name: images.counts[name]) for f in (max, min))
    return (
        f"uneven: '{largest}' has {images.imbalance:.0f} times the images of '{smallest}'; accuracy then says little "
        f"of '{smallest}'"
    )


def _splits(splits: Mapping[str, int]) -> str:
    return f"{splits['train']:,} to learn from, {splits['val']:,} to validate, {splits['test']:,} to test"


def _frozen(groups: Sequence[Mapping[str, str]]) -> str:
    named = [f"{group['name']} ({group['reason']})" for group in groups]
    return "; ".join(named[:2]) + (f"; and {len(named) - 2} more" if len(named) > 2 else "") if named else "none"


def _steps(schedule: Schedule, images: ImageFacts, epochs: int) -> int:
    return epochs * max(1, images.splits["train"] // schedule.batch)


def _relative(path: Path, out: Path) -> str:
    """As seen from the recipe's folder, unless it lies far away."""
    relative = os.path.relpath(path.resolve(), out.resolve().parent)
    return str(path.resolve()) if Path(relative).parts[:2] == ("..", "..") else Path(relative).as_posix()


def _model_name(name: str, out: Path) -> str:
    file, colon, factory = name.rpartition(":")
    return f"{_relative(Path(file).expanduser(), out)}{colon}{factory}" if file.endswith(".py") else name
