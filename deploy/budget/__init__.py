"""Budget files: what a model is held to, and the verdict on it."""

from slimsight.compress.amounts import Amount

from .figures import Costs, Figures, Timed
from .judge import Against, check_report, judge
from .limit import Limit
from .read import Budget, load_budget
from .schema import BudgetFile
from .verdict import Judged, Judgement

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
