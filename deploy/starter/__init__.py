"""A first recipe for a given model and images, from what both are; guesses are marked."""

from .images import ImageFacts, examine_images
from .model import ModelFacts, examine_model
from .text import Starter, to_recipe

__all__ = ["ImageFacts", "ModelFacts", "Starter", "examine_images", "examine_model", "to_recipe"]
