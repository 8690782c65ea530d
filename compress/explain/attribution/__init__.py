"""Attributions that need no training: gradients, Grad-CAM, PruneGrad, and controls that ignore the classifier."""
