"""Models that were written or marked for eager-mode quantization: stubs, FloatFunctional, fused units, `.qconfig`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import errors, torch_ao
from fxquant.numerics import sqnr_db
from support.asserts import untouched

with torch_ao.quiet():
    from torch.ao import quantization as ao
    from torch.ao.nn.quantized import FloatFunctional

PRESETS = ["int8", "int8-dynamic", "int8-weight-only"]


class Prepared(nn.Module):
    """As the eager-mode tutorial writes a residual block."""

    def __init__(self):
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.more = nn.Conv2d(8, 8, 3, padding=1)
        self.skip, self.scale, self.join = FloatFunctional(), FloatFunctional(), FloatFunctional()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.skip.add_relu(x, self.more(x))
        x = self.scale.mul_scalar(x, 0.5)
        pooled = self.join.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return self.dequant(self.head(pooled))


class Plain(Prepared):
    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        x = torch.relu(x + self.more(x))
        x = x * 0.5
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def images(count=16):
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def built(model, policy="int8", data=None):
    with untouched(model):
        return fxquant.compile(model, policy, calibration_data=images() if data is None else data, target="x86")


@pytest.mark.parametrize("policy", PRESETS)
def test_a_model_with_stubs_and_float_functionals_is_like_the_plain_one(policy):
    made = built(seeded(Prepared), policy)
    with torch.no_grad():
        assert sqnr_db(seeded(Prepared)(images()), made(images())) > 25
    assert made(images()).equal(built(seeded(Plain), policy)(images()))


def test_their_rows_say_who_places_what():
    rows = {row.module: row for row in built(seeded(Prepared)).ledger.layers if row.module}
    for name in ("quant", "dequant"):
        assert rows[name].effective == "removed" and "places quantize and dequantize itself" in rows[name].reason
    assert "places observers itself" in rows["skip.activation_post_process"].reason
    assert rows["conv"].effective == "int8"


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one = nn.Linear(8, 8), FloatFunctional()
        self.two, self.three, self.four = FloatFunctional(), FloatFunctional(), FloatFunctional()

    def forward(self, x):
        y = self.one.add(self.body(x), x)
        y = self.two.mul(y, torch.sigmoid(y))
        y = self.three.add_scalar(y, 1.0)
        return self.four.matmul(y, y.transpose(0, 1))


@pytest.mark.parametrize("policy", PRESETS)
def test_each_method_of_float_functional_becomes_the_plain_op(policy):
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
    made = built(seeded(Functions), policy, data=[x, x])
    assert {row.op for row in made.ledger.layers} >= {"add", "mul", "matmul"}
    with torch.no_grad():
        assert sqnr_db(seeded(Functions)(x), made(x)) > 25


def test_a_quant_wrapper_is_gone_through():
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(32, 8)
    made = built(ao.QuantWrapper(inner).eval(), data=x)
    assert [row.effective for row in made.ledger.layers if row.op == "Linear"] == ["int8", "int8"]
    assert made(x).equal(built(inner.eval(), data=x)(x))


def test_units_that_fuse_modules_made_are_taken_apart():
    model = seeded(Prepared)
    fused = ao.fuse_modules(model, [["conv", "bn", "relu"]])
    assert type(fused.conv).__name__ == "ConvReLU2d"
    made = built(fused)
    [row] = [row for row in made.ledger.layers if row.module == "conv.0"]
    assert row.effective == "int8" and "conv2d_relu" in row.reason
    with torch.no_grad():
        assert sqnr_db(model(images()), made(images())) > 25


def marked():
    model = seeded(Prepared)
    with torch_ao.quiet():
        model.qconfig = ao.get_default_qconfig("x86")
    model.head.qconfig = None
    return model


def test_marks_are_told_and_not_read():
    made = built(marked())
    [row] = [row for row in made.ledger.notices if row.code == "FXQ238"]
    assert "2 modules carry a .qconfig (first: the model itself)" in row.reason and "'head' had None" in row.reason
    assert row.hint == "mapping.set_module_name('head', None)"
    assert made(images()).equal(built(seeded(Prepared))(images()))


def test_the_hint_asks_for_the_same():
    with torch_ao.quiet():
        qconfig = ao.get_default_qconfig("x86")
    made = built(marked(), ao.QConfigMapping().set_global(qconfig).set_module_name("head", None))
    rows = {row.module: row.effective for row in made.ledger.layers if row.module}
    assert rows["head"] == "float32" and rows["more"] == "int8"


def test_an_attribute_of_that_name_that_means_something_else_stays():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.qconfig, self.maybe = nn.Linear(8, 4), {"gain": 2.0}, nn.Identity()
            self.maybe.qconfig = None

        def forward(self, x):
            return self.fc(x) * self.qconfig["gain"]

    x = torch.randn(16, 8)
    made = built(seeded(Own), data=x)
    assert sqnr_db(seeded(Own)(x), made(x)) > 25
    assert "FXQ238" not in [row.code for row in made.ledger.notices]


def test_what_eager_mode_prepared_or_converted_is_refused_as_before():
    with torch_ao.quiet():
        prepared = ao.prepare(marked())
        converted = ao.convert(prepared)
        for model in (prepared, converted):
            with pytest.raises(errors.AlreadyQuantizedError, match="FXQ230"):
                fxquant.compile(model, "int8", calibration_data=images(), target="x86")
