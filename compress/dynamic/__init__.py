"""Dynamic reasoning (DRIB): every image computes the channels it needs."""

from .cost import Usage, macs_per_image, routed_cost, use
from .harden import check_reachable, harden_
from .learn import Learned, learn_routing
from .routing import DynamicClassifier, Route, Router, find_routes, head_name

__all__ = [
    "DynamicClassifier",
    "Learned",
    "Route",
    "Router",
    "Usage",
    "check_reachable",
    "find_routes",
    "harden_",
    "head_name",
    "learn_routing",
    "macs_per_image",
    "routed_cost",
    "use",
]
