"""Gates: what each channel is worth, and which channels a budget keeps."""

from .cost import CostModel
from .gate import Gates
from .layers import LayerShape, read_layers
from .learn import GateResult, learn_gates, residual_cost
from .rank import magnitude, uniform
from .select import Selection, budget_macs, check_budget, select, smallest_macs

__all__ = [
    "CostModel",
    "GateResult",
    "Gates",
    "LayerShape",
    "Selection",
    "budget_macs",
    "check_budget",
    "learn_gates",
    "magnitude",
    "read_layers",
    "residual_cost",
    "select",
    "smallest_macs",
    "uniform",
]
