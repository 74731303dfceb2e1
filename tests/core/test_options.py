"""Nonsense in compile()'s arguments is FXQ111 with the argument's name, before any work is done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import UsageError
from support.asserts import untouched


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("passes", 5),
        ("passes", [None]),
        ("passes", [nn.ReLU()]),
        ("passes", fxquant.default_pipeline),
        ("passes", "calibrate"),
        ("leaf_modules", None),
        ("leaf_modules", nn.Conv2d),
        ("leaf_modules", [int]),
        ("leaf_modules", [nn.Linear(2, 2)]),
        ("skip_batchnorm", None),
        ("skip_batchnorm", "1"),
        ("skip_batchnorm", [nn.BatchNorm2d]),
        ("concrete_args", ["x"]),
        ("concrete_args", {5: 1}),
        ("custom_modules", 5),
        ("forward_fn", "x"),
        ("observers", 5),
        ("observers", [None]),
        ("strict", "yes"),
        ("race_seconds", "2"),
        ("race_seconds", -1),
        ("race_seconds", float("nan")),
        ("race_seconds", float("inf")),
        ("race_seconds", 1e308),
        ("race_seconds", 10**400),
        ("race_seconds", True),
        ("race_targets", "openvino"),
        ("race_targets", [None]),
        ("place", 1),  # it would be taken for neither True nor False
        ("place", torch.tensor(True)),
        ("place", torch.tensor([1, 2])),
        ("place", "yes"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(name: str, value: Any) -> None:
    model, data = nn.Sequential(nn.Linear(4, 4)).eval(), torch.rand(4, 4)
    with untouched(model), pytest.raises(UsageError) as caught:
        fxquant.compile(model, "int8", calibration_data=data, **{name: value})
    assert caught.value.code == "FXQ111"
    assert caught.value.message.startswith(f"{name}=")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target": "onednn", "race_targets": ["openvino"]}, "target='onednn' is named, and race_targets is"),
        ({"target": "onednn", "race_seconds": 0.5}, "target='onednn' is named, and race_seconds is"),
        ({"passes": fxquant.default_pipeline(), "race_targets": []}, "a pipeline of your own has one target"),
        ({"target": "onednn", "race_seconds": 0}, ""),  # no race is what it gets
    ],
)
def test_how_to_race_is_no_silent_wish_where_nothing_races(options: dict[str, Any], told: str) -> None:
    model, data = nn.Sequential(nn.Linear(4, 4)).eval(), torch.rand(4, 4)
    ledger = fxquant.compile(model, "int8", calibration_data=data, **options).ledger
    said = [notice.reason for notice in ledger.notices if notice.code == "FXQ513"]
    assert len(said) == bool(told) and all(told in text for text in said)
