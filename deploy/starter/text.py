"""The commented recipe and budget file that ``slimsight init`` writes, and what it prints."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from slimsight.compress.amounts import as_duration
from slimsight.compress.config import DataConfig, GatesConfig
from slimsight.compress.files.untrusted import escape_hidden, printable
from slimsight.compress.gates import steps_needed

from ..report.environment import make_environment
from ..report.units import as_bytes, as_count, as_macs, as_percent, plural
from ..settings.checks import ChecksConfig
from ..settings.yaml_text import dump_yaml
from .images import ImageFacts
from .model import ModelFacts
from .schedule import FEW, MORE_GATE_STEPS, Effort, Schedule

_BESIDE = 40
"""The column of comments beside keys."""

_COLUMNS = 100
_MARK = "\x1f"
"""Stands for `` ## `` of a template, between a key and its comment: no value and no comment holds this character."""

_TEMPLATES = Path(__file__).parent / "templates"
_NAMED = 12
_NAMED_BROKEN = 10
_UNEVEN = 3.0
_CHANCE = 1.5
_MOST_DROP = 0.5
_FEW_UNLABELLED = 2_000
_LARGE_CACHE = 20_000_000_000
_PHOTOGRAPHS = 96
"""Pixels of a side from which images are photographs: with a few thousand of them distillation did not pay
(benchmarks/clothing.py), with small images it did (benchmarks/steered_finetuning.py)."""

_USUAL_VAL = DataConfig().val_fraction


@dataclass(frozen=True)
class Starter:
    """A recipe to begin with: ``text``, its ``budget`` file, and ``messages``: facts, guesses and warnings."""

    text: str
    budget: str
    messages: tuple[str, ...]


def to_recipe(
    images: ImageFacts,
    model: ModelFacts,
    *,
    out: Path,
    memory: int | None,
    schema: Callable[[str], Path],
    effort: Effort = "default",
) -> Starter:
    """The commented recipe for these images and this model.

    Args:
        out: file that it is written to: relative paths count from its folder.
        memory: bytes that a run may allocate.
        schema: gives the path of the JSON Schema of recipes and of budget files, for editors.
        effort: how much time the run may take.
    """
    schedule = Schedule.of(images.splits["train"], model.batch_bytes, memory, effort)
    config, weights = images.config, model.config.weights
    sizes = ", ".join(f"{size} ({count})" for size, count in images.sizes[:3])
    more = f" and {len(images.sizes) - 3} more" if len(images.sizes) > 3 else ""
    choice = model.choice
    made = choice.preprocessing
    why_size = images.why_size if model.size == images.size else "the nearest usual side that the model takes"
    if choice.sized_by_model:
        why_size = "the side that the model states"
    elif model.refused_sizes:
        why_size += f"; {', '.join(model.refused_sizes)} px: the model does not take them"
    judged = images.splits["test"] or images.splits["val"]
    point = 1 / max(1, judged)
    gate_steps_needed = steps_needed(GatesConfig(), _macs_share(images, model))
    known = {
        "images": images,
        "model": model,
        "choice": choice,
        "made": made,
        "marks": {"undecided": "undecided: ", "guessed": "a guess: "},
        "inspection": model.inspection,
        "schedule": schedule,
        "source": "digits" if config.path is None else config.path.name,
        "per_class": _per_class(images.counts),
        "uneven": _uneven(images) if images.imbalance > _UNEVEN else "",
        "splits": _splits(images.splits),
        "sizes": sizes + more,
        "why_size": why_size,
        "other_size": model.size != images.size,
        "decoded_bytes": 3 * model.size**2 * sum(images.counts.values()),
        "large_cache": _LARGE_CACHE,
        "usual_val_fraction": _USUAL_VAL,
        "few": FEW,
        "photographs": config.source == "image_folder" and model.size >= _PHOTOGRAPHS,
        "frozen": _frozen(model.inspection.frozen_groups),
        "name": _model_name(model.config.name, out),
        "weights": _relative(weights, out) if isinstance(weights, Path) else weights,
        "gate_steps": max(schedule.gate_steps, gate_steps_needed),
        "gate_steps_needed": gate_steps_needed,
        "thorough": _thorough(images, model, schedule),
        "macs": f"{_macs_share(images, model):.0%}",
        "point": 100 * point,
        "judged": judged,
        "allowed_drop": _allowed_drop(images.splits),
        "agreement": ChecksConfig().agreement,
        "how_little": _how_little(images),
        "head_why": _head_why(model, len(images.classes)),
        "train_minutes": _train_minutes(images, model, schedule),
    }
    templates = _templates(out, lambda epochs: epochs * max(1, images.splits["train"] // schedule.batch))
    text, guesses = _lay_out(templates.get_template("recipe.yaml.j2").render(known, schema=schema("recipe").as_posix()))
    budget, _ = _lay_out(templates.get_template("budget.yaml.j2").render(known, schema=schema("budget").as_posix()))
    return Starter(text, budget, (*_facts(images, model, schedule), *guesses))


def _thorough(images: ImageFacts, model: ModelFacts, schedule: Schedule) -> str:
    """What a thorough run would add, and about how long it would take longer."""
    train = images.splits["train"]
    more = schedule.finetune_epochs * train * model.step * (1 + _macs_share(images, model)) / 2
    more += MORE_GATE_STEPS * schedule.gate_batch * model.step
    explained = ""
    if train >= FEW:
        explained = "an explainer that steers the gates, "
        more += schedule.explainer_epochs * train * (3 * model.step + model.forward)
    return f"{explained}more steps for the gates and twice the finetuning: about {as_duration(max(60.0, more))} more"


def _head_why(model: ModelFacts, classes: int) -> str:
    of = "come without a last layer" if model.trained_classes is None else f"are of {model.trained_classes:,} classes"
    return f"the weights {of}, the images of {classes:,}"


def _train_minutes(images: ImageFacts, model: ModelFacts, schedule: Schedule) -> str:
    """How long a backbone trains under its new head, by the steps that were timed."""
    return as_duration(max(60.0, schedule.backbone_epochs * images.splits["train"] * model.step))


class _YamlText(str):
    """A value as it is written in YAML."""


def _templates(out: Path, steps: Callable[[int], int]) -> jinja2.Environment:
    """The templates of the files, whose ``yaml`` writes a value; other text is kept to one line."""
    environment = make_environment(
        jinja2.FunctionLoader(_read_template),
        finalize=lambda value: value if isinstance(value, _YamlText) else re.sub(r"\s", " ", escape_hidden(str(value))),
    )
    environment.filters |= {to_text.__name__: to_text for to_text in (as_bytes, as_count, as_macs, as_percent, plural)}
    environment.filters["yaml"] = lambda value: _YamlText(dump_yaml({"x": value}).removeprefix("x: ").rstrip("\n"))
    environment.filters["relative"] = lambda path: _relative(path, out)
    environment.filters["steps"] = steps
    return environment


def _read_template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").replace(" ## ", _MARK)


def _lay_out(text: str) -> tuple[str, list[str]]:
    """``text`` with comments beside their keys, or above where they are too long; every guess and what is undecided."""
    lines: list[str] = []
    guesses: list[str] = []
    section = ""
    for line in text.splitlines():
        key, mark, comment = line.partition(_MARK)
        indent = key[: len(key) - len(key.lstrip())]
        if match := re.match(r"\w+(?=:)", key):
            section = match[0]
        if marked := re.match(r"(?:a )?(guess|undecided): ", comment):
            name = f"{section}.{key.strip().partition(':')[0]}"
            guesses.append(f"{marked[1]}: {name}: {comment.removeprefix(marked[0])}")
        beside = f"{key:<{_BESIDE - 1}} # {comment}"
        if mark and len(beside) <= _COLUMNS:
            lines.append(beside)
        elif mark:
            lines += [*_wrapped(comment, indent), key]
        elif key.lstrip().startswith("# ") and "$schema=" not in key:
            lines += _wrapped(key.lstrip().removeprefix("# "), indent)
        else:
            lines.append(key)
    return "\n".join(lines) + "\n", guesses


def _wrapped(comment: str, indent: str) -> list[str]:
    start = f"{indent}# "
    wrapper = textwrap.TextWrapper(_COLUMNS, start, start, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(comment)


def _how_little(images: ImageFacts) -> str:
    """What so many images without labels can do, in a sentence."""
    count = images.splits["train"]
    if count < _FEW_UNLABELLED:
        return (
            f"{count:,} images to learn from can take away a fifth of the MACs or so: far fewer than the model was "
            "trained on, they do not show it what it must keep; a few thousand of the kind that it will see go further"
        )
    return f"{count:,} images to learn from: the more of the kind that the model will see, the more it keeps"


def _macs_share(images: ImageFacts, model: ModelFacts) -> float:
    """Half, or what is easily reached where much is frozen; little is taken away where few images have no labels."""
    smallest = model.inspection.smallest_macs / model.inspection.macs
    if not images.labelled and images.splits["train"] < _FEW_UNLABELLED:
        return max(0.8, min(0.95, math.ceil(smallest * 110) / 100))
    return 0.5 if smallest < 0.45 else min(0.95, math.ceil(smallest * 110) / 100)


def _allowed_drop(splits: Mapping[str, int]) -> float:
    """The usual limit, or what two images of the smaller split are worth, up to half: one image must not fail a run."""
    usual = ChecksConfig().accuracy_drop
    assert usual is not None
    judged = min(count for split, count in splits.items() if split != "train" and count)
    return max(usual, min(_MOST_DROP, math.ceil(200 / judged) / 100))


def _facts(images: ImageFacts, model: ModelFacts, schedule: Schedule) -> list[str]:
    """Facts about the images and the model, for the terminal."""
    inspection = model.inspection
    lines = [
        f"images: {images.layout}",
        f"  {len(images.classes)} classes: {_per_class(images.counts)}"
        if images.labelled
        else f"  {_how_little(images)} (data.labels: none)",
        f"  {_splits(images.splits)}",
    ]
    if images.imbalance > _UNEVEN:
        lines.append(f"  {_uneven(images)}")
    if images.skipped:
        names = [f"{printable(each.name, 500)} ({each.reason})" for each in images.skipped[:_NAMED_BROKEN]]
        more = f" and {len(images.skipped) - _NAMED_BROKEN} more" if len(images.skipped) > _NAMED_BROKEN else ""
        lines.append(f"  left out, because they cannot be read: {', '.join(names)}{more}")
    lines += [f"  {note}" for note in images.notes]
    lines += [
        f"model: {model.config.name}: {as_macs(inspection.macs)} MACs at {model.size} px, "
        f"{as_count(inspection.params)} parameters, {model.classes} logits",
        f"  {plural(inspection.groups, 'channel group')} can be slimmed; frozen: {_frozen(inspection.frozen_groups)}",
    ]
    if model.config.head == "new":
        lines.append(
            f"  {_head_why(model, len(images.classes))}: a new last layer is trained on them first (model.head: new), "
            f"for about {_train_minutes(images, model, schedule)} on this machine"
        )
    elif (choice := model.choice).accuracy is not None:
        lines.append(
            f"  the weights load, and get {as_percent(choice.accuracy, 0)} of {choice.accuracy_images} validation "
            "images right"
        )
        if choice.accuracy < _CHANCE / len(images.classes):
            lines.append(
                "  WARNING: no better than chance: is the order of classes another (here: sorted folder names: "
                f"{', '.join(images.classes[:5])}...), or the image size, or are these weights of another task?"
            )
        lines.append(f"  normalisation: {choice.normalisation.why}")
        if choice.why:
            lines.append(f"  preprocessing: {choice.why}")
        lines.append(f"  measured in {as_duration(choice.seconds)} of one processor core")
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
    tested = f"{splits['test']:,} to test" if splits["test"] else "none to test (no test accuracy is measured)"
    return f"{splits['train']:,} to learn from, {splits['val']:,} to validate, {tested}"


def _frozen(groups: Sequence[Mapping[str, str]]) -> str:
    named = [f"{group['name']} ({group['reason']})" for group in groups]
    return "; ".join(named[:2]) + (f"; and {len(named) - 2} more" if len(named) > 2 else "") if named else "none"


def _relative(path: Path, out: Path) -> str:
    """As seen from the recipe's folder, unless it lies far away."""
    relative = os.path.relpath(path.resolve(), out.resolve().parent)
    return str(path.resolve()) if Path(relative).parts[:2] == ("..", "..") else Path(relative).as_posix()


def _model_name(name: str, out: Path) -> str:
    file, colon, factory = name.rpartition(":")
    return f"{_relative(Path(file).expanduser(), out)}{colon}{factory}" if file.endswith(".py") else name
