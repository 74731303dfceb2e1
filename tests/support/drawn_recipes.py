"""Drawn recipes: every field of every rule."""

from __future__ import annotations

from hypothesis import strategies as st

from fxquant.qconfigs import PRESETS
from fxquant.recipe import Activation, Recipe, RecipeRule, Strict, Weight

_NAMES = st.sampled_from(("Linear", "Conv2d", "add", "head", "layer1.0", "*", 're:layer[12]\\."x"', "re:.*", "größe🙂"))
_LISTS = st.lists(_NAMES, max_size=3).map(tuple)
_WEIGHTS = st.builds(
    Weight,
    dtype=st.sampled_from(("int8", "uint8", "float16")),
    symmetric=st.booleans(),
    axis=st.integers(-2, 3),
    num_bits=st.integers(2, 8),
)
_ACTIVATIONS = st.builds(
    Activation,
    dtype=st.sampled_from(("uint8", "int8", "float32")),
    observer=st.sampled_from(("histogram", "minmax", "moving-average")),
    dynamic=st.booleans(),
    reduce_range=st.booleans(),
    num_bits=st.integers(2, 8),
)
_RULES = st.builds(RecipeRule, _LISTS.filter(bool), _LISTS, st.sampled_from((*PRESETS, "float"))) | st.builds(
    RecipeRule, _LISTS.filter(bool), _LISTS, st.just(""), _WEIGHTS, st.none() | _ACTIVATIONS
)


def recipes() -> st.SearchStrategy[Recipe]:
    """Recipes that are right; whether a model has what they name is another matter."""
    return st.builds(
        Recipe, st.lists(_RULES, max_size=3).map(tuple), _LISTS, st.builds(Strict, st.booleans(), st.booleans())
    )
