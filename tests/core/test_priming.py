"""Packed weights are prepared for the shapes that a compiled model is called with, and stay the same bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxquant
from fxquant.priming import ON_ONEDNN, TO_STAY, Priming, pack_anew, packed_names
from support.compiling import ENGINES


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    return fxquant.compile(net(), "int8", calibration_data=torch.rand(16, 3, 8, 8), target="x86")


def counted(monkeypatch):
    calls = []
    monkeypatch.setattr("fxquant.priming.pack_anew", lambda graph_module, engine: calls.append(engine))
    return calls


def test_calls_of_another_shape_pack_anew_once_they_have_come_to_stay(monkeypatch):
    calls, priming, module = counted(monkeypatch), Priming(), None
    one, many = (torch.zeros(1, 3),), (torch.zeros(8, 3),)
    for leaves in (one, one, many, one, *[many] * (TO_STAY - 1)):
        priming.follow(module, "x86", leaves)
    assert calls == []
    priming.follow(module, "x86", many)
    priming.follow(module, "x86", many)
    assert calls == ["x86"]


def test_other_shapes_by_turns_never_do(monkeypatch):
    calls, priming = counted(monkeypatch), Priming()
    for size in (1, *[2, 3] * TO_STAY):
        priming.follow(None, "x86", (torch.zeros(size, 3),))
    assert calls == []


def test_another_number_of_threads_counts_as_another_shape(monkeypatch):
    calls, priming, leaves = counted(monkeypatch), Priming(), (torch.zeros(1, 3),)
    priming.follow(None, "x86", leaves)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    for _ in range(TO_STAY):
        priming.follow(None, "x86", leaves)
    assert calls == ["x86"]


@pytest.mark.parametrize("target", ENGINES)
def test_weights_packed_anew_have_the_same_bits(target):
    torch.manual_seed(0)
    x, before = torch.rand(8, 3, 8, 8), torch.backends.quantized.engine
    graph_module = fxquant.compile(net(), "int8", calibration_data=x, target=target).graph_module
    names = packed_names(graph_module)
    old, expected = [getattr(graph_module, name) for name in names], graph_module(x)[0]
    assert len(names) == 2
    pack_anew(graph_module, target)
    is_new = [getattr(graph_module, name) is not packed for name, packed in zip(names, old, strict=True)]
    assert is_new == [target in ON_ONEDNN] * 2
    assert graph_module(x)[0].equal(expected) and torch.backends.quantized.engine == before


def test_a_model_gives_the_same_bits_whatever_shapes_it_saw_before(compiled):
    x = torch.rand(2, 3, 8, 8)
    fresh, used = copy.deepcopy(compiled), copy.deepcopy(compiled)
    for size in (5, *[1] * (TO_STAY + 1), 7):
        used(torch.rand(size, 3, 8, 8))
    assert used(x).equal(fresh(x))
