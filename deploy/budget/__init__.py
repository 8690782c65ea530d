"""Limits and verdicts: the rule by which a figure passes, a run's own checks, and budget files."""

from slimsight.compress.amounts import Amount

from .accuracy import AccuracyFacts
from .agreement import AgreementFacts
from .figures import TargetCosts, TargetFigures, TimedFigures
from .judge import Comparison, check_report, judge
from .limit import Limit
from .own_checks import run_checks
from .remedies import SlimmingFacts
from .schema import Budget, BudgetFile, load_budget
from .verdict import BudgetCheck, BudgetVerdict, allowed_amount, check_figure

__all__ = [
    "AccuracyFacts",
    "AgreementFacts",
    "Amount",
    "Budget",
    "BudgetCheck",
    "BudgetFile",
    "BudgetVerdict",
    "Comparison",
    "Limit",
    "SlimmingFacts",
    "TargetCosts",
    "TargetFigures",
    "TimedFigures",
    "allowed_amount",
    "check_figure",
    "check_report",
    "judge",
    "load_budget",
    "run_checks",
]
