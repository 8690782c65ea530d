"""Which stages a recipe needs, in order, and what each is made from. Imports no PyTorch: ``status`` answers at once."""

from __future__ import annotations

from ..settings.recipe import Recipe

WITHOUT_PREDICTOR = ("varsal",)
"""Explainers that learn from the classifier itself."""


def stage_needs(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The names of the stages that ``recipe`` needs, in order, and for each the stages whose results it reads."""
    needs: dict[str, tuple[str, ...]] = {"classifier": ()}
    scored = "classifier"  # what the gates learn from
    if recipe.explainer.enabled:
        if recipe.gates.explainer not in WITHOUT_PREDICTOR:
            needs["predictor"] = ("classifier",)
        needs["selector"] = (next(reversed(needs)),)
        scored = "selector"
    if recipe.gates.explainer is not None:
        needs["targets"] = ("selector",)
        scored = "targets"
    needs |= {"gates": (scored,), "surgery": ("gates",), "finetune": ("surgery",), "export": ("finetune",)}
    timed: tuple[str, ...] = ("export",)
    judged: tuple[str, ...] = ("finetune",)
    if recipe.dynamic.enabled:
        needs |= {"dynamic": ("classifier",), "dynamic_export": ("dynamic",)}
        timed, judged = (*timed, "dynamic_export"), (*judged, "dynamic")
    if recipe.export.quantised:  # the INT8 file is judged on test images
        judged = (*judged, "export")
    return {**needs, "latency": timed, "judgement": judged}
