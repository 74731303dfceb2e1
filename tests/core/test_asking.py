"""fxquant.qconfig and the same in a recipe: what is asked, and every number format that makes no sense, by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import FxQuantError, QConfigError
from fxquant.recipe import parse

with torch_ao.quiet():
    from torch.ao.quantization import QConfig, QConfigMapping


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": "int4"}, "weight-only int4 in groups of 32"),
        ({"weight": "int4", "group_size": 8, "weight_bits": 3}, "weight-only 3-bit int4 in groups of 8"),
        ({"weight": "int4", "activation": "uint8", "dynamic": True}, "dynamic quint8 × int4 in groups of 32"),
        ({"weight": "bfloat16"}, "bfloat16"),
        ({"weight": "float16"}, "float16"),
        ({"weight": "e3m2"}, "weight-only e3m2 per channel"),
        ({"weight": "float8_e4m3", "activation": "float8_e5m2"}, "static float8_e5m2 × float8_e4m3fn per channel"),
        ({"weight": "e4m3", "granularity": "tensor"}, "weight-only float8_e4m3fn per tensor"),
        ({"weight_bits": 4, "activation": "uint8", "activation_bits": 4}, "static 4-bit quint8 × 4-bit qint8 per channel"),
        ({"weight": "int8", "activation": "uint8", "observer": "minmax"}, "static quint8 × qint8 per channel"),
    ],
)  # fmt: skip
def test_it_asks_for_what_it_says(options, words):
    made = fxquant.qconfig(**options)
    assert isinstance(made, QConfig)
    assert torch_ao.read_qconfig(made, "a test").words() == words


WRONG = [
    ("int4", {"group_size": 0}, "group_size is 0, expected a whole number from 1 to 65536"),
    ("int4", {"group_size": -1}, "group_size is -1, expected a whole number from 1"),
    ("int4", {"group_size": 3.5}, "group_size is 3.5, expected a whole number"),
    ("int4", {"group_size": "32"}, "group_size is '32', expected a whole number"),
    ("int4", {"group_size": True}, "group_size is True, expected a whole number"),
    ("int4", {"group_size": 1 << 17}, "group_size is 131072, expected a whole number from 1 to 65536"),
    ("int8", {"group_size": 32}, "group_size is 32, expected none for int8: groups are for int4"),
    ("int4", {"weight_bits": 5}, "weight_bits is 5, expected a whole number from 2 to 4 for int4"),
    ("int4", {"granularity": "channel"}, "granularity is 'channel', expected none for int4"),
    ("int8", {"weight_bits": 1}, "weight_bits is 1, expected a whole number from 2 to 8"),
    ("int8", {"weight_bits": 9}, "weight_bits is 9, expected a whole number from 2 to 8"),
    (
        "int8",
        {"activation": "uint8", "activation_bits": 0},
        "activation_bits is 0, expected a whole number from 2 to 8",
    ),
    ("bfloat16", {"weight_bits": 4}, "weight_bits is 4, expected none for bfloat16"),
    ("e3m2", {"weight_bits": 4}, "weight_bits is 4, expected none for e3m2: its bits are in its name"),
    ("e3m2", {"symmetric": False}, "symmetric is False, expected none for e3m2"),
    ("e9m9", {}, "weight is 'e9m9', expected one of int8, uint8, int4"),
    ("e0m3", {}, "weight is 'e0m3', expected one of int8, uint8, int4"),
    ("e1m0", {}, "weight is 'e1m0', expected one of"),
    ("e8m8", {}, "weight is 'e8m8', expected one of"),
    ("e03m2", {}, "weight is 'e03m2', expected one of"),
    ("float7", {}, "weight is 'float7', expected one of int8"),
    (None, {}, None),
    (8, {}, "weight is 8, expected one of int8"),
    ("int8", {"activation": "e0m3"}, "activation is 'e0m3', expected one of uint8"),
    ("int8", {"activation": "int4"}, "activation is 'int4', expected one of uint8"),
    ("int8", {"activation": "e3m2", "reduce_range": True}, "reduce_range is True, expected none for e3m2"),
    ("int8", {"activation": "uint8", "activation_bits": 2, "reduce_range": True}, "3 or more with reduce_range"),
    ("int8", {"dynamic": True}, "dynamic is True, expected nothing where activation is None"),
    ("int8", {"activation": "uint8", "observer": "max"}, "observer is 'max', expected one of histogram"),
    ("int8", {"granularity": 3}, "granularity is 3, expected one of channel, tensor"),
]


@pytest.mark.parametrize(("weight", "options", "told"), [case for case in WRONG if case[2]])
def test_what_makes_no_sense_is_refused_by_name(weight, options, told):
    with pytest.raises(QConfigError) as caught:
        fxquant.qconfig(weight, **options)
    assert caught.value.code == "FXQ123"
    assert f"fxquant.qconfig: {told}" in str(caught.value) or told in str(caught.value)


def test_an_option_that_is_none_is_not_given():
    assert fxquant.qconfig("int4", group_size=None).weight == fxquant.qconfig("int4").weight
    assert torch_ao.read_qconfig(fxquant.qconfig(None), "a test").words() == "weight-only qint8 per channel"


RULE = 'schema = 1\n[[rule]]\ntargets = ["*"]\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('weight = { dtype = "int4", group_size = 0 }', "line 4: group_size is 0, expected a whole number from 1"),
        ('weight = { dtype = "int4", group_size = -1 }', "line 4: group_size is -1, expected a whole number from 1"),
        ('weight = { dtype = "int4", group_size = 3.5 }', "line 4: group_size is 3.5, expected a whole number"),
        ('weight = { dtype = "int4", group_size = "32" }', "line 4: group_size is '32', expected a whole number"),
        ('weight = { group_size = 32 }', "group_size is 32, expected none for int8: groups are for int4"),
        ('weight = { dtype = "int4", num_bits = 8 }', "num_bits is 8, expected a whole number from 2 to 4 for int4"),
        ('weight = { dtype = "int4", axis = 0 }', "axis is 0, expected none for int4"),
        ('weight = { dtype = "e9m9" }', "dtype is 'e9m9', expected one of int8"),
        ('weight = { dtype = "e0m3" }', "or e<x>m<y> with 1 to 8 bits of exponent"),
        ('weight = { dtype = "float7" }', "dtype is 'float7', expected one of int8"),
        ('weight = { dtype = "float16", num_bits = 4 }', "num_bits is 4, expected none for float16"),
        ('activation = { dtype = "e3m2", num_bits = 6 }', "num_bits is 6, expected none for e3m2"),
        ('activation = { num_bits = 2, reduce_range = true }', "3 or more with reduce_range"),
        ('activation = { num_bits = 9 }', "num_bits is 9, expected a whole number from 2 to 8"),
    ],
)  # fmt: skip
def test_the_same_in_a_recipe_is_told_with_its_line(text, told):
    with pytest.raises(FxQuantError, match="FXQ102") as caught:
        parse(f"{RULE}{text}\n")
    assert told in str(caught.value)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.act, self.head = nn.Linear(6, 5), nn.PReLU(), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.act(self.body(x)))


def test_a_layer_that_has_no_form_stays_float_and_says_which_have():
    mapping = QConfigMapping().set_global(fxquant.qconfig("int4", "uint8"))
    compiled = fxquant.compile(Net().eval(), mapping, calibration_data=[torch.rand(64, 6)])
    row = next(row for row in compiled.ledger.layers if row.op == "PReLU")
    assert (row.effective, row.code) == ("float32", "FXQ204")
    assert "'PReLU' has no form with int4 weights (those that have: Conv1d" in row.reason


def test_a_mode_that_no_layer_of_this_kind_has_is_an_error_where_it_is_meant_and_strict():
    mapping = QConfigMapping().set_object_type(nn.PReLU, fxquant.qconfig("int4"))
    with pytest.raises(FxQuantError, match="'PReLU' has no weight-only form") as caught:
        fxquant.compile(Net().eval(), mapping, example_inputs=(torch.rand(2, 6),), strict=True)
    assert caught.value.code == "FXQ501"


@pytest.mark.parametrize("name", ["int4-weight-only", "bfloat16", "float8"])
def test_a_preset_for_an_engine_that_is_none_is_refused(name):
    with pytest.raises(FxQuantError) as caught:
        fxquant.compile(Net().eval(), name, example_inputs=(torch.rand(2, 6),), target="cuda")
    assert caught.value.code == "FXQ109"
