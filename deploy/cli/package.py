"""``slimsight package``: a run's model with all that is needed to put it on a device and to check it there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slimsight.compress.errors import ConfigError

from .terminal import Terminal, console


def package(
    context: typer.Context,
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="run directory of a finished run")],
    target: Annotated[
        str, typer.Option("--for", metavar="RUNTIME", help="onnxruntime, openvino, executorch or tensorrt")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR|FILE.zip", help="default: RUN/package/RUNTIME-PRECISION")
    ] = None,
    precision: Annotated[str, typer.Option(metavar="P", help="of the model's file: fp32, fp16 or int8")] = "fp32",
    original: Annotated[bool, typer.Option("--original", help="the run's original, to compare with")] = False,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="the most that a call may take on the device, e.g. 10ms")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier package")] = False,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="upload the folder to the Hugging Face Hub, too")
    ] = None,
) -> None:
    """Package a run's model for a device: scripts that need its runtime only, golden images, a model card."""
    from .. import package as packages

    packages.find_target(target, precision)
    if push_to_hub is not None:
        packages.check_repository(push_to_hub)
        if out is not None and packages.is_zip(out):
            raise ConfigError(f"--push-to-hub uploads a folder, and --out is {out}: give a folder")
    request = packages.PackageRequest(run_dir, target, precision, out, original, _read_limit(latency), force)
    terminal: Terminal = context.obj
    packaged = packages.package_run(request, progress=terminal.progress)
    printed = console()
    if not packaged.passed:
        printed.print("the run's own verdict is FAILED, which the package's README.md says, too")
    printed.print(f"package of {packaged.artifact}, {len(packaged.files)} files: {packaged.out}", soft_wrap=True)
    printed.print("on the device: python verify.py --json verify.json", soft_wrap=True)
    if push_to_hub is not None:
        printed.print(f"uploaded: {packages.push_to_hub(packaged.out, push_to_hub, packaged.files)}", soft_wrap=True)


def _read_limit(text: str | None) -> float | None:
    """A time in ms.

    Raises:
        ConfigError: it is something else.
    """
    from ..budget.schema import read_device_latency

    if text is None:
        return None
    try:
        return read_device_latency(text).value
    except ValueError as error:
        raise ConfigError(f"--latency: {error}") from error
