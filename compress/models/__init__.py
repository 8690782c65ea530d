"""Classifiers: CIFAR networks of our own, torchvision's, and users' own files, with normalisation inside."""

from .check import check_classifier, check_logits
from .mobilenet import MobileNetV2
from .normalize import Classifier, Normalize
from .resnet import ResNet
from .vgg import VGG16
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
