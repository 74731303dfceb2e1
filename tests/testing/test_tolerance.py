"""assert_within_tolerance(): each check holds and fails; a failure names the planted layer, its row, a remedy, the input."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.compiler import default_pipeline
from fxquant.errors import FxQuantError
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.recipe import parse
from fxquant.testing import ToleranceError, assert_within_tolerance
from fxquant.torch_ao import engine, quiet

LAYERS = ("first", "second", "head")
X = torch.linspace(-2, 2, 32).reshape(4, 8)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


class Cubed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.linalg.inv(self.fc(x).reshape(-1, 2, 2))


def data():
    torch.manual_seed(1)
    return [torch.randn(64, 8) for _ in range(2)]


MODEL = Net().eval()
COMPILED = fxquant.compile(MODEL, "int8", calibration_data=data())


def wrong(layer):
    """The float model with other weights in one layer: to the compiled one, that layer is wrong."""
    model = copy.deepcopy(MODEL)
    with torch.no_grad():
        model.get_submodule(layer).weight.mul_(-3)
    return model


def corrupted(layer):
    """A compiled model whose kernel of one layer has another bias than the canonical graph says."""
    made = fxquant.compile(Net().eval(), "int8", calibration_data=data(), target="fbgemm")
    weight, bias = getattr(made.graph_module, f"{layer}_weight_packed").unpack()
    with engine("fbgemm"), quiet():
        packed = torch.ops.quantized.linear_prepack(weight, bias + 0.7 * (-1.0) ** torch.arange(len(bias)))
    setattr(made.graph_module, f"{layer}_weight_packed", packed)
    return made


def failure(*args, **limits):
    with pytest.raises(ToleranceError) as failed:
        assert_within_tolerance(*args, **limits)
    return failed.value


def negative_error(expected):
    return lambda output: -float((output - expected).abs().max())


def test_what_holds_is_measured():
    found = assert_within_tolerance(COMPILED, MODEL, X, min_sqnr_db=20, metric=negative_error(MODEL(X)), max_drop=0.1)
    with torch.no_grad():
        error = float((COMPILED(X) - MODEL(X)).abs().max())
    assert found.largest_error == pytest.approx(error) and found.metric_drop == pytest.approx(error, rel=1e-5)
    assert 0 < found.share_of_bound <= 1 and found.sqnr_db > 20


def test_what_is_not_asked_for_is_not_told():
    found = assert_within_tolerance(COMPILED, MODEL, X, bound=False, min_sqnr_db=20)
    assert found.share_of_bound is None and found.metric_drop is None


@pytest.mark.parametrize("layer", LAYERS)
def test_the_bound_names_the_planted_layer(layer):
    error = failure(COMPILED, wrong(layer), X)
    assert error.check == "graph" and error.culprit.row.module == layer


@pytest.mark.parametrize("layer", LAYERS)
def test_sqnr_names_the_planted_layer(layer):
    error = failure(corrupted(layer), MODEL, X, bound=False, min_sqnr_db=25)
    assert error.check == "sqnr" and error.culprit.row.module == layer


@pytest.mark.parametrize("layer", LAYERS)
def test_a_metric_names_the_planted_layer(layer):
    error = failure(corrupted(layer), MODEL, X, bound=False, metric=negative_error(MODEL(X)), max_drop=0.1)
    assert error.check == "metric" and error.culprit.row.module == layer


@pytest.mark.parametrize("layer", LAYERS)
def test_codes_that_were_corrupted_are_found_in_their_layer(layer):
    made = fxquant.compile(Net().eval(), "int8", calibration_data=data(), passes=canonical())
    codes = dict(made.graph_module.named_buffers())[f"{layer}.weight"]
    codes.neg_()
    error = failure(made, MODEL, X)
    assert error.check == "graph" and error.culprit.row.module == layer


def canonical():
    return default_pipeline().without("lower-native")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_kernel_that_computes_something_else_than_the_canonical_graph_is_beyond_its_bound(layer):
    error = failure(corrupted(layer), MODEL, X)
    assert error.check == "bound" and error.culprit.row.module == layer
    assert "its bound is" in str(error)


def test_the_text_has_the_row_the_remedy_and_an_input_that_can_be_pasted():
    made = corrupted("second")
    error = failure(made, MODEL, X, bound=False, min_sqnr_db=25)
    row, text = made.ledger[error.culprit.row.site], str(error)
    assert f"asked: {row.requested} · got: {row.effective} · why: " in text and row.reason in text
    assert 'mapping.set_module_name("second", None)' in text and 'ignore = ["second"]' in text
    pasted = eval(re.search(r"^    x = (.*)$", text, re.MULTILINE)[1], {"torch": torch})
    assert torch.equal(pasted, X)


def per_tensor():
    activation = TensorAsk("quint8", observer="MinMaxObserver")
    weight = TensorAsk("qint8", is_symmetric=True, observer="MinMaxObserver")
    return torch_ao.make_qconfig(Ask(activation, weight))


def test_following_the_line_of_the_remedy_mends_it():
    model = Net().eval()
    with torch.no_grad():
        model.second.weight[:, 0] *= 3000  # with one step for all, the other weights round to zero
        model.first.weight[0], model.first.bias[0] = 0, 0  # and that input is always zero
    mapping = torch_ao.make_mapping(torch_ao.MappingLevels(per_tensor(), (), (), (), ()), "mapping")
    made = fxquant.compile(model, mapping, calibration_data=data())
    error = failure(made, model, X, bound=False, min_sqnr_db=20)
    assert error.culprit.row.module == "second"
    code, recipe = error.culprit.remedy.split("   or, in a recipe:   ")
    exec(code, {"mapping": mapping})
    mended = fxquant.compile(model, mapping, calibration_data=data())
    assert_within_tolerance(mended, model, X, bound=False, min_sqnr_db=20)
    text = (
        f'schema = 1\n{recipe}\n[[rule]]\ntargets = ["*"]\nweight = {{ granularity = "tensor" }}\nactivation = {{}}\n'
    )
    assert_within_tolerance(
        fxquant.compile(model, parse(text), calibration_data=data()), model, X, bound=False, min_sqnr_db=20
    )


def test_what_no_layer_explains_is_said():
    error = failure(COMPILED, MODEL, X, bound=False, min_sqnr_db=90)
    assert error.culprit is None and "what is lost is lost at the output" in str(error)


def test_an_output_without_a_bound_fails_alone_and_holds_beside_another_check():
    model = Cubed().eval()
    made = fxquant.compile(model, "int8", calibration_data=[torch.randn(64, 4)])
    x = torch.tensor([[3.0, -2.0, 1.0, 0.5]])
    error = failure(made, model, x)
    assert error.check == "bound" and "has no derived bound" in str(error) and "inv" in str(error)
    assert assert_within_tolerance(made, model, x, min_sqnr_db=-100).share_of_bound is not None


@pytest.mark.parametrize(
    "given", [X, (X,), [X], {"x": X}, ((X,), {}), ((), {"x": X})], ids=["tensor", "tuple", "list", "dict", "both", "keywords"]
)  # fmt: skip
def test_inputs_come_in_every_form_of_a_call(given):
    assert assert_within_tolerance(COMPILED, MODEL, given) == assert_within_tolerance(COMPILED, MODEL, X)


def test_other_inputs_are_refused():
    with pytest.raises(FxQuantError) as refused:
        assert_within_tolerance(COMPILED, MODEL, 3)
    assert refused.value.code == "FXQ107" and "inputs is int" in str(refused.value)


@pytest.mark.parametrize("found", [float("nan"), float("inf"), None, "0.9", True, torch.ones(2)], ids=repr)
def test_a_metric_that_is_no_number_is_refused(found):
    with pytest.raises(FxQuantError) as refused:
        assert_within_tolerance(COMPILED, MODEL, X, metric=lambda output: found)
    assert refused.value.code == "FXQ121"


def test_a_tensor_of_one_number_is_a_metric():
    assert assert_within_tolerance(COMPILED, MODEL, X, metric=lambda output: torch.tensor(1.0)).metric_drop == 0


class Counting(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return super().forward(x) + 0 * self.calls


@pytest.mark.parametrize("least", [10, 90], ids=["held", "failed"])
def test_models_are_left_as_they_were(least):
    model = Counting().eval()
    made = fxquant.compile(model, "int8", calibration_data=data())
    before = [{key: value.clone() for key, value in side.state_dict().items()} for side in (model, made)]
    x = X.clone()
    try:
        assert_within_tolerance(made, model, x, min_sqnr_db=least)
    except ToleranceError:
        assert least == 90
    after = [side.state_dict() for side in (model, made)]
    for old, new in zip(before, after, strict=True):
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert torch.equal(x, X) and not model.training
