"""Classifiers with built-in normalisation: our CIFAR networks, torchvision's, timm's and users' own files."""

from .cifar import VGG16, MobileNetV2, ResNet
from .classifier import Classifier, Normalize, check_classifier, check_logits
from .weights import load_weights, restore_
from .zoo import NETWORKS, build_classifier, build_net

__all__ = [
    "NETWORKS",
    "VGG16",
    "Classifier",
    "MobileNetV2",
    "Normalize",
    "ResNet",
    "build_classifier",
    "build_net",
    "check_classifier",
    "check_logits",
    "load_weights",
    "restore_",
]
