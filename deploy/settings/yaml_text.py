"""YAML reader and writer: scalars of YAML 1.2 (1e-3 is a number, `no` a word), line numbers, duplicate keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import yaml

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.untrusted import MEBIBYTE, printable

MOST_YAML: Final = MEBIBYTE // 4
"""Bytes of a YAML file that are read: PyYAML takes seconds for that many, and a long recipe has a fortieth."""

_MOST_VALUES: Final = 20_000  # once what aliases stand for is written out in their places
_DEEPEST: Final = 64  # mappings and lists inside each other
_CIRCLE: Final = (0, 0)
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
)

_PLAIN = {
    "tag:yaml.org,2002:null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    # A longer run of digits is read as a float: no setting needs more, and int() refuses thousands of them.
    "tag:yaml.org,2002:int": (re.compile(r"[-+]?[0-9]{1,18}"), list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
        list("-+0123456789."),
    ),
    "tag:yaml.org,2002:merge": (re.compile(r"<<"), ["<"]),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2: in 1.1, 1e-3 is text and 12:30 is 750."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what ``_Loader`` would not read back as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


def _construct_int(_loader: yaml.SafeLoader, node: yaml.Node) -> int:
    text = str(node.value)
    try:
        return int(text)  # base 10: 010 is ten, not the eight of YAML 1.1
    except ValueError:
        raise yaml.constructor.ConstructorError(
            None, None, f"'{text}' is not a whole number", node.start_mark
        ) from None


for _tag, (_pattern, _first) in _PLAIN.items():
    # PyYAML matches a prefix, so that the pattern is closed here; order matters: int is asked before float.
    _closed = re.compile(rf"(?:{_pattern.pattern})$")
    _Loader.add_implicit_resolver(_tag, _closed, _first)
    _Dumper.add_implicit_resolver(_tag, _closed, _first)
# Plain style would turn some line breaks of Unicode into spaces.
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)
_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)
)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


Place: TypeAlias = tuple[str, ...]
"""Where a value stands: the keys that lead to it, and the index where it is an item of a list."""


@dataclass(frozen=True)
class YamlText:
    """``value`` (None when empty), place and sentence for each key that is written twice, lines (from 1) by place."""

    value: Any
    repeated: tuple[tuple[Place, str], ...]
    lines: Mapping[Place, int]


def line_of(lines: Mapping[Place, int], place: Place) -> int | None:
    """The line of ``place``, or of what it is in where it has none of its own (a key that is missing, or merged)."""
    while place:
        if place in lines:
            return lines[place]
        place = place[:-1]
    return None


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """The value that ``text`` holds (None when empty), and one sentence for each key that is written twice.

    Raises:
        ConfigError: not YAML, with line and column, both counted from 1.
    """
    parsed = read_yaml(text)
    return parsed.value, [sentence for _, sentence in parsed.repeated]


def read_yaml(text: str) -> YamlText:
    """The content of ``text`` with the line of every key.

    Raises:
        ConfigError: not YAML, with line and column, both counted from 1; a tag that no file here needs; or more than
            a file of settings holds, counted with what its aliases stand for.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return YamlText(None, (), {})
        _check_size(node, 0, {})
        repeated = tuple(_repeated_keys(node, (), set()))  # before construction writes merged keys into the nodes
        lines = dict(_key_lines(node, (), set()))
        return YamlText(loader.construct_document(node), repeated, lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"line {line}: the character {error.character!r} is not allowed in YAML") from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
    except (ValueError, LookupError, ArithmeticError) as error:
        raise ConfigError(f"a value does not fit its tag: {error}") from error
    finally:
        if loader is not None:
            loader.dispose()


def dump_yaml(value: Any) -> str:
    """``value`` as YAML that ``parse_yaml`` reads back equal; keys keep their order."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)
    return str(text)


def _check_size(node: yaml.Node, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Values in ``node`` and how deep they are nested, those of an alias counted again wherever it stands.

    Raises:
        ConfigError: too many, too deep, in a circle, or with a tag that makes other objects than text and numbers.
    """
    line = f"line {node.start_mark.line + 1}"
    if id(node) not in known:
        if node.tag not in _TAGS:
            shown = printable(node.tag.replace("tag:yaml.org,2002:", "!!"))
            raise ConfigError(f"{line}: the tag {shown} is not taken; write the value without it")
        if depth > _DEEPEST:
            raise ConfigError("it is nested too deeply")
        known[id(node)] = _CIRCLE  # until all that is in it is counted
        inner: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        count, height = 1, 0
        for part in inner:
            values, levels = _check_size(part, depth + 1, known)
            count, height = count + values, max(height, levels + 1)
            if count > _MOST_VALUES:
                raise ConfigError(f"{line}: more than {_MOST_VALUES:,} values stand here, once aliases are written out")
        known[id(node)] = count, height
    count, height = known[id(node)]
    if (count, height) == _CIRCLE:
        raise ConfigError(f"{line}: what stands here holds itself, by an alias")
    if depth + height > _DEEPEST:
        raise ConfigError("it is nested too deeply")
    return count, height


def _key_lines(node: yaml.Node, place: Place, seen: set[int]) -> Iterator[tuple[Place, int]]:
    """The line of every key and of every item of a list."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*place, str(index)), item.start_mark.line + 1
            yield from _key_lines(item, (*place, str(index)), seen)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _key_lines(value, here, seen)


def _repeated_keys(node: yaml.Node, path: Place, seen: set[int]) -> Iterator[tuple[Place, str]]:
    """A sentence per key that stands twice in one mapping; PyYAML itself silently keeps the last."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, path, seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            here = (*path, name)
            if name in lines and name != "<<":
                yield here, f"{'.'.join(here)}: written twice, in line {lines[name]} and line {line}; keep one"
            lines[name] = line
            yield from _repeated_keys(value, here, seen)
