"""Checks of an untrusted ``.pt2`` archive, so that loading it runs no code of its author's.

``torch.export.load`` unpickles objects, passes expressions to ``eval``, compiles guards, imports named modules and
calls any function of torch by name. Only what an exported network needs is allowed, and torch reads a new archive that
is written from the checked parts, so that two readers of archives cannot disagree.
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

_MAX_BYTES: Final = 16 * 1024 * MEBIBYTE
_MAX_GRAPH_BYTES: Final = 256 * MEBIBYTE

_ARCHIVE_FACTS: Final = re.compile(r"archive_format|archive_version|byteorder|version|\.data/[a-z_]+")
_GRAPH: Final = re.compile(r"models/model\.json")
_CONFIG: Final = re.compile(r"data/(weights|constants)/model_\1_config\.json")
_TENSOR: Final = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_EXAMPLE: Final = re.compile(r"data/sample_inputs/model\.pt")
METADATA_FILE: Final = "slimsight.json"
"""Extra file of the archive: its metadata, as those of ONNX files."""
_METADATA: Final = f"extra/{METADATA_FILE}"
_MAX_METADATA_BYTES: Final = 4 * MEBIBYTE

_OPERATOR: Final = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)[A-Za-z0-9_]+\.\w+"
    r"|torch\.ops\.torchvision\.(deform_conv2d|roi_align|roi_pool|ps_roi_align|ps_roi_pool|nms)\.\w+"
    r"|torch\.(sym_(int|float|max|min|not|ite|sum|sqrt))"
    r"|_operator\.(getitem|neg|pos|add|sub|mul|truediv|floordiv|mod|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc)"
)
"""Allowed calls: torch's own operators on tensors, and arithmetic on sizes. ``from_file`` would open files."""

_EXPRESSION_TOKEN: Final = re.compile(r"\s+|'\w+'|\d+(?:\.\d+)?|[A-Za-z_]\w*|\*\*\s*[1-4]\b|[-+*/%(),=<>!&|~]")
_EXPRESSION_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "Symbol Integer Rational Float Add Mul Mod Max Min Eq Ne Lt Le Gt Ge And Or Not floor ceiling FloorDiv CeilDiv "
        "CleanDiv PythonMod ModularIndexing ToFloat IntTrueDiv FloatTrueDiv TruncToInt True False positive nonnegative "
        "nonzero integer real finite Relational Equality Unequality StrictLessThan LessThan StrictGreaterThan "
        "GreaterThan",
    )
)
_SIZE_SYMBOL: Final = re.compile(r"[su]\d{1,9}")
_MAX_EXPRESSION: Final = 2000  # characters

# torch writes the names of a program into Python code and runs it.
_PLAIN_TEXT: Final = re.compile(r"[\w.\-\[\]:/+]*")
_EQUATION: Final = re.compile(r"[A-Za-z., >-]*")  # of an einsum; torch writes it as a quoted text
_IDENTIFIER: Final = re.compile(r"([A-Za-z_]\w*)?")
_CONTAINERS: Final = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def harmless_archive(path: Path) -> io.BytesIO:
    """A copy of the archive at ``path`` in which nothing is left that torch would run while loading it.

    Raises:
        FileNotFoundError: it is missing.
        ExportError: it contains more than a network's graph and tensors.
    """
    try:
        with open_limited(path, _MAX_BYTES) as file, zipfile.ZipFile(file) as archive:
            parts = _checked_parts(archive, path.stat().st_size)
    except FileNotFoundError:
        raise
    except (OSError, zipfile.BadZipFile, ValueError, LookupError, TypeError, NotImplementedError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ExportError(
            f"{path} is not a .pt2 that can be opened safely ({reason}): export it with torch.export.save"
        ) from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as made:
        for name, content in parts.items():
            made.writestr(f"archive/{name}", content)
    buffer.seek(0)
    return buffer


def read_pt2_metadata(path: Path) -> dict[str, str] | None:
    """The metadata that slimsight stored in the ``.pt2`` file at ``path``; None: it has none.

    Raises:
        ExportError: it is missing or is not such an archive, or its metadata are not texts by name.
    """
    try:
        with open_limited(path, _MAX_BYTES) as file, zipfile.ZipFile(file) as archive:
            stored = next((m for m in archive.infolist() if m.filename.partition("/")[2] == _METADATA), None)
            if stored is None:
                return None
            if stored.file_size > _MAX_METADATA_BYTES:
                raise ValueError(f"metadata of {stored.file_size:,} bytes")
            values = parse_json(archive.read(stored).decode())
    except FileNotFoundError as error:
        raise ExportError(f"there is no {path}: export the model to pt2 first") from error
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ExportError(f"{path} has no metadata that can be read ({reason}): export the model again") from error
    if not isinstance(values, dict) or not all(isinstance(text, str) for text in values.values()):
        raise ExportError(f"{path} has metadata that are not texts by name: export the model again")
    return values


def _checked_parts(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    """The checked files in the archive by name, without the archive's root folder."""
    members = archive.infolist()
    if sum(member.file_size for member in members) > size:
        raise ValueError("its parts unpack to more than the file holds, which torch never writes")
    parts: dict[str, bytes] = {}
    for member in members:
        _, slash, name = member.filename.partition("/")
        if not slash or name in parts:
            raise ValueError(f"'{printable(member.filename)}' is in it twice, or outside of its folder")
        if name == _METADATA:  # text, which torch does not need
            continue
        if not any(kind.fullmatch(name) for kind in (_ARCHIVE_FACTS, _GRAPH, _CONFIG, _TENSOR, _EXAMPLE)):
            raise ValueError(f"'{printable(name)}' in it is not part of a network: it could be code")
        parts[name] = archive.read(member)
    for name in list(parts):
        if _GRAPH.fullmatch(name):
            parts[name] = _checked_graph(parts[name])
        elif _CONFIG.fullmatch(name):
            _check_tensors(parts, name)
        elif _EXAMPLE.fullmatch(name):
            _check_example(parts[name])
    return parts


def _parse_graph(content: bytes) -> Any:
    if len(content) > _MAX_GRAPH_BYTES:
        raise ValueError(f"a graph of {len(content) / MEBIBYTE:,.0f} MiB")
    return parse_json(content.decode())


def _check_tensors(parts: dict[str, bytes], name: str) -> None:
    """Refuse a list of tensors with a pickle in it, or with shapes larger than the stored data."""
    kind = name.split("/")[1]
    prefix = {"weights": "weight_", "constants": "tensor_"}[kind]
    for tensor, entry in _parse_graph(parts[name])["config"].items():
        stored = str(entry["path_name"])
        if entry["use_pickle"] or not stored.startswith(prefix):
            raise ValueError(f"'{printable(tensor)}' of its {kind} is a pickle, and unpickling could run any code")
        if not _PLAIN_TEXT.fullmatch(tensor):
            raise ValueError(f"'{printable(tensor)}' in it is not a valid name of a tensor")
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if math.prod(sizes) > len(parts[f"data/{kind}/{stored}"]):
            raise ValueError(f"'{tensor}' has shape {tuple(sizes)}, and fewer numbers than that are stored")


def _check_example(content: bytes) -> None:
    """Refuse example inputs other than tensors: torch would fall back to unpickling them."""
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # any error: torch would go on to unpickle
        raise ValueError("its example inputs are more than tensors, and unpickling could run any code") from error


def _checked_graph(content: bytes) -> bytes:
    """The checked graph without metadata, which torch follows, and without guards, which it runs and does not need."""
    program = _parse_graph(content)
    program["guards_code"] = []
    for entry in _nested_dicts(program):
        if "metadata" in entry:
            entry["metadata"] = {}
        if "target" in entry and not (isinstance(entry["target"], str) and _OPERATOR.fullmatch(entry["target"])):
            raise ValueError(f"it calls '{printable(str(entry['target']))}', which is not an operator of a network")
        if entry.get("custom_obj_values") or entry.get("treespec_namedtuple_fields"):
            raise ValueError("it contains objects other than tensors")
        for key, value in entry.items():
            _check_text(key, value)
    return json.dumps(program).encode()


def _check_text(key: str, value: Any) -> None:
    if key == "expr_str":
        _check_expression(value)
    elif key in ("in_spec", "out_spec"):
        _check_containers(parse_json(value))
    else:
        if key == "as_string" and isinstance(value, str) and _EQUATION.fullmatch(value):
            return
        allowed = _IDENTIFIER if key in ("name", "as_name") else _PLAIN_TEXT
        for text in (key, *([value] if isinstance(value, str) else value if isinstance(value, list) else ())):
            if isinstance(text, str) and not (_PLAIN_TEXT if text is key else allowed).fullmatch(text):
                raise ValueError(f"'{printable(text, 80)}' in it is not a valid name")


def _nested_dicts(value: Any) -> Iterator[dict[str, Any]]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack += item.values()
        elif isinstance(item, list):
            stack += item


def _check_expression(text: Any) -> None:
    """Refuse an expression of a size that is more than arithmetic: sympy passes it to ``eval``."""
    if not isinstance(text, str) or len(text) > _MAX_EXPRESSION or text.count("**") > 1:  # 9**9**9**9
        raise ValueError("the expression of a size in it is too long")
    position = 0
    while position < len(text):
        token = _EXPRESSION_TOKEN.match(text, position)
        word = token.group() if token else text[position]
        is_name = word[0].isalpha() or word[0] == "_"
        unknown = is_name and word not in _EXPRESSION_WORDS and not _SIZE_SYMBOL.fullmatch(word)
        if token is None or unknown or len(word.strip("'")) > 40:
            raise ValueError(f"a size in it is computed by '{printable(text, 80)}', which is more than arithmetic")
        position = token.end()


def _check_containers(spec: Any) -> None:
    """Refuse inputs nested in other containers than tuples, lists and dicts: torch imports other types by name."""
    for entry in _nested_dicts(spec):
        if entry.get("type") not in _CONTAINERS:
            raise ValueError(f"its inputs come in a '{printable(str(entry.get('type')))}'")
        if entry.get("context") is not None:
            context = parse_json(entry["context"])
            if any(True for _ in _nested_dicts(context)):
                raise ValueError("its inputs come with objects of their own")
