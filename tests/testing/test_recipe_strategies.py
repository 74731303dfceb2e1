"""recipes(): each is written and read again, each of a model compiles it, every kind occurs, and it shrinks to none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant.recipe import SCHEMES, Recipe, RecipeRule, dump, parse
from fxquant.testing import models, recipes


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.PReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


OF_NET = recipes(Net().eval())


@given(recipes() | OF_NET)
def test_what_is_written_is_read_again(recipe):
    text = dump(recipe)
    assert parse(text) == recipe and dump(parse(text)) == text


@given(st.data())
def test_every_recipe_of_a_model_compiles_it(data):
    model = data.draw(models(most_ops=5))
    recipe = data.draw(recipes(model))
    compiled = fxquant.compile(model, recipe, calibration_data=model.spec.batches())
    compiled(*model.spec.inputs())


@given(OF_NET)
def test_every_recipe_of_a_model_with_named_layers_compiles_it(recipe):
    fxquant.compile(Net().eval(), recipe, calibration_data=[torch.randn(8, 3)])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_is_drawn(scheme):
    assert find(recipes(), lambda recipe: any(rule.scheme == scheme for rule in recipe.rules))


KINDS = {
    "only a weight": lambda rule: rule.weight and not rule.activation,
    "only an activation": lambda rule: rule.activation and not rule.weight,
    "both": lambda rule: rule.weight and rule.activation,
    "a chain": lambda rule: isinstance(rule.scheme, tuple),
    "what is ignored": lambda rule: rule.ignore,
    "a regex": lambda rule: any(target.startswith("re:") for target in rule.targets),
    "a star": lambda rule: "*" in rule.targets,
    "quotes": lambda rule: any('"' in target for target in rule.targets),
    "no ASCII": lambda rule: not all(target.isascii() for target in rule.targets),
    "few bits": lambda rule: rule.weight and rule.weight.num_bits == 2,
    "another axis": lambda rule: rule.weight and rule.weight.axis == 1,
    "a histogram": lambda rule: rule.weight and rule.weight.observer == "histogram",
    "dynamic": lambda rule: rule.activation and rule.activation.dynamic,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rule_is_drawn(kind):
    assert find(recipes(), lambda recipe: any(KINDS[kind](rule) for rule in recipe.rules))


def test_what_is_an_error_is_drawn():
    assert find(recipes(), lambda recipe: recipe.strict.declined)
    assert find(OF_NET, lambda recipe: not recipe.strict.unmatched)


@pytest.mark.parametrize("is_float", [True, False])
def test_rules_for_activation_sites_are_drawn(is_float):
    assert find(recipes(), lambda recipe: any(said.keeps_float is is_float for said in recipe.activations))


def test_it_shrinks_to_the_empty_recipe():
    assert find(recipes(), lambda recipe: True) == find(OF_NET, lambda recipe: True) == Recipe()


def test_a_rule_shrinks_to_the_plainest():
    assert find(recipes(), lambda recipe: recipe.rules) == Recipe((RecipeRule(("*",), scheme="float"),))
