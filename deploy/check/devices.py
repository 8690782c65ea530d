"""Adds what was measured on devices to a target's figures, where it is of that target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slimsight.compress.errors import ConfigError
from slimsight.compress.files.sealed import sha256_of_file

from ..budget import TargetFigures
from .target import Target


def with_devices(target: Target, measured: Sequence[Path]) -> TargetFigures:
    """The target's figures with those of the files ``measured``, which must be of it.

    A file that the run's report shows already is not counted twice.

    Raises:
        ConfigError: one cannot be used, or is of another model.
    """
    if not measured:
        return target.figures
    from ..device import device_figures, find_artifact, read_evidence
    from ..run_dir import read_run

    rows = list(target.figures.devices)
    for path in measured:
        evidence = read_evidence(path)
        if target.kind == "run":
            artifact = find_artifact(evidence, read_run(Path(target.name), verify=False))
        elif target.kind != "model" and sha256_of_file(Path(target.name)) == evidence.model.sha256:
            artifact = target.name
        else:
            raise ConfigError(
                f"--measured {path} is of another model: {target.name} has not the sha256 "
                f"{evidence.model.sha256[:12]}... of what ran on the device; give the run that was packaged"
            )
        row = device_figures(evidence, artifact)
        if row not in rows:
            rows.append(row)
    return replace(target.figures, devices=tuple(rows))
