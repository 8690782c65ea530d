"""Budget files: what a model is held to, and the verdict on it."""

from slimsight.compress.amounts import Amount

from .judge import Against, check_report, judge
from .limit import Limit
from .schema import Budget, BudgetFile, load_budget
from .verdict import Costs, Figures, Judged, Judgement, Timed

__all__ = [
    "Against",
    "Amount",
    "Budget",
    "BudgetFile",
    "Costs",
    "Figures",
    "Judged",
    "Judgement",
    "Limit",
    "Timed",
    "check_report",
    "judge",
    "load_budget",
]
