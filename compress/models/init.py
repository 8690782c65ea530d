"""How a network starts when it is trained from scratch."""

from __future__ import annotations

from torch import nn


def init_convolutions_(net: nn.Module) -> None:
    """Draw the convolutions of ``net`` from He's normal distribution (fan-out, ReLU); biases are zero."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
