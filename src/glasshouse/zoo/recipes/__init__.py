"""Recipes: how the models that come with glasshouse were trained, so that anyone can train them again."""

import fnmatch

from glasshouse.core.errors import not_found
from glasshouse.zoo.recipes import classifiers, gans, oracles
from glasshouse.zoo.registry import ModelCard, register
from glasshouse.zoo.shipping import Shipped
from glasshouse.zoo.training import Recipe

_RECIPES: dict[str, Recipe] = {}


def add_recipe(recipe: Recipe) -> Recipe:
    """Make a recipe known by its name, to `glasshouse train` and to `zoo.load`."""
    _RECIPES[recipe.name] = recipe
    card = ModelCard(
        preprocess=recipe.preprocess,
        weights=Shipped(recipe.name),
        licence=recipe.licence,
        source="trained by glasshouse",
        paper=recipe.paper,
    )
    register(recipe.name, card=card)(recipe.network)
    return recipe


def find_recipe(name: str) -> Recipe:
    """The recipe of that name."""
    if name not in _RECIPES:
        raise not_found("recipe", name, _RECIPES)
    return _RECIPES[name]


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of recipes that match a pattern such as `houses_*`."""
    return fnmatch.filter(_RECIPES, pattern)


for _recipe in (*classifiers.RECIPES, *oracles.RECIPES, *gans.RECIPES):
    add_recipe(_recipe)
