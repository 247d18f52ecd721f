"""Recipes: functions that return a Run. `find_recipe("tabletop-nano")(data="my/data")`, or "my_file.py:function"."""

import functools
import importlib
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

from visuomotor.contract import Run
from visuomotor.plugins import is_reference, load
from visuomotor.recipes.overrides import override
from visuomotor.spelling import did_you_mean

__all__ = ["find_recipe", "list_recipes", "override"]

Recipe = Callable[..., Run]
RECIPES = {
    "tabletop-nano": ("visuomotor.recipes.tabletop", "tabletop_nano"),
    "tabletop-pretrain": ("visuomotor.recipes.tabletop", "tabletop_pretrain"),
    "metaworld-pairs": ("visuomotor.recipes.metaworld", "metaworld_pairs"),
    "cogact-nano": ("visuomotor.recipes.cogact", "cogact_nano"),
    "damvla-nano": ("visuomotor.recipes.damvla", "damvla_nano"),
    "pi0-nano": ("visuomotor.recipes.pi0", "pi0_nano"),
    "oft-nano": ("visuomotor.recipes.oft", "oft_nano"),
    "own-data": ("visuomotor.recipes.own_data", "own_data"),
    "dm0": ("visuomotor.recipes.dm0", "dm0"),
    "cogact": ("visuomotor.recipes.cogact", "cogact"),
    "dexvla-nano": ("visuomotor.recipes.dexvla", "dexvla_nano"),
    "dexvla-expert": ("visuomotor.recipes.dexvla_own", "dexvla_expert"),
    "dexvla": ("visuomotor.recipes.dexvla_own", "dexvla"),
    "finetune": ("visuomotor.recipes.finetune", "finetune"),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name, or of "FILE.py:function".

    The returned function refuses options that the recipe lacks, and results that are no Run, in a sentence.

    Raises:
        ValueError: there is no such recipe or function; says the nearest. FileNotFoundError: no such file.
    """
    if is_reference(name):
        return _checked(name, load(name, FunctionType, "a recipe"))
    module, function = RECIPES.get(name.replace("_", "-"), (None, ""))
    if module is None:
        known = ", ".join(RECIPES)
        raise ValueError(
            f"There is no recipe {name!r}.{did_you_mean(name, RECIPES)} Known: {known}, or FILE.py:function."
        )
    return _checked(name, getattr(importlib.import_module(module), function))


def list_recipes() -> dict[str, str]:
    """{name: first line of its docstring}."""
    return {name: (inspect.getdoc(find_recipe(name)) or "").partition("\n")[0] for name in RECIPES}


def _checked(name: str, recipe: Recipe) -> Recipe:
    @functools.wraps(recipe)
    def build(*args: Any, **options: Any) -> Run:
        signature = inspect.signature(recipe)
        try:
            signature.bind(*args, **options)
        except TypeError as error:
            raise ValueError(f"Recipe {name!r} cannot be called so: {error}. It takes {signature}.") from error
        run = recipe(*args, **options)
        if not isinstance(run, Run):
            raise ValueError(f"Recipe {name!r} returned {type(run).__name__}; it must return a visuomotor Run.")
        return run

    return build
