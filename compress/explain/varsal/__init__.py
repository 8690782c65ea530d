"""VarSal: variational saliency maps, with an uncertainty per pixel, learned under a soft-TV prior."""

from .objective import VarSalObjective
from .prior import SoftTVPrior
from .topk import soft_top_k

__all__ = ["SoftTVPrior", "VarSalObjective", "soft_top_k"]
