"""Budget files: what a model is held to, and the verdict on it."""

from slimsight.compress.amounts import Amount

from .judge import Comparison, check_report, judge
from .limit import Limit
from .schema import Budget, BudgetFile, load_budget
from .verdict import Judged, Judgement, TargetCosts, TargetFigures, TimedFigures

__all__ = [
    "Amount",
    "Budget",
    "BudgetFile",
    "Comparison",
    "Judged",
    "Judgement",
    "Limit",
    "TargetCosts",
    "TargetFigures",
    "TimedFigures",
    "check_report",
    "judge",
    "load_budget",
]
