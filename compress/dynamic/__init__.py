"""Dynamic reasoning (DRIB): every image computes the channels it needs."""

from .bottleneck import Evidence, RouteEvidence, verify_routes
from .cost import Usage, macs_per_image, routed_cost, use
from .harden import check_reachable, harden_
from .learn import Learned, learn_routing
from .routing import DynamicClassifier, Route, Router, find_routes, head_name

__all__ = [
    "DynamicClassifier",
    "Evidence",
    "Learned",
    "Route",
    "RouteEvidence",
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
    "verify_routes",
]
