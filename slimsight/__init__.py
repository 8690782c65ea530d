"""Make trained vision models small enough for the edge: prune channels for real, prove it, export, and time the result.

The Python API, for a model and data loaders of your own:

    import slimsight

    traced = slimsight.trace(model, example)                      # channel groups, each proven
    traced = slimsight.explain(traced, train_loader, val_loader)  # optional: gates are then steered by explanations
    scores = slimsight.learn_gates(traced, train_loader, macs=0.5)
    plan = slimsight.select(traced, scores, macs=0.5, align=8)
    slimmed = slimsight.slim(traced, plan, train_loader)          # with batch-norm statistics of its own
    ...                                                           # finetune slimmed.model in your own loop
    slimsight.recalibrate(slimmed, train_loader)                  # the statistics of the weights that were learned
    slimsight.save(slimmed, "slim")
    model = slimsight.load("slim")                                # needs torch only, not the code of the model
    slimsight.export_onnx(slimmed, "slim.onnx")                   # with every output by its name, each compared
    slimsight.quantize("slim", train_loader, "slim.int8.onnx")    # INT8, calibrated and proven

``import slimsight`` loads none of it: each name is imported, with PyTorch, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import testing
    from .compress.config import ExplainerConfig, GatesConfig
    from .compress.errors import SlimError
    from .compress.models.detector import RawDetector
    from .compress.surgery import PrunePlan
    from .deploy.quantise import Int8Model, quantize
    from .deploy.slim import Scores, Slimmed, Traced, explain, learn_gates, load, recalibrate, save, select, slim, trace
    from .deploy.traced_model.export import export_onnx

    __version__: str

__all__ = [
    "ExplainerConfig",
    "GatesConfig",
    "Int8Model",
    "PrunePlan",
    "RawDetector",
    "Scores",
    "SlimError",
    "Slimmed",
    "Traced",
    "__version__",
    "explain",
    "export_onnx",
    "learn_gates",
    "load",
    "quantize",
    "recalibrate",
    "save",
    "select",
    "slim",
    "testing",
    "trace",
]

_MODULE = {
    "ExplainerConfig": ".compress.config",
    "GatesConfig": ".compress.config",
    "Int8Model": ".deploy.quantise",
    "PrunePlan": ".compress.surgery",
    "RawDetector": ".compress.models.detector",
    "SlimError": ".compress.errors",
    "export_onnx": ".deploy.traced_model.export",
    "quantize": ".deploy.quantise",
}
"""The module that defines a public name, where it is not ``.deploy.slim``."""

_HERE = Path(__file__).parent
if (_HERE / "compress").is_file():
    raise ImportError(
        f"{_HERE} has text files where git keeps symbolic links (compress, export, deploy): on Windows, turn on "
        "Developer Mode, then 'git config core.symlinks true' and 'git checkout -- slimsight' in this checkout"
    )


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("slimsight")
    elif name == "testing":
        value = import_module(".testing", __name__)
    else:
        value = getattr(import_module(_MODULE.get(name, ".deploy.slim"), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
