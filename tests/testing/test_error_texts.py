"""The codes of the kit: the exact text that a user reads. `FXQUANT_REGENERATE=1` writes them anew; read each line then."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
import fxquant.testing
from fxquant.errors import FxQuantError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _without_hypothesis(patch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'hypothesis'", name="hypothesis")

    patch.setattr(fxquant.testing, "import_module", missing)
    fxquant.testing.__getattr__("models")


def _metric(patch):
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    made = fxquant.compile(model, "int8-weight-only", example_inputs=torch.ones(1, 2))
    fxquant.testing.assert_within_tolerance(made, model, torch.ones(1, 2), metric=lambda output: float("nan"))


def _uncalibrated(patch):
    def body(compiled, x):
        pass

    fxquant.testing.quantization_test(nn.Linear(2, 2).eval(), "int8", example_inputs=torch.ones(1, 2))(body)()


def _no_model(patch):
    def test_mine():
        pass

    fxquant.testing.quantization_test(nn.Linear(2, 2), "int8")(test_mine)


SCENARIOS = {
    "FXQ119": _without_hypothesis,
    "FXQ121": _metric,
    "FXQ122": lambda patch: fxquant.testing.quantization_test(nn.Linear(2, 2), "int8", bound=False),
    "FXQ122-body": _no_model,
    "FXQ122-data": _uncalibrated,
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_is_the_golden_one(name, monkeypatch):
    with pytest.raises(FxQuantError) as caught:
        SCENARIOS[name](monkeypatch)
    assert caught.value.code == name.split("-")[0]
    path, text = GOLDEN / f"{name}.txt", str(caught.value) + "\n"
    if os.environ.get("FXQUANT_REGENERATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_public_name_has_a_home_and_no_other_does():
    for name in fxquant.testing.__all__:
        home = importlib.import_module(fxquant.testing._HOMES[name])
        assert getattr(fxquant.testing, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="has no attribute 'modles'"):
        fxquant.testing.modles  # noqa: B018
