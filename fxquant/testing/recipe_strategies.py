"""Strategies for recipes: rules by class, name, regex or `*`, schemes and tables; `parse(dump(recipe)) == recipe`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st
from torch import nn

from fxquant.activation_sites import ActivationRule
from fxquant.chains import END, LINKS
from fxquant.recipe import SCHEMES, Activation, Recipe, RecipeRule, Strict, Weight
from fxquant.testing.layers import Layer, layers_of

_OPS = ("Linear", "Conv2d", "ReLU", "Embedding", "LSTM", "add", "relu", "cat")
_NAMES = ("fc", "layer1.0", "encoder.layers.3.linear1", 'with "quotes"', "back\\slash", "ünicode", "tab\there")
_REGEXES = ("re:layer[12]\\.", "re:.*conv\\d$", "re:(fc|head)")
_MOST = 3  # rules, targets of one, names that are ignored


@st.composite
def recipes(draw: st.DrawFn, model: nn.Module | None = None) -> Recipe:
    """Recipes that `dump` writes and `parse` reads. Shrinks to `Recipe()`.

    Args:
        model: targets are drawn from its modules, and `fxquant.compile(model, recipe, ...)` takes each recipe; None:
            names that no model need have, weights with other axes, and `declined = true`.

    Raises:
        FxQuantError: the model cannot be traced.
    """
    layers = layers_of(model)
    targets = _targets(layers, is_free=model is None)
    rules = draw(st.lists(_rules(targets, layers, is_free=model is None), max_size=_MOST))
    ignore = draw(st.lists(targets, max_size=_MOST, unique=True))
    strict = Strict(draw(st.sampled_from((True, False))), draw(st.booleans()) if model is None else False)
    sites = [draw(_sites(targets))] if draw(st.sampled_from((False, True))) else []
    return Recipe(tuple(rules), tuple(ignore), strict, activations=tuple(sites))


def _targets(layers: Sequence[Layer], *, is_free: bool) -> st.SearchStrategy[str]:
    if is_free:
        free = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
        return st.sampled_from(("*", *_OPS, *_NAMES, *_REGEXES)) | free.filter(lambda text: not text.startswith("re:"))
    names = [name for layer in layers for name in layer.prefixes]
    forms = [f"re:{re.escape(layer.name)}$" for layer in layers]
    return st.sampled_from(tuple(dict.fromkeys(("*", *(layer.kind.__name__ for layer in layers), *names, *forms))))


@st.composite
def _sites(draw: st.DrawFn, targets: st.SearchStrategy[str]) -> ActivationRule:
    """A rule for single activation sites: float, or quantized otherwise."""
    wanted, site = (draw(targets),), draw(st.sampled_from(("output", "input")))
    if draw(st.booleans()):
        bits, observer = draw(st.integers(2, 8)), draw(st.sampled_from(("", "minmax", "moving-average", "histogram")))
        return ActivationRule(wanted, site, "", bits, observer, draw(st.sampled_from(("", "uint8", "int8"))))
    return ActivationRule(wanted, site, "float")


@st.composite
def _rules(draw: st.DrawFn, targets: st.SearchStrategy[str], layers: Sequence[Layer], *, is_free: bool) -> RecipeRule:
    wanted = tuple(draw(st.lists(targets, min_size=1, max_size=_MOST, unique=True)))
    ignore = tuple(draw(st.lists(targets, max_size=_MOST, unique=True)))
    if draw(st.booleans()):
        weight, activation = draw(_halves(has_channels=not _names_flat(wanted, layers), is_free=is_free))
        return RecipeRule(wanted, ignore, "", weight, activation)
    return RecipeRule(wanted, ignore, draw(st.sampled_from(SCHEMES[::-1]) | _chains()))


def _chains() -> st.SearchStrategy[tuple[str, ...]]:
    """Fallback chains, with "float" at the end or without."""
    links = st.lists(st.sampled_from([link for link in LINKS if link != END]), min_size=1, max_size=_MOST, unique=True)
    return st.builds(lambda some, end: (*some, *end), links, st.sampled_from(((), (END,))))


def _names_flat(targets: Sequence[str], layers: Sequence[Layer]) -> bool:
    """Is a layer meant whose weight has no channels? Asking it for them is an error, not a ledger row."""
    return any(not layer.has_channels and {layer.name, layer.kind.__name__} & {*targets} for layer in layers)


@st.composite
def _halves(draw: st.DrawFn, *, has_channels: bool, is_free: bool) -> tuple[Weight | None, Activation | None]:
    """One table or both."""
    is_both, is_weight = draw(st.booleans()), draw(st.booleans())
    weight = draw(_weights(has_channels=has_channels, is_free=is_free)) if is_both or is_weight else None
    return weight, draw(_activations()) if is_both or not is_weight else None


_CODES = ("int8", "uint8")
_WHOLE = ("float16", "bfloat16", "float32", "float8_e4m3", "e3m2")  # their bits are in their names


@st.composite
def _activations(draw: st.DrawFn) -> Activation:
    dtype = draw(st.sampled_from(("uint8", "int8", *_WHOLE)))
    observer, is_dynamic = draw(st.sampled_from(("minmax", "moving-average", "histogram"))), draw(st.booleans())
    if dtype not in _CODES:
        return Activation(dtype, observer, dynamic=is_dynamic)
    return Activation(
        dtype=dtype,
        observer=observer,
        symmetric=draw(st.booleans()),
        dynamic=is_dynamic,
        reduce_range=draw(st.booleans()),
        num_bits=draw(st.integers(3, 8)),  # reduce_range takes one off, and a grid has two bits at least
    )


@st.composite
def _weights(draw: st.DrawFn, *, has_channels: bool, is_free: bool) -> Weight:
    dtype = draw(st.sampled_from((*_CODES, *_WHOLE, "int4")))
    is_symmetric = draw(st.sampled_from((True, False)))
    if dtype == "int4":
        bits, size = draw(st.sampled_from((8, 2, 3, 4))), draw(st.integers(0, 40))
        return Weight(dtype, symmetric=is_symmetric, num_bits=bits, group_size=size)
    granularity = draw(st.sampled_from(("tensor", "channel") if has_channels else ("tensor",)))
    axis = draw(st.integers(0, 3)) if is_free else 0
    if dtype not in _CODES:
        return Weight(dtype, granularity, axis=axis)
    observers = ("minmax", "moving-average", *(("histogram",) if granularity == "tensor" else ()))
    return Weight(
        dtype=dtype,
        granularity=granularity,
        symmetric=is_symmetric,
        observer=draw(st.sampled_from(observers)),
        axis=axis,
        num_bits=draw(st.integers(2, 8)),
    )
