"""A recipe is read, checked, written and read again; text that is none is said so with its place."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from fxquant import torch_ao
from fxquant.errors import FxQuantError
from fxquant.passes.select_qconfigs import sites_of
from fxquant.plan import Mode
from fxquant.policy import read_policy
from fxquant.qconfigs import PRESETS
from fxquant.recipe import MOST_BYTES, Activation, Recipe, RecipeRule, Strict, Weight, dump, parse
from fxquant.regexes import read_regex
from support.tracing import trace


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv2(self.conv1(x)) + x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Sequential(Block(), Block()), Block()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.layer2(self.layer1(x))).mean((2, 3)))


SITES = list(sites_of(trace(Net(), torch.ones(1, 3, 2, 2))[0]).values())

FULL = """
schema = 1
ignore = ["layer1.0.conv1"]

[[rule]]
targets = ["Linear"]
scheme = "int8-dynamic"

[[rule]]
targets = ["re:layer[12]\\\\.", "relu"]
ignore = ["layer2", "add"]
weight = { granularity = "tensor", num_bits = 4 }
activation = { reduce_range = true, observer = "minmax" }

[[rule]]
targets = ["*"]
scheme = "float"
"""


def decisions(text, target="x86"):
    policy = read_policy(parse(text), target=target)
    return {f"{site.module_name}:{site.op}": policy.decide(site) for site in SITES}


def test_the_first_rule_that_matches_decides_and_ignore_goes_first():
    found = decisions(FULL)
    assert found["layer1.0.conv1:Conv2d"].why == "kept float by ignore of the recipe"
    assert found["layer1.0.conv2:Conv2d"].requested == "static quint8 × 4-bit qint8 per tensor"
    assert found["layer1.0.conv2:Conv2d"].why == "rule 2 of the recipe"
    assert found["layer1.1:add"].why == "kept float by rule 3 of the recipe"
    assert found["layer2.conv1:Conv2d"].why == "kept float by rule 3 of the recipe"
    assert found[":relu"].mode is Mode.STATIC
    assert found["head:Linear"].mode is Mode.DYNAMIC
    assert found["head:Linear"].why == "rule 1 of the recipe, by rule 1, 'Linear' of preset 'int8-dynamic'"


def test_bits_and_reduced_range_become_the_observers_codes():
    qconfig = decisions(FULL)["layer1.0.conv2:Conv2d"].qconfig
    ask = torch_ao.read_qconfig(qconfig, "x")
    assert (ask.weight.quant_min, ask.weight.quant_max) == (-8, 7)
    assert (ask.activation.quant_min, ask.activation.quant_max) == (0, 127)
    assert ask.activation.observer == "MinMaxObserver"


def test_a_class_that_holds_others_stands_for_all_that_is_inside():
    found = decisions('schema = 1\n[[rule]]\ntargets = ["Block"]\nscheme = "int8"\n')
    assert found["layer1.0.conv1:Conv2d"].mode is Mode.STATIC
    assert found["layer2:add"].mode is Mode.STATIC
    assert found["head:Linear"].why == "no rule of the recipe matches 'Linear'"


def test_a_scheme_leaves_out_what_it_does_not_know_and_says_so():
    found = decisions('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = "int8-dynamic"\n')
    assert found["layer2.conv1:Conv2d"].why == "kept float by rule 1 of the recipe, whose scheme leaves it out"


@pytest.mark.parametrize(
    ("tables", "requested"),
    [
        ("weight = {}", "weight-only qint8 per channel"),
        ("activation = { dynamic = true }\nweight = {}", "dynamic quint8 × qint8 per channel"),
        ("activation = {}", "static quint8"),
        ('weight = { dtype = "float16" }', "float16"),
        ('weight = { observer = "histogram", granularity = "tensor" }', "weight-only qint8 per tensor"),
        ('weight = { observer = "moving-average" }\nactivation = {}', "static quint8 × qint8 per channel"),
    ],
)
def test_the_tables_ask_for_what_they_say(tables, requested):
    found = decisions(f'schema = 1\n[[rule]]\ntargets = ["Linear"]\n{tables}\n')
    assert found["head:Linear"].requested == requested


def test_unmatched_targets_are_notices_when_strict_says_so():
    text = 'schema = 1\n[strict]\nunmatched = false\n[[rule]]\ntargets = ["nope"]\nscheme = "int8"\n'
    policy = read_policy(parse(text), target="x86")
    assert policy.check_all_matched(SITES) == ("'nope' (rule 1 of the recipe) matches nothing",)


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("re:")
)
regexes = st.sampled_from(("re:layer[12]\\.", "re:.*\\.conv\\d", "re:"))
lists = st.lists(names | regexes | st.just("*"), max_size=3).map(tuple)
codes = st.sampled_from(("int8", "uint8"))
halves = st.sampled_from(("float16", "bfloat16", "float32"))
small_floats = st.sampled_from(("float8_e4m3", "float8_e5m2", "e3m2", "e1m5", "e8m7"))
granularities, axes = st.sampled_from(("tensor", "channel")), st.integers(-3, 9)
weights = (
    st.builds(
        Weight,
        dtype=codes,
        granularity=granularities,
        symmetric=st.booleans(),
        observer=st.sampled_from(("minmax", "moving-average")),
        axis=axes,
        num_bits=st.integers(2, 8),
    )
    | st.builds(Weight, dtype=halves | small_floats, granularity=granularities, axis=axes)
    | st.builds(
        Weight, dtype=st.just("int4"), group_size=st.integers(1, 99), num_bits=st.sampled_from((2, 3, 4, 8)),
        symmetric=st.booleans(),
    )
)  # fmt: skip
observers = st.sampled_from(("histogram", "minmax", "moving-average"))
activations = st.builds(
    Activation,
    dtype=codes,
    observer=observers,
    symmetric=st.booleans(),
    dynamic=st.booleans(),
    reduce_range=st.booleans(),
    num_bits=st.integers(3, 8),
) | st.builds(Activation, dtype=halves | small_floats, observer=observers, dynamic=st.booleans())
targets = lists.filter(bool)
rules = st.builds(RecipeRule, targets, lists, st.sampled_from((*PRESETS, "float"))) | st.builds(
    RecipeRule, targets, lists, st.just(""), weights, st.none() | activations
)
recipes = st.builds(
    Recipe, st.lists(rules, max_size=3).map(tuple), lists, st.builds(Strict, st.booleans(), st.booleans())
)


@settings(max_examples=150, deadline=None)
@given(recipes)
@example(Recipe((RecipeRule(('a"b\\', "\x7f\x00\n\r\t", "ü🙂"), scheme="int8"),)))
def test_a_recipe_survives_writing_and_reading(recipe):
    text = dump(recipe)
    assert parse(text) == recipe
    assert dump(parse(text)) == text


@settings(max_examples=80, deadline=None)
@given(recipes)
def test_every_recipe_becomes_a_policy_or_a_typed_error(recipe):
    try:
        policy = read_policy(recipe, target="onednn")
        assert all(policy.decide(site).why for site in SITES)
    except FxQuantError as error:
        assert error.code in {"FXQ101", "FXQ102"}


WORDS = (
    "schema = 1\n",
    "[[rule]]\n",
    "[rule]\n",
    "targets",
    "=",
    '["*"]\n',
    "scheme",
    '"int8"\n',
    "weight",
    "{",
    "}\n",
    "1",
)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
@example("a = " + "9" * 5000)
@example("a = " + "[" * 3000)
@example("schema = true")
@example("schema = 1e400")
@example("schema = 1979-05-27")
@example('schema = 1\n[rule]\n"" = 1')
@example("schema = 1\nstrict = 3")
@example("schema = 1\nrule = [[]]")
@example('schema = 1\n[[rule]]\ntargets = ["*"]\nscheme = {}')
def test_arbitrary_text_never_escapes_the_error_tree(text):
    try:
        read_policy(parse(text), target="x86")
    except FxQuantError as error:
        assert error.code in {"FXQ101", "FXQ102", "FXQ103", "FXQ104"}


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20) | st.text("ab.*+?()|[]{}^$\\d123,", max_size=14), st.text("ab.", max_size=300))
@example(".*a.*b.*c.*d.*e.*f", "a" * 256)
@example("(?:(?:a?){9}){9}b", "a" * 256)
@example("(a|a){20}b", "a" * 256)
@example("(?=(a+)+$)", "a" * 256)
@example("(a*)*\\1b", "a" * 256)
def test_no_regex_takes_long_or_escapes_the_error_tree(text, name):
    started = time.perf_counter()
    try:
        read_regex(text, "here").matches(name)
    except FxQuantError as error:
        assert error.code == "FXQ101"
    assert time.perf_counter() - started < 10.0


@pytest.mark.parametrize(
    "text", ["layer[12]\\.", ".*conv.*", "(encoder|decoder)\\.layers\\.\\d+\\..*", "^(?:a|b){1,3}$", "(?i)HEAD", "a??b"]
)
def test_everyday_regexes_are_taken(text):
    read_regex(text, "here").matches("encoder.layers.11.self_attn.out_proj")


def test_a_key_is_found_on_its_own_line_in_its_own_rule():
    good, bad = '[[rule]]\ntargets = ["a"]\nscheme = "int8"\n', '[[rule]]\n# scheem\ntargets = ["b"]\nscheem = "int8"\n'
    text = f"schema = 1\n{good}\n{bad}"
    with pytest.raises(FxQuantError, match=r"the recipe, line 9: unknown key 'scheem'") as caught:
        parse(text)
    assert "did you mean 'scheme'" in caught.value.hint


RULE = 'schema = 1\n[[rule]]\ntargets = ["*"]\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("schema = 1\n[[rule]]\nscheme = 'int8'\n", "targets"),
        ("schema = 1\n[[rule]]\ntargets = []\nscheme = 'int8'\n", 'a list of names, such as ["Linear", "layer1.0"]'),
        ("schema = 1\n[[rule]]\ntargets = ['']\nscheme = 'int8'\n", "a list of names, none of them empty"),
        ("schema = 1\nignore = 'head'\n", "a list of names, none of them empty"),
        (RULE + 'weight = { observer = "histogram", granularity = "channel" }\n', "minmax or moving-average for weights per channel"),
        (RULE + 'weight = { granularity = "channels" }\n', "one of channel, tensor"),
        (RULE + "weight = { num_bits = 9 }\n", "a whole number from 2 to 8"),
        (RULE + 'weight = { symmetric = "yes" }\n', "true or false"),
        (RULE + "weight = 3\n", "a table"),
        (RULE + 'scheme = "int8"\nweight = {}\n', "either scheme, or weight and activation"),
        (RULE, "either scheme, or weight and activation"),
    ],
)  # fmt: skip
def test_a_value_that_means_nothing_is_told_with_what_was_expected(text, told):
    with pytest.raises(FxQuantError) as caught:
        parse(text)
    assert caught.value.code == "FXQ102" and told in str(caught.value)


def test_a_recipe_of_a_size_that_nobody_writes_is_not_read():
    with pytest.raises(FxQuantError) as caught:
        parse("#" * (MOST_BYTES + 1))
    assert caught.value.code == "FXQ101" and f"{MOST_BYTES} are allowed" in str(caught.value)
