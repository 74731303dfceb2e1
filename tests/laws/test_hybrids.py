"""Laws of hybrids: whatever mode each layer is given, the model is near the float one, says so, and survives a file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxquant
from fxquant.numerics import sqnr_db
from fxquant.recipe import Recipe, RecipeRule
from fxquant.testing import recipes
from fxquant.tools.digits_models import Hybrid, Mlp
from support.asserts import untouched
from support.counting import counted
from support.drawn_models import drawn, engines
from support.scale import examples

FLOOR_DB = 25
SCHEMES = ("int8", "int8-dynamic", "int8-weight-only", "float16", "float")

# what a layer of a kind gets of each scheme, in their order
MODES = {
    "Conv2d": ("static", "float32", "weight-only", "float32", "float32"),
    "LSTM": ("dynamic", "dynamic", "float32", "float16", "float32"),
    "Linear": ("static", "dynamic", "weight-only", "float16", "float32"),
}
GOT = {  # a weight between codes that its neighbours have anyway runs on them
    "static": ("int8",), "dynamic": ("int8",), "weight-only": ("int8 weights", "int8"), "float16": ("float16 weights",),
    "float32": ("float32",),
}  # fmt: skip


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


MODELS = {
    "hybrid": (seeded(lambda: Hybrid(4)), ("cnn.0.0", "cnn.1.0", "rnn", "head.0", "head.2")),
    "mlp": (seeded(lambda: Mlp(16)), ("body.0", "body.3", "head")),
}
GENERATOR = torch.Generator().manual_seed(1)
BATCHES = [torch.rand(16, 1, 8, 8, generator=GENERATOR) for _ in range(2)]


def compiled_as(model, names, schemes, *, rest, target):
    """Each named layer by its own scheme, all other calls by `rest`."""
    rules = [RecipeRule((name,), scheme=scheme) for name, scheme in zip(names, schemes, strict=True)]
    recipe = Recipe((*rules, RecipeRule(("*",), scheme=rest)))
    return fxquant.compile(model, recipe, calibration_data=BATCHES, target=target)


@settings(max_examples=16, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", MODELS)
def test_any_assignment_of_modes_is_near_the_float_model_and_says_what_it_is(name, data):
    model, names = MODELS[name]
    schemes = data.draw(st.tuples(*(st.sampled_from(SCHEMES) for _ in names)))
    rest, target = data.draw(st.sampled_from(("int8", "float"))), data.draw(st.sampled_from(("x86", "onednn")))
    compiled = compiled_as(model, names, schemes, rest=rest, target=target)
    assert sqnr_db(model(BATCHES[0]), compiled(BATCHES[0])) > FLOOR_DB
    rows = {row.module: row for row in compiled.ledger.layers}
    for layer, scheme in zip(names, schemes, strict=True):
        mode = MODES[rows[layer].op][SCHEMES.index(scheme)]
        assert compiled.plan[rows[layer].site].mode == mode
        assert rows[layer].effective in GOT[mode], rows[layer]
        assert rows[layer].reason
    with tempfile.TemporaryDirectory() as folder:
        loaded = fxquant.load(compiled.save(Path(folder) / "hybrid.fxq.safetensors"))
    assert loaded(BATCHES[1]).equal(compiled(BATCHES[1]))


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.sampled_from(SCHEMES[:-1]), min_size=1, max_size=4, unique=True),
    st.booleans(),
    st.sampled_from(("x86", "onednn")),
)
def test_any_chain_gives_each_layer_its_first_link_that_runs(links, is_float_last, target):
    model, names = MODELS["hybrid"]
    chain = (*links, "float") if is_float_last else tuple(links)
    compiled = fxquant.compile(model, chain, calibration_data=BATCHES, target=target)
    rows = {row.module: row for row in compiled.ledger.layers}
    for layer in names:
        modes = [MODES[rows[layer].op][SCHEMES.index(link)] for link in links]
        wanted = next((mode for mode in modes if mode != "float32"), "float32")
        assert compiled.plan[rows[layer].site].mode == wanted
        assert rows[layer].effective in GOT[wanted]
    assert sqnr_db(model(BATCHES[0]), compiled(BATCHES[0])) > FLOOR_DB


def copied(args):
    """Drawn models may write to their arguments."""
    return tuple(argument.clone() for argument in args)


def tensors(result):
    return list(result) if isinstance(result, tuple) else [result]


CHAINS = ("hybrid", ("int8", "int8-dynamic", "float"), ("int8", "int8-weight-only"), "int8")


@examples(0.3)
@given(spec=drawn(), target=engines, chain=st.sampled_from(CHAINS), data=st.data())
def test_any_chain_and_any_activation_rules_on_any_model_give_one_that_runs_and_survives_a_file(
    spec, target, chain, data
):
    model = spec.build()
    sites = data.draw(recipes(model).filter(lambda recipe: recipe.activations), label="rules from").activations
    recipe = Recipe((RecipeRule(("*",), scheme=chain),), activations=tuple(replace(said, ignore=()) for said in sites))
    counted("drawn hybrid")
    with untouched(model):
        made = fxquant.compile(model, recipe, calibration_data=spec.batches(), target=target)
    with torch.no_grad():
        wanted = tensors(spec.build()(*copied(spec.inputs(7, 3))))
    found = tensors(made(*copied(spec.inputs(7, 3))))
    assert [value.shape for value in found] == [value.shape for value in wanted]
    assert all(bool(value.isfinite().all()) for value in found)
    assert [row.site for row in made.ledger.layers if not row.effective] == []
    with tempfile.TemporaryDirectory() as folder:
        loaded = fxquant.load(made.save(Path(folder) / "hybrid.fxq.safetensors"))
    again = tensors(loaded(*copied(spec.inputs(7, 3))))
    assert all(one.equal(other) for one, other in zip(found, again, strict=True))
