"""A recipe: the whole YAML of one run, composed of each package's sections."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from slimsight.compress.config import (
    BatchSize,
    BudgetConfig,
    DataConfig,
    DynamicConfig,
    ExplainerConfig,
    FinetuneConfig,
    GatesConfig,
    ModelConfig,
    Section,
    Threads,
)
from slimsight.compress.errors import ConfigError
from slimsight.compress.files.untrusted import is_utf8, printable, read_text
from slimsight.compress.registry import nearest
from slimsight.export.config import ExportConfig

from .allowed import Allowed, Problems, Schema, choices, shown_value
from .checks import ChecksConfig
from .latency import DEFAULT_RUNTIME, LatencyConfig
from .yaml_text import MOST_YAML, Place, dump_yaml, parse_yaml, read_yaml

_FACTORY = re.compile(r"(?P<file>.+\.py)(?P<factory>:[^:/\\]+)")


class Recipe(Section):
    """Everything one run is made of: the same recipe and the same images give the same slim model."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=0, description="the same recipe, seed and images give the same slim model"
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(default="32-true", description="of every stage that learns")
    accumulate: BatchSize = Field(
        default=1,
        description="parts that every batch is learned from in turn, to need less memory; batch normalisation then "
        "sees a part at a time",
    )
    threads: Threads | None = Field(default=None, description="CPU threads of every stage that learns; null: all cores")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    explainer: ExplainerConfig = ExplainerConfig()
    gates: GatesConfig = GatesConfig()
    budget: BudgetConfig = BudgetConfig()
    checks: ChecksConfig = ChecksConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    dynamic: DynamicConfig = DynamicConfig()
    export: ExportConfig = ExportConfig()
    latency: LatencyConfig = LatencyConfig()

    @model_validator(mode="before")
    @classmethod
    def _distil_without_labels(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not _is_unlabelled(values.get("data")):
            return values
        finetune = values.get("finetune", {})
        return {**values, "finetune": {"distill": 1.0, **finetune}} if isinstance(finetune, dict) else values

    @model_validator(mode="after")
    def _needs_no_labels(self) -> Recipe:
        if self.data.labels == "folders":
            return self
        if self.model.trained:
            what = "model.weights is null" if self.model.weights is None else "model.head is new"
            raise ValueError(
                f"data.labels is none and {what}: without labels no classifier can be trained; give model.weights a "
                "trained classifier with its own last layer, or the images class folders (data.labels: folders)"
            )
        if self.finetune.distill != 1:
            raise ValueError(
                f"data.labels is none and finetune.distill is {self.finetune.distill:g}: without labels all of the "
                "loss comes from the original; set finetune.distill to 1, or leave it out"
            )
        if self.export.int8.qat.distill != 1:
            raise ValueError(
                f"data.labels is none and export.int8.qat.distill is {self.export.int8.qat.distill:g}: without labels "
                "all of the loss comes from the FP32 file; set it to 1, or leave it out"
            )
        if self.dynamic.enabled:
            raise ValueError(
                "data.labels is none and dynamic.enabled is true: the dynamic variant learns from labels; set "
                "dynamic.enabled to false, or give the images class folders (data.labels: folders)"
            )
        return self

    @model_validator(mode="after")
    def _times_a_file_that_it_writes(self) -> Recipe:
        if self.budget.precision == "fp32":
            return self
        if not self.export.quantised or "u8" not in self.export.int8.forms:
            raise ValueError(
                "budget.precision is int8, and the run writes no INT8 file for ONNX Runtime: set export.precision to "
                "[fp32, int8], with u8 among export.int8.forms"
            )
        if self.latency.runtime != DEFAULT_RUNTIME:
            raise ValueError(
                f"budget.precision is int8 and latency.runtime is {self.latency.runtime}: integer kernels are timed in "
                f"{DEFAULT_RUNTIME} alone; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _steered_by_an_explainer(self) -> Recipe:
        if self.gates.explainer is not None and not self.explainer.enabled:
            raise ValueError(
                f"gates.steer is {self.gates.steer} and explainer.enabled is false: only an explainer can steer the "
                "gates; enable it, or choose gates.steer none, magnitude or uniform"
            )
        if self.finetune.steer_weight and not self.explainer.enabled:
            raise ValueError(
                f"finetune.steer_weight is {self.finetune.steer_weight:g} and explainer.enabled is false: only an "
                "explainer can say where the model looks; enable it, or set finetune.steer_weight to 0"
            )
        return self


def _is_unlabelled(data: object) -> bool:
    return data.get("labels") == "none" if isinstance(data, dict) else getattr(data, "labels", None) == "none"


def load_recipe(path: Path, overrides: Sequence[str] = (), *, text: str | None = None) -> Recipe:
    """The recipe in ``path`` after ``overrides``: ``a.b=c``, c in YAML; the later of two for one key wins.

    Relative paths count from the recipe's folder in the file, and from the current folder in ``overrides``.

    Args:
        text: what is to be written to ``path``, which is not read then.

    Raises:
        ConfigError: all that is wrong with the file and the overrides, one line each.
    """
    problems = Problems()
    tree = _read_tree(path, text, problems)
    merged = {} if tree is None else tree
    for override in overrides:
        _apply(override, merged, problems)
    recipe = None if tree is None else _validate(merged, problems)
    if recipe is None or problems:
        raise ConfigError(f"the recipe {path} cannot be used:{problems.listed()}")
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """``recipe`` as YAML with every default written out; ``load_recipe`` reads it back equal."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _read_tree(path: Path, text: str | None, problems: Problems) -> dict[str, Any] | None:
    """The file's settings with absolute paths, or None (and a problem) when they cannot be read at all."""
    try:
        parsed = read_yaml(read_text(path, MOST_YAML) if text is None else text)
    except OSError as error:
        raise ConfigError(_unreadable(path, error)) from error
    except UnicodeDecodeError as error:
        problems.add(f"it is not a text file in UTF-8 (byte {error.start} is {error.object[error.start]:#04x})")
        return None
    except ConfigError as error:
        problems.add(f"it is not valid YAML: {error}")
        return None
    problems.set_lines(parsed.lines)
    for place, twice in parsed.repeated:
        problems.add(twice, place)
    if not isinstance(parsed.value, dict | None):
        allowed = _allowed()
        problems.add(f"it holds {shown_value(parsed.value)}; allowed: {allowed.words(allowed.schema)}")
        return None
    prepared: dict[str, Any] = _prepare(parsed.value, _allowed().schema, path.parent, (), problems)
    return prepared


def _unreadable(path: Path, error: OSError) -> str:
    if path.is_dir():
        reason, folder = f"{path} is a folder, not a recipe", path
    elif not path.exists():
        reason, folder = f"there is no recipe {path}", path.parent
    else:
        return f"the recipe {path} cannot be read: {error.strerror}"
    recipes = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    if not recipes:
        return f"{reason}; give a YAML file (no recipes are in {folder} either)"
    return f"{reason}{nearest(path.name, recipes)} (recipes in {folder}: {', '.join(recipes)})"


def _apply(override: str, tree: dict[str, Any], problems: Problems) -> None:
    """Write one override ``a.b=c`` into ``tree``; keys and values are validated later."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        problems.add(f"--set {override}: allowed: KEY.KEY=VALUE, e.g. --set budget.macs=0.5")
        return
    try:
        value, repeated = parse_yaml(text)
    except ConfigError as error:
        problems.add(f"--set {override}: the value is not valid YAML: {error}")
        return
    for twice in repeated:
        problems.add(f"--set {override}: {twice}")
    problems.set_origin(tuple(keys), f"--set {override}")
    nested = value
    for key in reversed(keys):
        nested = {key: nested}
    # From the current folder, as for every path that is typed on a command line.
    nested = _prepare(nested, _allowed().schema, Path.cwd(), (), problems)
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree, nested = tree[key], nested[key]
    tree[keys[-1]] = nested[keys[-1]]


def _prepare(value: Any, schema: Schema, base: Path, where: Place, problems: Problems) -> Any:
    """A copy of ``value`` with absolute paths; collects what pydantic would let pass (true as a number)."""
    allowed = _allowed()
    schema = allowed.deref(schema)
    if "properties" in schema:
        if value is None:  # `gates:` with all its keys commented out
            return {}
        if not isinstance(value, dict):
            return value
        known: Schema = schema["properties"]
        return {
            str(key): _prepare(item, known.get(str(key), {}), base, (*where, str(key)), problems)
            for key, item in value.items()
        }
    branches = schema.get("anyOf", [schema])
    types = {branch.get("type") for branch in branches}
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) for item in items) and types & {"integer", "number", "array"}:
        problems.add(allowed.refusal(where, value, schema), where)
    elif isinstance(value, list) and (of_items := _schema_of_items(branches)):
        return [_prepare(item, of_items, base, where, problems) for item in value]
    elif isinstance(value, str) and any(branch.get("format") == "path" for branch in branches):
        if value not in choices(schema):
            return _absolute(value, base, where, schema, problems)
    elif where == ("model", "name") and isinstance(value, str) and (factory := _FACTORY.fullmatch(value)):
        return _absolute(factory["file"], base, where, schema, problems) + factory["factory"]
    return value


def _schema_of_items(branches: Sequence[Schema]) -> Schema | None:
    """The schema of each item of a list of paths; None for other lists."""
    items = (branch.get("items") for branch in branches)
    return next((item for item in items if isinstance(item, dict) and item.get("format") == "path"), None)


def _absolute(value: str, base: Path, where: Place, schema: Schema, problems: Problems) -> str:
    expanded = os.path.expanduser(value)  # noqa: PTH111 - Path's own raises where this one leaves the ~
    if not value or "\0" in value:
        problems.add(_allowed().refusal(where, value, schema), where)
    elif expanded.startswith("~"):
        no_home = f"{shown_value(value)} was given, but there is no such home folder; write it in full"
        problems.add(f"{'.'.join(where)}: {no_home}", where)
    else:
        place = os.path.realpath(base / expanded)
        if is_utf8(place):
            return place
        problems.add(
            f"{'.'.join(where)}: {shown_value(value)} was given, which is {printable(place)}: its name, or that of "
            "a folder above it, is not UTF-8; rename that",
            where,
        )
    return value


def _validate(tree: dict[str, Any], problems: Problems) -> Recipe | None:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place, text = _allowed().explain(detail)
            problems.add(text, place)
        return None


@cache
def _allowed() -> Allowed:
    return Allowed(Recipe.model_json_schema(), "recipe")
