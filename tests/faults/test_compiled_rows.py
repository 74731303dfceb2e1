"""The model rows of the fault table through the front door: what `fxquant.compile` gives or refuses, end to end."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import ContractError, DeviceError, DtypeError, UnknownTargetError
from fxquant.numerics import sqnr_db
from fxquant.program import Stage
from support import shapes
from support.asserts import assert_same, untouched
from support.compiling import ENGINES, compile_model, compiled
from support.models import MODELS, TROUBLE

with torch_ao.quiet():
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping

DATA = torch.linspace(-3, 3, 64 * 8).reshape(64, 8)
PER_TENSOR = QConfig(
    activation=MinMaxObserver.with_args(dtype=torch.quint8, reduce_range=False),
    weight=MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric),
)


def built(model, policy="int8", **options):
    with untouched(model):
        return fxquant.compile(model, policy, **{"calibration_data": DATA, "target": "x86", **options})


def told(model):
    """(code, reason) of each notice but the one that names the engine."""
    return [(row.code, row.reason) for row in model.ledger.notices if row.code != "FXQ507"]


def test_row_8_each_call_of_a_shared_module_has_a_scale_of_its_own():
    model = compiled(TROUBLE["shared_linear"])
    first, second = (
        next(node for node in model.canonical.graph.nodes if node.op == "call_function" and node.args[0] is site).args[
            1
        ]
        for site in (node for node in model.canonical.graph.nodes if "linear" in str(node.target))
    )
    assert first > 20 * second, "the two ranges differ 25-fold"
    assert [code for code, _ in told(model)] == ["FXQ218"]


class Alias(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_row_9_a_rule_for_one_of_two_calls_gets_two_copies_and_the_report_says_which():
    mapping = QConfigMapping().set_global(PER_TENSOR)
    model = built(Alias().eval(), mapping.set_module_name_object_type_order("", nn.Linear, 1, None))
    assert [(row.site, row.effective) for row in model.ledger.layers if row.op == "Linear"] == [
        ("a", "int8"),
        ("a_1", "float32"),
    ]
    [(code, reason), (other, twice)] = told(model)
    assert code == "FXQ218" and "'a_2' at a_1" in reason
    assert other == "FXQ217" and "'a' holds int8 per tensor, 'a_2' holds float32" in twice


def test_row_9_a_rule_for_the_other_name_of_a_module_is_no_silent_loser():
    with pytest.raises(UnknownTargetError) as caught:
        built(Alias().eval(), QConfigMapping().set_module_name("a", PER_TENSOR).set_module_name("b", None))
    assert caught.value.code == "FXQ110" and "'b'" in caught.value.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_row_13_other_weights_are_cast_on_the_copy_and_told(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 2)).to(dtype).eval()
    made = built(model)
    [(code, reason)] = told(made)
    assert code == "FXQ221" and "'0.weight'" in reason and str(dtype).removeprefix("torch.") in reason
    for data in (DATA, DATA.to(dtype)):
        assert made(data).dtype is torch.float32
        assert sqnr_db(model(data.to(dtype)).double(), made(data).double()) > 30


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_row_13_strictly_other_weights_are_refused_and_the_hint_makes_a_copy(dtype):
    with pytest.raises(DtypeError) as caught:
        built(nn.Sequential(nn.Linear(8, 2)).to(dtype).eval(), strict=True)
    assert caught.value.code == "FXQ221" and "'0.weight'" in caught.value.message and str(dtype) in caught.value.message
    assert "copy.deepcopy(model).float()" in caught.value.hint


def test_row_14_a_meta_model_is_refused_before_tracing():
    with pytest.raises(DeviceError) as caught:
        built(nn.Sequential(nn.Linear(8, 2, device="meta")).eval())
    assert caught.value.code == "FXQ222" and "'0.weight' is on meta" in caught.value.message


def test_row_18_the_notice_about_an_outlier_offers_a_scale_per_channel():
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    model[0].weight.data[1] *= 1000
    [row] = [row for row in built(model).ledger.notices if row.code == "FXQ311"]
    assert "channel 1 of '0.weight'" in row.reason and "per channel" in row.hint


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("make", [nn.Sequential, nn.Identity])
def test_row_19_an_empty_model_compiles_to_nothing_quantized_and_says_so(make, policy):
    model = built(make().eval(), policy)
    assert model.stage is Stage.LOWERED and [code for code, _ in told(model)] == ["FXQ228"]
    assert {node.op for node in model.graph_module.graph.nodes} == {"placeholder", "output"}
    assert_same(model(DATA), DATA)


def test_row_20_a_model_without_parameters_compiles():
    model = built(nn.Sequential(nn.ReLU(), nn.Flatten()).eval())
    assert [code for code, _ in told(model)] == ["FXQ228"]
    step = 6 / 127  # the mapping of x86 has 7-bit activations
    torch.testing.assert_close(model(DATA), DATA.relu(), rtol=0, atol=step)


class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 4))

    def forward(self, x):
        return self.used(x)


def test_row_21_an_unused_submodule_is_left_out_and_is_not_called_uncalibrated():
    model = built(Spare().eval())
    [(code, reason)] = told(model)
    assert code == "FXQ227" and "'spare.0'" in reason
    assert not [key for key in model.state_dict() if "spare" in key]


class Pieces(nn.Module):
    """A nested output with None and a number in it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = self.fc(x)
        return {"logits": y, "rest": (None, [y.relu()], 3)}


def test_row_22_the_same_structure_comes_back():
    found = built(Pieces().eval())(DATA)
    assert list(found) == ["logits", "rest"]
    nothing, [active], three = found["rest"]
    assert nothing is None and three == 3
    assert_same(active, found["logits"].relu())


def test_row_25_an_unknown_op_has_a_row_that_says_why_it_is_float():
    model = built(shapes.Custom().eval(), calibration_data=DATA[:, :4])
    [row] = [row for row in model.ledger.layers if row.op == "Doubled"]
    assert (row.code, row.effective) == ("FXQ209", "float32") and "Doubled" in row.reason


@pytest.mark.parametrize("at", ["functionalize", "calibrate", "convert"])
def test_row_32_a_callback_that_changes_the_model_is_found_out(at):
    case = MODELS["mlp"]
    model = case.make()

    def meddle(record):
        if record.name == at:
            with torch.no_grad():
                next(model.parameters()).add_(1.0)

    with pytest.raises(ContractError) as caught:
        compile_model(model, "int8", case, observers=[meddle])
    assert caught.value.code == "FXQ405" and "changed while it was being compiled" in caught.value.message


@pytest.mark.parametrize("target", ENGINES)
def test_row_66_the_range_of_activations_is_recorded(target):
    model = compiled(MODELS["mlp"], target=target)
    [row] = [row for row in model.ledger.notices if row.code == "FXQ507"]
    assert ("7-bit" in row.reason) is (target in ("x86", "fbgemm")), row.reason
