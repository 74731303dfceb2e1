"""qconfig_mappings(): every draw compiles, its repr builds it again, every kind occurs, and it shrinks to nothing asked."""

from __future__ import annotations

import operator

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant import observers, torch_ao
from fxquant.plan import Mode
from fxquant.testing import models, qconfig_mappings
from fxquant.testing.layers import layers_of

with torch_ao.quiet():
    from torch.ao import quantization as ao

LEVELS = ("object_type", "module_name", "module_name_regex")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.PReLU())
        self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


def qconfigs(mapping):
    levels = torch_ao.read_mapping(mapping)
    entries = [levels.everything, *(qconfig for level in LEVELS for _, qconfig in getattr(levels, level))]
    return [qconfig for qconfig in entries if qconfig is not None]


def asks(mapping):
    return [torch_ao.read_qconfig(qconfig, "a test") for qconfig in qconfigs(mapping)]


def plain(mapping):
    """The mapping as data that can be compared."""
    levels = torch_ao.read_mapping(mapping)

    def ask(qconfig):
        return qconfig and torch_ao.read_qconfig(qconfig, "a test")

    return ask(levels.everything), [[(key, ask(q)) for key, q in getattr(levels, level)] for level in LEVELS]


@given(st.data())
def test_every_mapping_of_a_model_compiles_it(data):
    model = data.draw(models(most_ops=5))
    mapping = data.draw(qconfig_mappings(model))
    compiled = fxquant.compile(model, mapping, calibration_data=model.spec.batches())
    compiled(*model.spec.inputs())


@given(qconfig_mappings(Net().eval()) | qconfig_mappings())
def test_the_repr_builds_it_again(mapping):
    names = {**vars(ao), **vars(observers), "torch": torch, "nn": nn, "operator": operator}
    again = eval(repr(mapping), names)
    assert plain(again) == plain(mapping)


@given(qconfig_mappings(Net().eval()))
def test_names_are_those_of_modules_that_are_called(mapping):
    names = [name for name, _ in torch_ao.read_mapping(mapping).module_name]
    assert {*names} <= {"body", "body.0", "body.1", "head"}


@given(qconfig_mappings())
def test_without_a_model_nothing_is_asked_by_name(mapping):
    levels = torch_ao.read_mapping(mapping)
    assert levels.module_name == levels.module_name_regex == ()


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode is not Mode.FLOAT], ids=str)
def test_every_mode_is_drawn(mode):
    assert find(qconfig_mappings(), lambda mapping: any(ask.mode is mode for ask in asks(mapping)))


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_drawn_and_float_at_each(level):
    def has_float(mapping):
        return any(qconfig is None for _, qconfig in getattr(torch_ao.read_mapping(mapping), level))

    assert find(qconfig_mappings(Net().eval()), has_float)


@pytest.mark.parametrize("observer", ["MinMaxObserver", "MovingAverageMinMaxObserver", "HistogramObserver"])
def test_every_observer_of_activations_is_drawn(observer):
    found = find(qconfig_mappings(), lambda mapping: any(ask.activation.observer == observer for ask in asks(mapping)))
    assert observer in repr(found)


@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize(
    ("half", "granularity"), [("activation", "tensor"), ("weight", "tensor"), ("weight", "channel")]
)
def test_every_scheme_is_drawn(half, is_symmetric, granularity):
    def has(mapping):
        found = [getattr(ask, half) for ask in asks(mapping) if ask.mode is Mode.STATIC]
        return any(one.granularity == granularity and one.is_symmetric == is_symmetric for one in found)

    assert find(qconfig_mappings(), has)


def test_a_reduced_range_is_drawn():
    assert find(qconfig_mappings(), lambda mapping: any(ask.activation.quant_max == 127 for ask in asks(mapping)))


def test_it_shrinks_to_nothing_asked():
    assert repr(find(qconfig_mappings(Net().eval()), lambda mapping: True)) == "QConfigMapping()"


def test_what_must_be_asked_shrinks_to_that_alone():
    found = find(qconfig_mappings(Net().eval()), lambda mapping: any(ask.mode is Mode.DYNAMIC for ask in asks(mapping)))
    assert len(qconfigs(found)) == 1


def test_called_modules_are_found_once_each_and_say_whether_they_have_channels():
    found = [(layer.name, layer.kind.__name__, layer.has_channels) for layer in layers_of(Net())]
    assert found == [("body.0", "Linear", True), ("body.1", "PReLU", False), ("head", "Linear", True)]
