"""VarSal: variational saliency maps with an uncertainty per pixel, learned under a soft-TV prior."""

from .explainer import Encoder, VarSal
from .head import SelectorMaps, VarSalHead
from .learn import MapQuality, judge_maps, refuse_flat, train_maps
from .objective import VarSalObjective, check_side
from .prior import SoftTVPrior
from .topk import soft_top_k

__all__ = [
    "Encoder",
    "MapQuality",
    "SelectorMaps",
    "SoftTVPrior",
    "VarSal",
    "VarSalHead",
    "VarSalObjective",
    "check_side",
    "judge_maps",
    "refuse_flat",
    "soft_top_k",
    "train_maps",
]
