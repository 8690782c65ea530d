"""A first recipe for somebody's model and images, after a look at both; what is guessed is said."""

from .images import ImagesSeen, look_at_images
from .model import ModelSeen, look_at_model
from .text import Starter, to_recipe

__all__ = ["ImagesSeen", "ModelSeen", "Starter", "look_at_images", "look_at_model", "to_recipe"]
