"""What can be known before anything is learned, so that hours do not end in a refusal."""

from __future__ import annotations

from compress.explain import find_scales
from compress.gates import CostModel, budget_macs, check_budget, smallest_macs
from export.to_torch_export import trace

from ..report.units import as_macs, as_percent
from ..session import Session


def preflight(session: Session) -> None:
    """Build the classifier and ask of it what later stages will: groups, budget, feature maps, an exportable graph.

    None of that depends on what the weights have learned.

    Raises:
        ModelError: the model or its weights do not fit, or it has no feature maps for an explainer.
        PruningError: nothing can shrink, or the budget is out of reach.
        ExportError: the model cannot be traced.
    """
    recipe = session.recipe
    classifier = session.new_classifier().eval()
    graph = session.find_groups(classifier)
    cost = CostModel.of(classifier, session.example, graph.groups)
    budget = budget_macs(recipe.budget.macs, cost.total)
    check_budget(cost, budget, recipe.budget.align)
    if recipe.explainer.enabled:
        find_scales(classifier, session.example)
    trace(classifier, session.example)
    smallest = smallest_macs(cost, recipe.budget.align)
    session.progress.note(
        f"model: {as_macs(cost.total)} MACs, {len(graph.groups)} channel groups that can shrink, down to "
        f"{as_macs(smallest)}; the budget is {as_macs(budget)} ({as_percent(budget / cost.total, 1)})"
    )
