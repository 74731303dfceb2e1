"""The guide's page for eager-mode users: its table is whole, and what we give is as near to float as what torch gives."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.numerics import sqnr_db
from fxquant.tools.digits_models import Cnn, Encoder, Recurrent

with torch_ao.quiet():
    from torch.ao import quantization as ao

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "from-eager-mode.md"
NAMES = (
    "quantize_dynamic", "prepare(", "convert(", "prepare_qat", "fuse_modules", "QuantStub", "FloatFunctional", ".qconfig",
    "head.qconfig = None", "backends.quantized.engine", "state_dict", "QuantWrapper", 'mode="qat"',
)  # fmt: skip


@pytest.mark.skipif(not PAGE.exists(), reason="the docs stand in the checkout, not by the wheel")
def test_the_table_has_a_row_for_each_call_of_eager_mode():
    rows = re.findall(r"^\| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    assert len(rows) >= 18 and all(left and right for left, right in rows)
    table = "\n".join(f"{left} {right}" for left, right in rows)
    assert [name for name in NAMES if name not in table] == []


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def spread(make):
    """Channels of different ranges, as training leaves them."""
    model = seeded(make)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight" in name:
                parameter.mul_(torch.linspace(0.2, 1.8, len(parameter)).view(-1, *[1] * (parameter.dim() - 1)))
    return model


def pictures(count=64):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "engine", [name for name in ("x86", "onednn") if name in torch.backends.quantized.supported_engines]
)
@pytest.mark.parametrize(
    "make", [Recurrent, lambda: Recurrent(nn.GRU), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]
)
def test_dynamic_is_as_near_as_quantize_dynamic(make, engine):
    model, x = spread(make), pictures()
    with torch_ao.quiet(), torch_ao.engine(engine), torch.no_grad():
        theirs = ao.quantize_dynamic(copy.deepcopy(model), {nn.Linear, nn.LSTM, nn.GRU})(x)
    ours = fxquant.compile(model, "int8-dynamic", example_inputs=(x,), target=engine)
    with torch.no_grad():
        assert sqnr_db(model(x), ours(x)) >= sqnr_db(model(x), theirs) - 0.1


def test_dynamic_takes_an_encoder_layer_whose_fast_path_eager_mode_breaks():
    """`quantize_dynamic` leaves its Linears without the weight that the fast path reads: AttributeError in torch 2.13."""
    model, x = seeded(Encoder), pictures()
    ours = fxquant.compile(model, "int8-dynamic", example_inputs=(x,), target="x86")
    with torch.no_grad():
        assert sqnr_db(model(x), ours(x)) > 30


class Stubbed(nn.Module):
    """The CNN as eager mode wants it."""

    def __init__(self, model):
        super().__init__()
        self.quant, self.dequant, self.skip = ao.QuantStub(), ao.DeQuantStub(), torch.ao.nn.quantized.FloatFunctional()
        self.model = model

    def forward(self, x):
        x = self.model.down(self.model.stem(self.quant(x)))
        x = self.skip.add_relu(self.model.branch(x), x)
        return self.dequant(self.model.head(x.mean((2, 3))))


def test_static_is_as_near_as_prepare_and_convert_and_takes_the_same_model():
    model, batches = seeded(Cnn), [pictures(), pictures().flip(0)]
    with torch_ao.quiet(), torch_ao.engine("x86"), torch.no_grad():
        eager = Stubbed(copy.deepcopy(model)).eval()
        names = [[f"model.{part}.0", f"model.{part}.1", f"model.{part}.2"] for part in ("stem", "down", "branch.0")]
        fused = ao.fuse_modules(eager, names)
        fused.qconfig = ao.get_default_qconfig("x86")
        ready = ao.prepare(fused)
        for batch in batches:
            ready(batch)
        theirs = ao.convert(ready)(batches[0])
    mapping = ao.QConfigMapping().set_global(ao.get_default_qconfig("x86"))
    for source in (model, Stubbed(copy.deepcopy(model)).eval()):
        ours = fxquant.compile(source, mapping, calibration_data=batches, target="x86")
        with torch.no_grad():
            assert sqnr_db(model(batches[0]), ours(batches[0])) >= sqnr_db(model(batches[0]), theirs) - 0.5


def test_float16_is_as_near_as_quantize_dynamic_with_that_dtype():
    model, x = seeded(Recurrent), pictures()
    with torch_ao.quiet(), torch_ao.engine("x86"), torch.no_grad():
        theirs = ao.quantize_dynamic(copy.deepcopy(model), {nn.Linear, nn.LSTM}, dtype=torch.float16)(x)
    ours = fxquant.compile(model, "float16", example_inputs=(x,), target="x86")
    with torch.no_grad():
        assert sqnr_db(model(x), ours(x)) >= sqnr_db(model(x), theirs) - 0.5
