"""CompiledModel: called like the model, honest about its state, and typed where it refuses."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import ArtifactError, ContractError, FxQuantError, LoweringError, NonFiniteError
from fxquant.html import page
from fxquant.ledger import Ledger
from fxquant.program import Stage
from fxquant.tails import tail_names
from support.asserts import assert_same, untouched
from support.compiling import compile_model, compiled
from support.models import MODELS, SIGNATURES

CASE = MODELS["mlp"]


@pytest.fixture(scope="module")
def model():
    return compiled(CASE)


@pytest.fixture
def calibrating():
    return fxquant.compile(CASE.make(), "int8", target="x86")


def test_it_says_what_it_is(model, calibrating):
    assert repr(model) == "CompiledModel(MLP, LOWERED, target='x86', 5 of 5 sites int8)"
    assert repr(calibrating) == "CompiledModel(MLP, CALIBRATING, target='x86', 0 of 5 sites int8)"
    assert str(model) == repr(model)


def test_calls_calibrate_until_convert(calibrating):
    float_model = CASE.make()
    for inputs in CASE.batches(3, 8):
        assert_same(calibrating(*inputs), float_model(*inputs).detach())
    before = calibrating.history
    assert calibrating.convert() is calibrating
    assert calibrating.stage is Stage.LOWERED and calibrating.history[: len(before)] == before
    ends = ["calibrate", "convert", *tail_names("x86")]
    assert [record.name for record in calibrating.history][-len(ends) :] == ends
    assert_same(
        calibrating(*CASE.inputs()),
        fxquant.compile(CASE.make(), "int8", calibration_data=CASE.batches(3, 8), target="x86")(*CASE.inputs()),
    )
    with pytest.raises(ContractError, match="LOWERED already"):
        calibrating.convert()


def test_convert_with_nothing_seen_is_refused(calibrating):
    with pytest.raises(FxQuantError) as caught:
        calibrating.convert()
    assert caught.value.code == "FXQ301" and "int8-dynamic" in caught.value.hint
    assert calibrating.stage is Stage.PREPARED


def test_a_deep_copy_stands_alone(model):
    other = copy.deepcopy(model)
    assert_same(other(*CASE.inputs()), model(*CASE.inputs()))
    assert other.ledger is not model.ledger and other.ledger.as_dicts() == model.ledger.as_dicts()
    assert repr(other) == repr(model)


def test_a_deep_copy_calibrates_on_its_own(calibrating):
    other = copy.deepcopy(calibrating)
    for inputs in CASE.batches(2, 8):
        calibrating(*inputs)
    calibrating.convert()
    assert all(row.effective == "int8" for row in calibrating.ledger.layers)
    assert other.stage is Stage.PREPARED and not any(row.effective == "int8" for row in other.ledger.layers)
    with pytest.raises(FxQuantError, match="nothing was seen"):
        other.convert()
    for inputs in CASE.batches(2, 8):
        other(*inputs)
    assert_same(other.convert()(*CASE.inputs()), calibrating(*CASE.inputs()))


@pytest.mark.parametrize("dump", [pickle.dumps, lambda model: torch.save(model, "/dev/null")])
def test_pickling_is_refused_with_a_way_out(model, dump):
    with pytest.raises(ArtifactError) as caught:
        dump(model)
    assert caught.value.code == "FXQ610" and "state_dict" in caught.value.hint


def test_what_changes_nothing_is_accepted(model):
    assert model.to("cpu") is model and model.eval() is model and model.float() is model and model.cpu() is model
    assert model.train(False) is model and model.training is False


@pytest.mark.parametrize(
    ("move", "named"),
    [
        (lambda model: model.half(), "torch.float16"),
        (lambda model: model.double(), "torch.float64"),
        (lambda model: model.to("meta"), "'meta'"),
    ],
)
def test_another_dtype_or_device_is_refused(model, move, named):
    with pytest.raises(LoweringError) as caught:
        move(model)
    assert caught.value.code == "FXQ503" and named in caught.value.message


def test_it_does_not_train_and_takes_no_state(model):
    with pytest.raises(ContractError, match="does not train"):
        model.train()
    with pytest.raises(ContractError, match="takes no state_dict"):
        model.load_state_dict(model.state_dict())


def test_the_state_is_plain_tensors(model):
    state = model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.int8, torch.float32, torch.int64}
    assert not any(tensor.is_quantized for tensor in state.values())
    floats = sum(parameter.numel() * 4 for parameter in CASE.make().parameters())
    assert model.size_bytes() < floats


def test_the_plan_the_history_and_the_graphs_are_there(model):
    assert [decision.module_name for decision in model.plan][:1] == [model.ledger.layers[0].module]
    assert [record.name for record in model.history] == [step.name for step in fxquant.default_pipeline()]
    assert model.target == "x86" and model.canonical is not model.graph_module
    assert all(left.after == right.before for left, right in zip(model.history, model.history[1:], strict=False))


def test_the_diff_is_exact(model):
    assert model.diff("lowered", "lowered").is_empty
    assert "linear_relu" in str(model.diff()) and not model.diff(Stage.CONVERTED).is_empty
    assert model.diff().counts["inserted"] > 0
    assert not model.diff("TRACED", Stage.PLANNED).is_empty  # the rewrites before prepare: linear + relu are one


def test_a_stage_that_is_none_or_not_reached_is_refused(model, calibrating):
    with pytest.raises(ContractError, match="no stage is called 'lowred'") as caught:
        model.diff("lowred")
    assert "'lowered'" in caught.value.hint and caught.value.code == "FXQ402"
    with pytest.raises(ContractError, match="it has not reached LOWERED"):
        calibrating.diff("traced", "lowered")
    with pytest.raises(ContractError, match="no canonical graph yet"):
        _ = calibrating.canonical


@pytest.mark.parametrize("name", SIGNATURES)
def test_it_has_the_models_own_signature_and_structure(name):
    case = SIGNATURES[name]
    model = case.make()
    ours = compile_model(model, "int8", case)
    args, kwargs = case.inputs(5), case.arguments(5)
    actual, expected = ours(*args, **kwargs), model(*args, **kwargs)
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x, *, twice=False):
        y = self.fc(x)
        return {"first": (y, [y + 1.0, None]), "rest": {"name": "nested", "n": 3}}


def test_nested_outputs_come_back_whole():
    model = fxquant.compile(Nested().eval(), "int8", calibration_data=torch.randn(8, 8), target="x86")
    result = model(torch.ones(2, 8))
    assert result["rest"] == {"name": "nested", "n": 3} and result["first"][1][1] is None
    assert result["first"][0].shape == (2, 8) and not result["first"][0].requires_grad


def test_an_input_that_the_engine_refuses_is_named_and_nothing_is_printed(model, capfd):
    for dtype in (torch.int64, torch.float16, torch.float64):
        with pytest.raises(LoweringError) as caught:
            model(torch.ones(2, 8, dtype=dtype))
        assert caught.value.code == "FXQ503" and str(dtype).removeprefix("torch.") in caught.value.message
    assert capfd.readouterr() == ("", "")


def test_guarded_inputs_refuse_nan():
    guarded = compiled(CASE, guard_inputs=True)
    bad = CASE.inputs()[0].clone()
    bad[0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    with pytest.raises(NonFiniteError) as caught:
        guarded(bad)
    assert caught.value.code == "FXQ302" and "'x' has 3 NaN or infinite of 16 values" in caught.value.message
    assert_same(guarded(*CASE.inputs()), compiled(CASE)(*CASE.inputs()))


# Tables -------------------------------------------------------------------------------------------------------------


def test_the_ledger_prints_as_an_aligned_table(model):
    lines = str(model.ledger).splitlines()
    assert lines[0].split() == ["layer", "op", "asked", "got", "why"]
    got = lines[0].index("got")
    assert {line[got : got + 4] for line in lines[1:6]} == {"int8"}
    assert lines[6].startswith("note: FXQ507") and not any(line != line.rstrip() for line in lines)


def test_an_empty_ledger_prints_its_heads():
    assert str(Ledger()) == "layer  op  asked  got  why"


def test_the_notebook_view_escapes_every_name(model):
    assert "<table>" in model._repr_html_() and model._repr_html_().count("<tr>") == 6
    ledger = Ledger()
    ledger.open("s", module="<script>alert(1)</script>", op='"&')
    ledger.notice("FXQ507", "<b>bold</b>")
    shown = page("<i>", ledger)
    assert "<script" not in shown and "<b>" not in shown and "<i>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_the_notebook_view_of_a_long_ledger_is_cut():
    ledger = Ledger()
    for index in range(205):
        ledger.open(f"s{index}", module="", op="add")
    assert "and 5 more layers" in page("x", ledger)


def test_the_float_model_is_left_alone_by_all_of_it():
    model = CASE.make()
    with untouched(model):
        ours = compile_model(model, "int8", CASE)
        copy.deepcopy(ours)(*CASE.inputs())
        str(ours.ledger), ours._repr_html_(), ours.diff(), ours.size_bytes()
