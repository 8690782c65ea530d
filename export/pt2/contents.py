"""What a ``.pt2`` file may hold so that opening it runs nothing: torch.export.load alone would.

``torch.export.load`` unpickles what a file asks it to, gives its expressions to ``eval``, compiles its guards, imports
the modules that it names and calls any function of torch by name. Only what an exported network needs is let through,
and what is opened in the end is an archive made anew of that, so that no two readers of archives can disagree.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from slimsight.compress.errors import ExportError
from slimsight.compress.files.untrusted import MEBIBYTE, open_limited, parse_json, printable

_MOST: Final = 16 * 1024 * MEBIBYTE
_MOST_GRAPH: Final = 256 * MEBIBYTE

_FACTS: Final = re.compile(r"archive_format|archive_version|byteorder|version|\.data/[a-z_]+")
_GRAPH: Final = re.compile(r"models/model\.json")
_CONFIG: Final = re.compile(r"data/(weights|constants)/model_\1_config\.json")
_STORED: Final = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_EXAMPLE: Final = re.compile(r"data/sample_inputs/model\.pt")

_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)[a-z0-9_]+\.\w+"
    r"|torch\.(sym_(int|float|max|min|not|ite|sum|sqrt))"
    r"|_operator\.(getitem|neg|pos|add|sub|mul|truediv|floordiv|mod|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc)"
)
"""What a graph may call: torch's own operators on tensors and arithmetic on sizes. ``from_file`` opens files."""

_TOKEN: Final = re.compile(r"\s+|'\w+'|\d+(?:\.\d+)?|[A-Za-z_]\w*|\*\*\s*[1-4]\b|[-+*/%(),=<>!&|~]")
_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "Symbol Integer Rational Float Add Mul Mod Max Min Eq Ne Lt Le Gt Ge And Or Not floor ceiling FloorDiv CeilDiv "
        "CleanDiv PythonMod ModularIndexing ToFloat IntTrueDiv FloatTrueDiv TruncToInt True False positive nonnegative "
        "nonzero integer real finite Relational Equality Unequality StrictLessThan LessThan StrictGreaterThan "
        "GreaterThan",
    )
)
_SIZE: Final = re.compile(r"[su]\d{1,9}")
_LONGEST: Final = 2000  # characters of an expression

# torch writes a program's names into Python code that it then runs.
_PLAIN: Final = re.compile(r"[\w.\-\[\]:/+]*")
_NAME: Final = re.compile(r"([A-Za-z_]\w*)?")
_CONTAINERS: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def harmless_archive(path: Path) -> io.BytesIO:
    """The archive at ``path`` without anything that torch would run while it opens it.

    Raises:
        FileNotFoundError: it is missing.
        ExportError: it holds something else than a network's graph and its tensors.
    """
    try:
        with open_limited(path, _MOST) as file, zipfile.ZipFile(file) as archive:
            parts = _read(archive, path.stat().st_size)
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, NotImplementedError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ExportError(
            f"{path} is no .pt2 that is opened here ({reason}): export it with torch.export.save"
        ) from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, content in parts.items():
            made.writestr(f"archive/{name}", content)
    buffer.seek(0)
    return buffer


def _read(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts unpack to more than the file holds, which torch never writes")
    parts: dict[str, bytes] = {}
    for member in members:
        _, slash, name = member.filename.partition("/")
        if not slash or name in parts:
            raise ValueError(f"'{printable(member.filename)}' is in it twice, or outside of its folder")
        if not any(kind.fullmatch(name) for kind in (_FACTS, _GRAPH, _CONFIG, _STORED, _EXAMPLE)):
            raise ValueError(f"'{printable(name)}' in it is no part of a network: it could be code")
        parts[name] = archive.read(member)
    for name in list(parts):
        if _GRAPH.fullmatch(name):
            parts[name] = _checked_graph(parts[name])
        elif _CONFIG.fullmatch(name):
            _check_config(parts, name)
        elif _EXAMPLE.fullmatch(name):
            _check_example(parts[name])
    return parts


def _parsed(content: bytes) -> Any:
    if len(content) > _MOST_GRAPH:
        raise ValueError(f"a graph of {len(content) / MEBIBYTE:,.0f} MiB")
    return parse_json(content.decode())


def _check_config(parts: dict[str, bytes], name: str) -> None:
    """The list of stored tensors: none is a pickle, none is larger than what is stored of it."""
    kind = name.split("/")[1]
    prefix = {"weights": "weight_", "constants": "tensor_"}[kind]
    for tensor, entry in _parsed(parts[name])["config"].items():
        stored = str(entry["path_name"])
        if entry["use_pickle"] or not stored.startswith(prefix):
            raise ValueError(f"'{printable(tensor)}' of its {kind} is a pickle, and unpickling could run any code")
        if not _PLAIN.fullmatch(tensor):
            raise ValueError(f"'{printable(tensor)}' in it is no name of a tensor")
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if math.prod(sizes) > len(parts[f"data/{kind}/{stored}"]):
            raise ValueError(f"'{tensor}' has shape {tuple(sizes)}, and fewer numbers than that are stored")


def _check_example(content: bytes) -> None:
    """torch falls back to unpickling anything where this fails."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever it is: torch would go on to unpickle
        raise ValueError("its example inputs hold more than tensors, and unpickling could run any code") from error


def _checked_graph(content: bytes) -> bytes:
    """The graph without notes, which torch follows, and without guards, which it runs: shapes are checked without."""
    program = _parsed(content)
    program["guards_code"] = []
    for place in _dicts(program):
        if "metadata" in place:
            place["metadata"] = {}
        if "target" in place and not (isinstance(place["target"], str) and _OPERATOR.fullmatch(place["target"])):
            raise ValueError(f"it calls '{printable(str(place['target']))}', which is no operator of a network")
        if place.get("custom_obj_values") or place.get("treespec_namedtuple_fields"):
            raise ValueError("it holds objects that are no tensors")
        for key, value in place.items():
            _check_text(key, value)
    return json.dumps(program).encode()


def _check_text(key: str, value: Any) -> None:
    if key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec"):
        _check_containers(parse_json(value))
    else:
        allowed = _NAME if key in ("name", "as_name") else _PLAIN
        for text in (key, *([value] if isinstance(value, str) else value if isinstance(value, list) else ())):
            if isinstance(text, str) and not (_PLAIN if text is key else allowed).fullmatch(text):
                raise ValueError(f"'{printable(text, 80)}' in it is no name")


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, dict):
            yield found
            stack += found.values()
        elif isinstance(found, list):
            stack += found


def _check_expression(text: Any) -> None:
    """An expression of sizes; sympy hands it to ``eval``."""
    if not isinstance(text, str) or len(text) > _LONGEST or text.count("**") > 1:  # 9**9**9**9
        raise ValueError("the expression of a size in it is too long")
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        word = token.group() if token else text[place]
        named = word[0].isalpha() or word[0] == "_"
        if token is None or (named and word not in _WORDS and not _SIZE.fullmatch(word)) or len(word.strip("'")) > 40:
            raise ValueError(f"a size in it is computed by '{printable(text, 80)}', which is more than arithmetic")
        place = token.end()


def _check_containers(spec: Any) -> None:
    """How inputs are nested: in tuples, lists and dicts; torch imports other types by name."""
    for place in _dicts(spec):
        if place.get("type") not in _CONTAINERS:
            raise ValueError(f"its inputs come in a '{printable(str(place.get('type')))}'")
        if place.get("context") is not None:
            context = parse_json(place["context"])
            if any(True for _ in _dicts(context)):
                raise ValueError("its inputs come with objects of their own")
