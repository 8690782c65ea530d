"""The recipe: the whole YAML of a run, composed of the sections that each package owns."""

from .recipe import Recipe as Recipe
from .recipe import dump_recipe as dump_recipe
from .recipe import load_recipe as load_recipe
