"""Every code of evaluations and comparisons: the exact text that a user reads, one golden file each.

`FXQUANT_REGENERATE=1 python -m pytest tests/comparing/test_error_texts.py` writes them anew; read each line then.
"""

from __future__ import annotations

import math
import os
from itertools import repeat
from pathlib import Path

import pytest
import torch

import fxquant
from fxquant.errors import FxQuantError
from support.comparing import classifier, compared, labelled, rows

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _evaluated(metric, data=None):
    return fxquant.evaluate(classifier(), labelled() if data is None else data, metric)


def _shrug(outputs, labels):
    return None


def _nan(outputs, labels):
    return math.nan


def _each(outputs, labels):
    return outputs


def _divides(outputs, labels):
    return 1 / 0


SCENARIOS = {
    "FXQ136": lambda: compared({}),
    "FXQ136-twice": lambda: compared([("a", "int8"), ("a", "int8")]),
    "FXQ136-name": lambda: compared({"": "int8"}),
    "FXQ136-float": lambda: compared({"float": torch.nn.Linear(4, 3).eval()}),
    "FXQ136-form": lambda: compared("int8"),
    "FXQ136-row": lambda: compared({"int8": "int8"})["int8"],
    "FXQ137": lambda: _evaluated("acuracy"),
    "FXQ137-labels": lambda: _evaluated("accuracy", rows()),
    "FXQ137-shapes": lambda: _evaluated("accuracy", [(rows(), torch.zeros(64))]),
    "FXQ137-reference": lambda: _evaluated("sqnr", rows()),
    "FXQ137-kind": lambda: _evaluated(0.5),
    "FXQ138": lambda: _evaluated(_nan),
    "FXQ138-none": lambda: _evaluated(_shrug),
    "FXQ138-several": lambda: _evaluated(_each),
    "FXQ139": lambda: _evaluated(_divides),
    "FXQ140": lambda: compared({"a": "int9", "b": torch.nn.Linear(5, 3).eval()}),
    "FXQ140-structure": lambda: compared({"wrong": torch.nn.Linear(4, 2).eval()}),
    "FXQ317": lambda: _evaluated("accuracy", []),
    "FXQ317-rows": lambda: _evaluated("accuracy", [rows(0)]),
    "FXQ401-evaluate": lambda: fxquant.evaluate(fxquant.compile(classifier(), "int8"), labelled()),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_is_the_golden_one(name):
    with pytest.raises(FxQuantError) as caught:
        SCENARIOS[name]()
    assert caught.value.code == name.split("-")[0]
    text = str(caught.value) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_text_of_each_notice():
    found = fxquant.compare(
        classifier().train(),
        {"int8": "int8"},
        repeat(labelled(size=8)[0]),
        lambda outputs, labels: 1.0,
        max_batches=1,
        batch_sizes=(16,),
        seconds=0.02,
    )
    assert [f"{row.code} {row.reason}" for row in found.notices] == [
        "FXQ141 the model is in training mode: a copy of it in eval mode was evaluated",
        "FXQ319 data was read up to max_batches=1; there may be more of it",
        "FXQ141 'metric' is taken to be better where it is higher",
        "FXQ318 8 of 8 test rows are rows that the model was calibrated on: the result flatters it",
        "FXQ141 the data has 8 rows: they are repeated for batches of 16",
    ]
