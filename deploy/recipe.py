"""A recipe: the whole YAML of one run, composed of each package's sections."""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from compress.config import (
    BudgetConfig,
    Count,
    DataConfig,
    DynamicConfig,
    ExplainerConfig,
    FinetuneConfig,
    GatesConfig,
    ModelConfig,
    Section,
)
from compress.errors import ConfigError
from compress.registry import nearest
from export.config import ExportConfig

from .latency_config import LatencyConfig
from .yaml_text import dump_yaml, parse_yaml

Schema: TypeAlias = Mapping[str, Any]
"""JSON schema of a recipe or of a part of it: what is allowed, as data."""

_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_FACTORY = re.compile(r"(?P<file>.+\.py)(?P<factory>:[^:/\\]+)")


class Recipe(Section):
    """Everything one run is made of: the same recipe and the same images give the same slim model."""

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    precision: Literal["32-true", "bf16-mixed"] = Field(default="32-true", description="of every stage that learns")
    threads: Count | None = Field(default=None, description="CPU threads of every stage that learns; null: all cores")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    explainer: ExplainerConfig = ExplainerConfig()
    gates: GatesConfig = GatesConfig()
    budget: BudgetConfig = BudgetConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    dynamic: DynamicConfig = DynamicConfig()
    export: ExportConfig = ExportConfig()
    latency: LatencyConfig = LatencyConfig()

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


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``path`` after ``overrides``: ``a.b=c``, c in YAML; the later of two for one key wins.

    Relative paths count from the recipe's folder in the file, and from the current folder in ``overrides``.

    Raises:
        ConfigError: all that is wrong with the file and the overrides, one line each.
    """
    problems: list[str] = []
    tree = _read_tree(path, problems)
    merged = {} if tree is None else tree
    for override in overrides:
        _apply(override, merged, problems)
    recipe = None if tree is None else _validate(merged, problems)
    if recipe is None or problems:
        lines = "".join(f"\n  {line}" for line in dict.fromkeys(problems))
        raise ConfigError(f"the recipe {path} cannot be used:{lines}")
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """``recipe`` as YAML with every default written out; ``load_recipe`` reads it back equal."""
    return dump_yaml(recipe.model_dump(mode="json"))


def _read_tree(path: Path, problems: list[str]) -> dict[str, Any] | None:
    """The file's settings with absolute paths, or None (and a problem) when they cannot be read at all."""
    try:
        content, repeated = parse_yaml(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(_unreadable(path, error)) from error
    except UnicodeDecodeError as error:
        problems.append(f"it is not a text file in UTF-8 (byte {error.start} is {error.object[error.start]:#04x})")
        return None
    except ConfigError as error:
        problems.append(f"it is not valid YAML: {error}")
        return None
    problems += repeated
    if not isinstance(content, dict | None):
        problems.append(f"it holds {_shown(content)}; allowed: a mapping with the keys {_names(_schema())}")
        return None
    prepared: dict[str, Any] = _prepare(content, _schema(), path.parent, "", problems)
    return prepared


def _unreadable(path: Path, error: OSError) -> str:
    if path.is_dir():
        reason, folder = f"{path} is a folder, not a recipe", path
    elif not path.exists():
        reason, folder = f"there is no recipe {path}", path.parent
    else:
        return f"the recipe {path} cannot be read: {error.strerror}"
    found = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    if not found:
        return f"{reason}; give a YAML file (no recipes are in {folder} either)"
    return f"{reason}{nearest(path.name, found)} (recipes in {folder}: {', '.join(found)})"


def _apply(override: str, tree: dict[str, Any], problems: list[str]) -> None:
    """Write one ``a.b=c`` into ``tree``. What the keys and the value are worth is for validation to say."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        problems.append(f"--set {override}: allowed: KEY.KEY=VALUE, e.g. --set budget.macs=0.5")
        return
    try:
        value, repeated = parse_yaml(text)
    except ConfigError as error:
        problems.append(f"--set {override}: the value is not valid YAML: {error}")
        return
    problems += repeated
    nested = value
    for key in reversed(keys):
        nested = {key: nested}
    # From the current folder, as for every path that is typed on a command line.
    nested = _prepare(nested, _schema(), Path.cwd(), "", problems)
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree, nested = tree[key], nested[key]
    tree[keys[-1]] = nested[keys[-1]]


def _prepare(value: Any, schema: Schema, base: Path, where: str, problems: list[str]) -> Any:
    """A copy of ``value`` with absolute paths; collects what pydantic would let pass (true as a number)."""
    schema = _deref(schema)
    if "properties" in schema:
        if value is None:  # `gates:` with all its keys commented out
            return {}
        if not isinstance(value, dict):
            return value
        known: Schema = schema["properties"]
        return {
            str(key): _prepare(item, known.get(str(key), {}), base, f"{where}.{key}".lstrip("."), problems)
            for key, item in value.items()
        }
    branches = schema.get("anyOf", [schema])
    types = {branch.get("type") for branch in branches}
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) for item in items) and types & {"integer", "number", "array"}:
        problems.append(_not_allowed(where, value, schema))
    elif isinstance(value, str) and any(branch.get("format") == "path" for branch in branches):
        if value not in _choices(schema):
            return _absolute(value, base, where, schema, problems)
    elif where == "model.name" and isinstance(value, str) and (factory := _FACTORY.fullmatch(value)):
        return _absolute(factory["file"], base, where, schema, problems) + factory["factory"]
    return value


def _absolute(value: str, base: Path, where: str, schema: Schema, problems: list[str]) -> str:
    expanded = os.path.expanduser(value)  # noqa: PTH111 - Path's own raises where this one leaves the ~
    if not value or "\0" in value:
        problems.append(_not_allowed(where, value, schema))
    elif expanded.startswith("~"):
        problems.append(f"{where}: {_shown(value)} was given, but there is no such home folder; write it in full")
    else:
        return os.path.realpath(base / expanded)
    return value


def _validate(tree: dict[str, Any], problems: list[str]) -> Recipe | None:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems += [_explain(detail) for detail in error.errors(include_url=False)]
        return None


def _explain(error: ErrorDetails) -> str:
    """One line for one of pydantic's errors: a union's errors, one per member, all become the same line."""
    schema: Schema = _schema()
    where: list[str] = []
    for part in error["loc"]:
        schema = _deref(schema)
        if "properties" in schema:
            where.append(str(part))
            if part not in schema["properties"]:
                return _unknown(where, schema)
            schema = schema["properties"][part]
        elif isinstance(part, int) and schema.get("type") == "array" and error["type"] != "missing":
            where.append(str(part))
            schema = schema["prefixItems"][part] if "prefixItems" in schema else schema["items"]
        else:
            break  # pydantic's name for a member of a union
    if error["type"] == "value_error":  # a rule of ours, which says everything itself
        return f"{'.'.join(where) or 'recipe'}: {error['ctx']['error']}"
    return _not_allowed(".".join(where), error["input"], schema)


def _unknown(where: list[str], schema: Schema) -> str:
    key, names = where[-1], list(schema["properties"])
    hint = nearest(key, names)
    elsewhere = [path for path in _paths(_schema()) if path.rpartition(".")[2] == key]
    if not hint and elsewhere:
        hint = f"; did you mean {' or '.join(elsewhere)}?"
    return f"{'.'.join(where)}: unknown key; allowed: {', '.join(names)}{hint}"


def _not_allowed(where: str, value: Any, schema: Schema) -> str:
    schema = _deref(schema)
    about = f" ({schema['description']})" if "description" in schema and "properties" not in schema else ""
    hint = nearest(value, _choices(schema)) if isinstance(value, str) else ""
    return f"{where}: {_shown(value)} was given; allowed: {_allowed(schema)}{about}{hint}"


def _allowed(schema: Schema) -> str:
    """What a value may be, in words."""
    schema = _deref(schema)
    if "anyOf" in schema:
        return " or ".join(_allowed(branch) for branch in schema["anyOf"])
    if choices := _choices(schema):
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
    if "properties" in schema:
        return f"a mapping with the keys {_names(schema)}"
    if schema.get("type") == "array":
        items = schema.get("prefixItems", [schema.get("items", {})])
        count = f" of {len(items)}" if "prefixItems" in schema else ""
        return f"a list{count}, each {_allowed(items[0])}"
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "null": "null"}
    word = words.get(schema.get("type", ""), "a path" if schema.get("format") == "path" else "text")
    limits = [f"{text} {schema[name]:.10g}" for name, text in _BOUNDS.items() if name in schema]
    return " ".join(filter(None, [word, " and ".join(limits)]))


def _choices(schema: Schema) -> list[str]:
    """The words that ``schema`` allows by name."""
    branches = schema.get("anyOf", [schema])
    return [str(word) for b in branches for word in ([b["const"]] if "const" in b else b.get("enum", []))]


def _names(schema: Schema) -> str:
    return ", ".join(schema["properties"])


def _paths(schema: Schema, prefix: str = "") -> Iterator[str]:
    """The dotted path of every key."""
    for name, part in _deref(schema).get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _paths(part, f"{prefix}{name}.")


def _shown(value: Any) -> str:
    """``value`` as a user would write it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


@cache
def _schema() -> Schema:
    return Recipe.model_json_schema()


def _deref(schema: Schema) -> Schema:
    if "$ref" not in schema:
        return schema
    found: Schema = _schema()["$defs"][schema["$ref"].rpartition("/")[2]]
    return found
