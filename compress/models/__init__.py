"""Classifiers with built-in normalisation: our CIFAR networks, torchvision's, timm's and users' own files."""

from .build import build_classifier, build_with_backbone, classes_known
from .checks import check_logits, check_outputs
from .cifar import VGG16, MobileNetV2, ResNet
from .classifier import Classifier, Normalize, check_classifier
from .head import Backbone, UnknownHeadError, classes_of_weights, head_tensors
from .weights import load_weights, restore_
from .zoo import NETWORKS, build_net

__all__ = [
    "NETWORKS",
    "VGG16",
    "Backbone",
    "Classifier",
    "MobileNetV2",
    "Normalize",
    "ResNet",
    "UnknownHeadError",
    "build_classifier",
    "build_net",
    "build_with_backbone",
    "check_classifier",
    "check_logits",
    "check_outputs",
    "classes_known",
    "classes_of_weights",
    "head_tensors",
    "load_weights",
    "restore_",
]
