"""Attributions that need no training: gradients, Grad-CAM, PruneGrad, and controls that know nothing of the network."""
