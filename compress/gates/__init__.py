"""Gates: rank channels by learning, and select the channels that fit a budget."""

from .cost import CostModel, Resource
from .gate import Gates
from .layers import LayerShape, read_layers
from .learn import GateResult, learn_gates
from .needed import steps_needed
from .objective import residual_cost
from .rank import magnitude, uniform
from .select import (
    Selection,
    as_amount,
    check_budget,
    counted_limits,
    proxy_limits,
    read_budget,
    select,
    select_fast,
    smallest_amounts,
    smallest_macs,
)

__all__ = [
    "CostModel",
    "GateResult",
    "Gates",
    "LayerShape",
    "Resource",
    "Selection",
    "as_amount",
    "check_budget",
    "counted_limits",
    "learn_gates",
    "magnitude",
    "proxy_limits",
    "read_budget",
    "read_layers",
    "residual_cost",
    "select",
    "select_fast",
    "smallest_amounts",
    "smallest_macs",
    "steps_needed",
    "uniform",
]
