"""Scripts of a package, made from templates: predict.py and verify.py, and for TensorRT engine.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ..report.environment import make_environment
from .targets import PackageTarget

TEMPLATES: Final = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """The text of a template in ``templates/``."""
    return make_environment(TEMPLATES, keep_trailing_newline=True).get_template(template).render(values)


def trtexec_line(model: str, side: int) -> str:
    """The command that builds an engine of one image per call."""
    return (
        f"trtexec --onnx={model} --saveEngine=model.engine --stronglyTyped --noTF32 "
        f"--minShapes=images:1x3x{side}x{side} --optShapes=images:1x3x{side}x{side} "
        f"--maxShapes=images:1x3x{side}x{side}"
    )


def to_scripts(target: PackageTarget, model: str, side: int) -> dict[str, bytes]:
    """The scripts for a package whose model is called ``model`` and takes images of ``side`` pixels."""
    values = {"model": model, "requirements": target.requirements, "load": f"load_{target.name}.py.j2"}
    scripts = {"predict.py": render("predict.py.j2", **values), "verify.py": render("verify.py.j2")}
    if target.name == "tensorrt":
        image = f"(3, {side}, {side})"
        scripts["engine.py"] = render("engine.py.j2", model=model, image=image, trtexec=trtexec_line(model, side))
    return {name: text.encode() for name, text in scripts.items()}
