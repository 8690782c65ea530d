"""Dynamic channel routing (DRIB): each image computes only the channels that it needs."""

from .bottleneck import RouteEvidence, VerificationEvidence, verify_routes
from .cost import Usage, check_reachable, harden_, macs_per_image, measure_usage, routed_cost
from .learn import LearnedRouting, learn_routing
from .routing import DynamicClassifier, Route, Router, find_routes, head_name

__all__ = [
    "DynamicClassifier",
    "LearnedRouting",
    "Route",
    "RouteEvidence",
    "Router",
    "Usage",
    "VerificationEvidence",
    "check_reachable",
    "find_routes",
    "harden_",
    "head_name",
    "learn_routing",
    "macs_per_image",
    "measure_usage",
    "routed_cost",
    "verify_routes",
]
