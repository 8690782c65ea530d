"""One small form of each kind of model, file and loader that strangers bring: it works, or one sentence refuses it.

    .venv/bin/python benchmarks/kinds.py [--only layers]

What works was checked by a figure (MACs counted again, shapes, equal logits after loading). Everything else that a form
does is a fault: another figure, an exception that is no SlimError, a sentence of several lines. Written to
results/kinds.json; a kind that is not measured keeps its rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from kinds_forms import KINDS, Form, Wrong

from slimsight.compress.errors import SlimError, first_error_line
from slimsight.compress.files.atomic import read_json, write_json
from slimsight.deploy.machine import device_name, versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "kinds.json"


def outcome(form: Form) -> dict[str, str]:
    """``works`` with the figure, ``refused`` with the sentence, ``wrong figure`` or ``traceback`` with the error."""
    found = _outcome(form)
    places = re.compile(rf"{re.escape(tempfile.gettempdir())}/[^/\s]+/|{re.escape(str(HERE))}/")
    return {**found, "said": places.sub("", found["said"])}  # no paths of this machine


def _outcome(form: Form) -> dict[str, str]:
    sink = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            warnings.simplefilter("ignore")
            return {"outcome": "works", "said": form()}
    except Wrong as error:
        return {"outcome": "wrong figure", "said": str(error)}
    except SlimError as error:
        return {"outcome": "traceback" if "\n" in str(error) else "refused", "said": str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a form raises is a result
        return {"outcome": "traceback", "said": f"{type(error).__name__}: {first_error_line(error)}"}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="may be given more than once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    before = read_json(RESULTS)["rows"] if RESULTS.exists() else []
    rows: list[dict[str, Any]] = []
    for kind, forms in KINDS.items():
        if given.only and kind not in given.only:
            rows += [row for row in before if row["kind"] == kind]
            continue
        for name, form in forms.items():
            rows.append({"kind": kind, "form": name, **outcome(form)})
            print(f"{kind} | {name} | {rows[-1]['outcome']}: {rows[-1]['said']}", flush=True)
    write_json(RESULTS, {"schema": 1, "device": device_name(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
