"""Help of every command: one line for the list of commands, and examples to copy.

Kept apart from the commands: it can be read in one piece, and a test runs the examples' arguments.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommandHelp:
    """``short``: its line in ``slimsight --help``; ``examples``: (command line, what it does)."""

    short: str
    examples: tuple[tuple[str, str], ...]

    @property
    def epilog(self) -> str:
        r"""The examples as they are printed below the options; \b keeps their lines."""
        lines = [line for command, what in self.examples for line in (f"  # {what}", f"  slimsight {command}")]
        return "\n".join(["\b", "Examples:", *lines])


HELP = {
    "doctor": CommandHelp(
        "What works on this machine, what does not, how to get it.",
        (
            ("doctor", "a table; exit 1 if a run could not work here"),
            ("doctor --json doctor.json", "the same, as data"),
        ),
    ),
    "init": CommandHelp(
        "Write a commented recipe for your model and your images.",
        (
            ("init my_model.py:build my_images", "recipe.yaml, from what both are"),
            ("init my_model.py:build my_images --weights my_model.safetensors", "for a trained model"),
            ("init torchvision:resnet18 my_images --out resnet18.yaml", "a model of torchvision"),
        ),
    ),
    "run": CommandHelp(
        "Slim a recipe's model; prove, export, time and report.",
        (
            ("run recipe.yaml --dry-run", "what would be done, and how long it would take"),
            ("run recipe.yaml", "into runs/recipe; the same command again resumes"),
            ("run recipe.yaml --out runs/third --set budget.macs=33%", "another budget"),
            ("run recipe.yaml --devices 4", "on four GPUs of this machine; torchrun for several machines"),
            ("run recipe.yaml --out b --set budget.macs=33% --reuse runs/recipe", "stages that still hold are copied"),
        ),
    ),
    "export": CommandHelp(
        "More files of a finished run: ONNX, FP16, engines, pt2.",
        (
            ("export runs/recipe --to onnx --precision fp32,fp16", "proven on real images"),
            ("export runs/recipe --to tensorrt-rtx --batch 1:8:32", "an engine for 1 to 32 images"),
            ("export runs/recipe --to onnx --precision int8", "calibrated on its training images"),
        ),
    ),
    "quantize": CommandHelp(
        "An ONNX file in INT8, with its proof.",
        (
            ("quantize model.onnx --images my_images/train", "model.int8.onnx, for ONNX Runtime"),
            ("quantize model.onnx --images my_images/train --form s8", "for TensorRT"),
        ),
    ),
    "package": CommandHelp(
        "A model for a device, with scripts, checks, a model card.",
        (
            ("package runs/recipe --for onnxruntime", "a folder: model, scripts, golden images"),
            ("package runs/recipe --for openvino --out model.zip --latency 10ms", "to send"),
        ),
    ),
    "inspect": CommandHelp(
        "What can shrink in a model, what cannot and why.",
        (
            ("inspect torchvision:resnet18 --input 3x224x224", "learns nothing, needs no images"),
            ("inspect my_model.py:build --input 3x96x96 --budget macs=50%", "with a plan, proven"),
        ),
    ),
    "bench": CommandHelp(
        "Time models against each other, with intervals.",
        (
            ("bench runs/recipe", "original and slim model in every runtime here"),
            ("bench a.onnx b.onnx --batch 1,8 --threads 1,2 --json bench.json", "any files"),
        ),
    ),
    "explain": CommandHelp(
        "What the original and the slim model look at.",
        (
            ("explain runs/recipe cat.jpg dog.jpg", "pictures in runs/recipe/explained"),
            ("explain runs/recipe cat.jpg --with rbf,grad_cam --class cat", "more explainers, a class"),
        ),
    ),
    "trust": CommandHelp(
        "Whether explanations can be trusted, by tests.",
        (("trust runs/recipe --with rbf,grad_cam --images 100", "beside random maps"),),
    ),
    "check": CommandHelp(
        "Hold figures against a budget file, for CI.",
        (
            ("check runs/recipe --budget budget.yaml", "exit 0: within budget; 1: not; 2: wrong input"),
            ("check model.onnx --budget budget.yaml --against main.onnx", "what grew, layer by layer"),
        ),
    ),
    "report": CommandHelp(
        "The report of a run, or of several beside each other.",
        (("report runs/recipe", "report.html"), ("report runs/half runs/third", "both on one page")),
    ),
    "schema": CommandHelp(
        "The JSON Schema of recipes or budget files, for editors.",
        (("schema recipe > recipe.schema.json", "what an editor completes a recipe by"),),
    ),
    "status": CommandHelp(
        "How far a run is.",
        (("status runs/recipe", "its stages, and whether a process is working on it"),),
    ),
}
"""By the command's name."""
