"""What the command line prints of an INT8 file and its proof."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from slimsight.compress.errors import BudgetExceeded, ConfigError

from .terminal import console

if TYPE_CHECKING:
    from slimsight.export.int8.control import Controlled
    from slimsight.export.int8.make import Int8Model
    from slimsight.export.int8.qat import QatResult


LeastAgreement = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="int8: least share of images with the class of FP32; else layers stay in FP32"),
]
LeastSqnr = Annotated[
    float | None, typer.Option(metavar="DB", help="int8: least signal to quantisation noise; else layers stay in FP32")
]
MaxFloatLayers = Annotated[
    int | None, typer.Option(help="int8: most layers that stay in FP32, where there is such a limit; default: 8")
]

QatEpochs = Annotated[
    int | None,
    typer.Option(help="int8: train weights and ranges with rounding so often, where the limits are missed; default: 0"),
]


def read_agreement_option(text: str | None) -> float | None:
    """``97%`` or ``0.97`` -> a share.

    Raises:
        ConfigError: it is neither.
    """
    from slimsight.compress.config.shares import read_agreement

    try:
        return None if text is None else read_agreement(text)
    except ValueError as error:
        raise ConfigError(f"--agreement: {error}") from error


def refuse_failed(*made: Int8Model) -> None:
    """Raises BudgetExceeded where a runtime does not compute what a file says, or accuracy control misses a limit."""
    for model in made:
        for row in model.proof.runtimes:
            if not row.passed:
                raise BudgetExceeded(f"{row.runtime} does not compute what {model.path} says: {row.why}")
        if model.control is not None and not model.control.reached:
            raise BudgetExceeded(f"{model.path} {_control_text(model.control)}; allow more, or calibrate otherwise")


def _control_text(control: Controlled) -> str:
    from ..report.int8 import AccuracyControlFigures
    from ..report.rows_int8 import control_text

    return control_text(AccuracyControlFigures(**control.to_dict()))


def _qat_text(qat: QatResult) -> str:
    from ..report.int8 import QatFigures
    from ..report.rows_int8 import qat_text

    return qat_text(QatFigures(**qat.to_dict()))


def print_int8(made: Int8Model) -> None:
    """Size, nearness to FP32, and a line for each runtime."""
    from ..report.units import as_bytes, as_percent, plural

    out, fidelity = console(), made.proof.fidelity
    others = f"{plural(made.held_out, 'other image')}" if made.held_out else "the same images: there were no others"
    facts = Table("", "", box=None, pad_edge=False, show_header=False)
    sizes = (as_bytes(size, like=made.fp32_size_bytes) for size in (made.fp32_size_bytes, made.file.size_bytes))
    facts.add_row("size", " -> ".join(sizes))
    facts.add_row("calibrated on", f"{plural(made.images, 'image')}, by {made.file.method}; proven on {others}")
    facts.add_row("against FP32", f"SQNR {fidelity.sqnr_db:.1f} dB, same class on {as_percent(fidelity.agreement)}")
    facts.add_row("99 % of the differences", f"below {fidelity.p99:.4f} of the largest logit")
    for row in made.proof.runtimes:
        layers = "" if row.layers is None else f", {len(row.layers.integer)} of {made.proof.layers} layers in integers"
        verdict = "ok" if row.passed else "FAILED"
        facts.add_row(row.runtime, f"{verdict}: {row.p99:.4f} from the file's own arithmetic{layers}")
    out.print(facts)
    for row in made.proof.runtimes:
        if row.layers is not None and row.layers.floating:
            out.print(f"in FP32 in {row.runtime}: {', '.join(row.layers.floating)}", soft_wrap=True)
    if made.qat is not None:
        out.print(f"quantisation-aware training: {_qat_text(made.qat)}", soft_wrap=True)
    if made.control is not None:
        out.print(f"accuracy control: {_control_text(made.control)}", soft_wrap=True)
    for runtime, reason in made.proof.skipped:
        out.print(f"not run in {runtime}: {reason}", soft_wrap=True)
