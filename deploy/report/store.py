"""report.json on the disk: written whole, read strictly."""

from __future__ import annotations

import reprlib
from pathlib import Path

from pydantic import ValidationError

from slimsight.compress.errors import ConfigError, RunError
from slimsight.compress.files import write_json
from slimsight.compress.untrusted import MOST_JSON, parse_json, printable, read_text

from .schema import SCHEMA, Report

REPORT_FILE = "report.json"


def write_report(path: Path, report: Report) -> None:
    """Write report.json, whole or not at all."""
    write_json(path, report.model_dump(mode="json", by_alias=True))


def read_report(path: Path) -> Report:
    """The report at ``path``: a report.json, or a run directory that holds one.

    Raises:
        RunError: no report there, or not one that slimsight wrote.
        ConfigError: another schema number.
    """
    path = path / REPORT_FILE if path.is_dir() else path
    remedy = "run 'slimsight run' again to write it anew"
    try:
        text = read_text(path, MOST_JSON)
        found = parse_json(text)
    except FileNotFoundError:
        raise RunError(f"no report at {path}: the run has not finished; run 'slimsight run' to complete it") from None
    except OSError as error:
        raise RunError(f"cannot read the report {path}: {error.strerror}; check the file and its rights") from error
    except ValueError as error:  # broken JSON and broken UTF-8 alike
        raise RunError(f"{path} is not JSON ({error}); {remedy}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise RunError(f"{path} is not a slimsight report: it has no 'schema'; give a report.json or its run directory")
    if found["schema"] != SCHEMA or isinstance(found["schema"], bool):
        raise ConfigError(
            f"{path} has report schema {reprlib.repr(found['schema'])}, this slimsight reads schema {SCHEMA}; "
            "read it with the version that wrote it"
        )
    try:
        return Report.model_validate_json(text, strict=True)
    except ValidationError as error:
        problems = [f"{printable('.'.join(map(str, e['loc']))) or 'report'}: {e['msg']}" for e in error.errors()]
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise RunError(f"{path} does not hold a report ({'; '.join(problems[:3])}{more}); {remedy}") from error
