"""Reading ``verify.json``: its seal, its form, and that its figures follow from the times and the logits in it.

A seal is no signature: whoever makes up times and logits that agree with each other is not found out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import AwareDatetime, ConfigDict, Field, ValidationError
from scipy.stats import binom

from slimsight.compress.config import Count, NonNegative, Positive, Section
from slimsight.compress.errors import ConfigError, Damaged
from slimsight.compress.files.sealed import read_sealed
from slimsight.compress.files.untrusted import printable

from ..report.parts import Share, Whole

EVIDENCE_SCHEMA: Final = 1
_CLOSE: Final = 1e-6  # relative: text of float64 is exact, sums may differ in the last bits
_LEAST_CALLS: Final = 20
_NAMED: Final = 3
_AGAIN: Final = "run verify.py on the device again and give the file that it writes"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Words = Annotated[str, Field(max_length=300)]


class _Part(Section):
    model_config = ConfigDict(strict=True)


class FileEvidence(_Part):
    """``wrong``: a sentence on each file that is missing, was changed, or is not listed."""

    count: Count
    wrong: list[Words]


class DeviceEvidence(_Part):
    """``name`` of the board or the processor."""

    name: Words
    system: Words
    machine: Words


class ModelEvidence(_Part):
    """The model's file in the package, and its SHA-256 on the device."""

    file: Words
    sha256: Sha256


class RuntimeEvidence(_Part):
    """Versions; ``device``: as given to verify.py, "" for the default."""

    version: Words
    device: Words
    numpy: Words
    pillow: Words


class PreprocessingEvidence(_Part):
    """``different``: golden images whose pixels are not those of slimsight."""

    images: Count
    different: list[Words]


class OutputEvidence(_Part):
    """Logits of golden images (images, classes), found and expected; None: not finite."""

    images: Count
    difference: NonNegative | None
    difference_limit: Positive
    agreement: Share
    agreement_limit: Share
    passed: bool
    logits: list[list[float]] | None
    expected: list[list[float]]


class LatencyEvidence(_Part):
    """Times of calls in ms. ``threads``: 0 where the runtime chose."""

    threads: Whole
    batch: Literal[1]
    calls: Annotated[int, Field(ge=_LEAST_CALLS)]
    median_ms: Positive
    low_ms: Positive
    high_ms: Positive
    limit_ms: Positive | None
    passed: bool
    times_ms: list[Positive]


class Evidence(_Part):
    """All of ``verify.json`` of a package whose files were as they had been packaged."""

    schema_: Literal[1] = Field(alias="schema")
    created: Annotated[AwareDatetime, Field(strict=False)]
    package: Sha256
    files: FileEvidence
    device: DeviceEvidence
    python: Words
    target: Words
    precision: Literal["fp32", "fp16", "int8"]
    model: ModelEvidence
    runtime: RuntimeEvidence
    preprocessing: PreprocessingEvidence
    outputs: OutputEvidence
    latency: LatencyEvidence
    passed: bool


def read_evidence(path: Path) -> Evidence:
    """Read what ``verify.py --json`` of a package wrote to ``path``.

    Raises:
        ConfigError: it is missing, was changed, is not such a file, its figures contradict each other, or the package
            was not as it had been made, so that nothing was measured.
    """
    content = _read(path)
    try:
        files = FileEvidence.model_validate(content.get("files"))
        evidence = None if files.wrong else Evidence.model_validate(content)
    except ValidationError as error:
        problems = [f"{printable('.'.join(map(str, e['loc'])))}: {e['msg']}" for e in error.errors()][:_NAMED]
        raise ConfigError(f"{path} is not complete ({'; '.join(problems)}): {_AGAIN}") from error
    if evidence is None:
        named = "; ".join(map(printable, files.wrong[:_NAMED]))
        raise ConfigError(
            f"{path} measured nothing, as the package on the device is not what was made ({named}): unpack it again "
            "there, and run its verify.py"
        )
    contradiction = _of_outputs(evidence.outputs, evidence.preprocessing) or _of_latency(evidence.latency)
    if contradiction is not None:
        raise ConfigError(f"{path} contradicts itself: {contradiction}; {_AGAIN}")
    return evidence


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_sealed(path)
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}: give what 'python verify.py --json FILE' wrote") from None
    except Damaged as error:
        raise ConfigError(f"{error}: {_AGAIN}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): {_AGAIN}") from error
    if content.get("schema") != EVIDENCE_SCHEMA or isinstance(content["schema"], bool):
        raise ConfigError(f"{path} is not of verify.py (schema {EVIDENCE_SCHEMA}): {_AGAIN}")
    return content


def _of_outputs(outputs: OutputEvidence, made: PreprocessingEvidence) -> str | None:
    expected = outputs.expected
    widths = {len(row) for row in (*expected, *(outputs.logits or expected))}
    if outputs.images != made.images or {len(expected), len(outputs.logits or expected)} != {outputs.images}:
        return "its numbers of golden images differ"
    if len(widths) != 1 or 0 in widths:
        return "its logits are not of one number of classes"
    if outputs.logits is None:
        return None if outputs.difference is None and not outputs.passed else "it has no logits, and a difference"
    wanted, found = np.array(expected, np.float32), np.array(outputs.logits, np.float32)
    largest = float(np.abs(wanted).max())
    difference = float(np.abs(found - wanted).max()) / largest if largest else float("inf")
    agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
    if outputs.difference is None or not _same(outputs.difference, difference):
        return f"its logits differ by {difference:.3g} of the largest, and it says {outputs.difference}"
    if not _same(outputs.agreement, agreement):
        return f"its logits agree on {agreement:.3g} of the images, and it says {outputs.agreement:.3g}"
    return None


def _of_latency(latency: LatencyEvidence) -> str | None:
    times = np.sort(np.array(latency.times_ms))
    if len(times) != latency.calls:
        return f"it has {len(times)} times of {latency.calls} calls"
    rank = int(binom.ppf(0.025, len(times), 0.5))  # the first rank whose tail is above 2.5 %
    figures = {
        "median": (latency.median_ms, float(np.median(times))),
        "low end": (latency.low_ms, float(times[rank - 1])),
        "high end": (latency.high_ms, float(times[-rank])),
    }
    wrong = next((name for name, (stated, computed) in figures.items() if not _same(stated, computed)), None)
    if wrong is None:
        return None
    return f"the {wrong} of its times is {figures[wrong][1]:.4g} ms, and it says {figures[wrong][0]:.4g} ms"


def _same(stated: float, computed: float) -> bool:
    return abs(stated - computed) <= _CLOSE * max(abs(stated), abs(computed), 1e-9)
