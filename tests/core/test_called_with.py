"""Example inputs that the model does not take: engines are made for rows of the calibration data then, and that is said."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import ExampleInputError
from fxquant.racing import VARIABLE
from support.engines import Interpreted, install

ROWS = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
UNFIT = {
    "more channels": (torch.zeros(2, 4, 6, 6), "to have 3 channels"),
    "no batch": (ROWS[0, 0], "Expected 3D"),
    "empty": (ROWS[:0], "'input' is empty, of shape [0, 3, 6, 6]"),
    "float64": (ROWS[:2].double(), "'input' is torch.float64, and torch.float32 in the calibration data"),
    "int64": (ROWS.long(), "'input' is torch.int64"),
    "complex": (ROWS.to(torch.complex64), "'input' is torch.complex64"),
    "sparse": (ROWS.to_sparse(), "sparse"),
    "nested": (None, "NestedTensor"),
}


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """An engine that runs anything, and what it was made for."""
    made: list[list[int]] = []

    def build(canonical: object, leaves: tuple[Tensor, ...], *, threads: int) -> Interpreted:
        made.append(list(leaves[0].shape))
        return Interpreted("openvino", canonical)

    monkeypatch.delenv(VARIABLE)
    install(monkeypatch, build)
    return made


def compiled(model: nn.Module | None = None, **options: object) -> fxquant.CompiledModel:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()) if model is None else model
    given = {"calibration_data": ROWS, "race_seconds": 0.01, "place": False, **options}
    return fxquant.compile(model.eval(), "int8", **given)


def told(model: fxquant.CompiledModel) -> list[str]:
    return [notice.reason for notice in model.ledger.notices if notice.code == "FXQ113"]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("example, why", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("target", ["auto", "openvino"])
def test_it_is_said_and_rows_stand_in(shapes, example, why, target):
    if example is None:
        example = torch.nested.nested_tensor([ROWS[0], ROWS[1]])
    model = compiled(example_inputs=(example,), target=target)
    (notice,) = told(model)
    assert why in notice and notice.endswith("; rows of the calibration data stand in for them")
    assert shapes == [list(ROWS.shape)] and model(ROWS).shape == (8, 2, 4, 4)


def test_with_strict_it_is_an_error(shapes):
    with pytest.raises(ExampleInputError) as caught:
        compiled(example_inputs=(torch.zeros(2, 4, 6, 6),), strict=True, target="openvino")
    assert caught.value.code == "FXQ113" and caught.value.hint and not shapes


@pytest.mark.parametrize("example", [ROWS[:1], torch.zeros(1, 3, 9, 7), ROWS.transpose(2, 3), ROWS * float("nan")])
def test_one_that_fits_is_what_the_engine_is_made_for(shapes, example):
    model = compiled(example_inputs=(example,), target="openvino")
    assert not told(model) and shapes == [list(example.shape)] and model.target == "openvino"


def test_an_example_of_a_model_that_was_cast_fits(shapes):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()).half()
    made = compiled(model, example_inputs=(ROWS[:1].half(),), calibration_data=ROWS.half(), target="openvino")
    assert not told(made) and shapes == [[1, 3, 6, 6]]


class Counts(nn.Module):
    """Keeps a count between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return self.fc(x) + self.steps


def test_the_look_at_it_changes_nothing(shapes):
    model = compiled(Counts(), example_inputs=(ROWS[:1],), target="openvino")
    assert [value.item() for name, value in model.state_dict().items() if "steps" in name] == [0.0]
