"""Static, dynamic, weight-only, float16 and float layers in one model, where raw FX goes wrong in each such mix."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.numerics import sqnr_db
from fxquant.presets import WEIGHT_PER_CHANNEL
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.recipe import Recipe, RecipeRule
from fxquant.tools.digits_models import Hybrid
from fxquant.torch_ao import engine, raw_mapping, raw_quantize, stock_qconfig

with torch_ao.quiet():
    from torch.ao.quantization import QConfig, default_per_channel_weight_observer

DYNAMIC = stock_qconfig("per_channel_dynamic_qconfig")
HALF = stock_qconfig("float16_dynamic_qconfig")
WEIGHTS = torch_ao.make_qconfig(Ask(TensorAsk(), WEIGHT_PER_CHANNEL))
NO_DTYPE = QConfig(
    activation=nn.Identity, weight=default_per_channel_weight_observer
)  # weight-only, as torch spells it


class Deep(Hybrid):
    """A CNN, an LSTM, and five Linear layers in a row."""

    def __init__(self):
        super().__init__(width=4)
        self.head = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)), nn.Linear(64, 10))


def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Deep().eval()


GENERATOR = torch.Generator().manual_seed(1)
BATCHES = [torch.rand(16, 1, 8, 8, generator=GENERATOR) for _ in range(3)]


def mapping(**changed):
    made = raw_mapping("x86").set_object_type(nn.LSTM, DYNAMIC)
    for name, qconfig in changed.items():
        made.set_module_name(name.replace("_", "."), qconfig)
    return made


def raw(**changed):
    with engine("x86"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch copies scales by torch.tensor(tensor)
        return raw_quantize(model(), mapping(**changed), (BATCHES[0],), [(batch,) for batch in BATCHES])


def ours(**changed):
    return fxquant.compile(model(), mapping(**changed), calibration_data=BATCHES, target="x86")


def got(compiled):
    return {row.module: row.effective for row in compiled.ledger.layers if row.op in ("Conv2d", "LSTM", "Linear")}


STATIC = {"cnn.0.0": "int8", "cnn.1.0": "int8", "rnn": "int8", **{f"head.{index}": "int8" for index in range(5)}}


def test_a_static_linear_behind_a_dynamic_one_runs_where_raw_fx_leaves_it_half():
    layer = raw(head_1=DYNAMIC).get_submodule("head.2")
    assert type(layer).__module__.startswith("torch.ao.nn.quantized.reference"), "asked static, computed in float32"
    compiled = ours(head_1=DYNAMIC)
    kernels = {row.module: row.reason for row in compiled.ledger.layers if row.op == "Linear"}
    assert kernels["head.1"] == "runs as quantized.linear_dynamic on x86"
    assert kernels["head.2"] == "runs as quantized.linear on x86"
    assert got(compiled) == STATIC and sqnr_db(model()(BATCHES[0]), compiled(BATCHES[0])) > 30


@pytest.mark.parametrize(
    ("qconfig", "error", "effective"),
    [
        pytest.param(HALF, NotImplementedError, ("float16 weights",), id="float16"),
        pytest.param(NO_DTYPE, AttributeError, ("int8", "int8 weights"), id="weight-only"),
    ],
)
def test_a_linear_of_another_mode_among_static_ones_compiles_where_raw_fx_crashes(qconfig, error, effective):
    with pytest.raises(error, match=r"linear_prepack|'Identity' object has no attribute 'dtype'"):
        raw(head_2=qconfig)
    compiled = ours(head_2=qconfig)
    found = got(compiled)
    assert found.pop("head.2") in effective and found == {n: k for n, k in STATIC.items() if n != "head.2"}
    assert sqnr_db(model()(BATCHES[0]), compiled(BATCHES[0])) > 30


def test_all_five_modes_in_one_model_and_the_file_of_it(tmp_path):
    compiled = ours(head_0=WEIGHTS, head_1=HALF, head_2=DYNAMIC, head_3=None)
    assert {decision.module_name: str(decision.mode) for decision in compiled.plan if decision.op in STATIC_OPS} == {
        "cnn.0.0": "static", "cnn.1.0": "static", "rnn": "dynamic", "head.0": "weight-only", "head.1": "float16",
        "head.2": "dynamic", "head.3": "float32", "head.4": "static",
    }  # fmt: skip
    assert got(compiled) == STATIC | {"head.0": "int8 weights", "head.1": "float16 weights", "head.3": "float32"}
    assert sqnr_db(model()(BATCHES[0]), compiled(BATCHES[0])) > 30
    loaded = fxquant.load(compiled.save(tmp_path / "deep.fxq.safetensors"))
    assert loaded(BATCHES[0]).equal(compiled(BATCHES[0]))


STATIC_OPS = ("Conv2d", "LSTM", "Linear")


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.functional.relu, torch.relu, lambda y: y.relu()])
def test_a_static_layer_before_a_float_relu_is_observed(relu):
    """torch's prepare has one pattern for both, and observes neither where the ReLU has no qconfig."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(8, 8), relu if isinstance(relu, nn.Module) else nn.Identity()

        def forward(self, x):
            return self.act(self.fc(x)) if isinstance(relu, nn.Module) else relu(self.fc(x))

    model, x = Pair().eval(), torch.randn(64, 8)
    rules = (RecipeRule(("Linear",), scheme="int8"),)
    compiled = fxquant.compile(model, Recipe(rules), calibration_data=x, target="x86", strict=True)
    assert {row.op.lower(): row.effective for row in compiled.ledger.layers if row.op != "Identity"} == {
        "linear": "int8",
        "relu": "float32",
    }
    assert sqnr_db(model(x), compiled(x)) > 30 and (compiled(x) >= 0).all()
