"""Coupled channel groups, plans, and the removal of channels with its proof."""

from .graph import trace_groups
from .groups import ChannelGraph, ChannelGroup, FrozenGroup, Slot, View
from .mask import InputFactors, hard_factors, masked
from .plan import PrunePlan
from .proofs import ProofCache, proof_key
from .slim import slim_
from .training_only import freeze_training_only
from .verify import differences, gated_vs_slim, max_relative, prove_groups, shake_

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "FrozenGroup",
    "InputFactors",
    "ProofCache",
    "PrunePlan",
    "Slot",
    "View",
    "differences",
    "freeze_training_only",
    "gated_vs_slim",
    "hard_factors",
    "masked",
    "max_relative",
    "proof_key",
    "prove_groups",
    "shake_",
    "slim_",
    "trace_groups",
]
