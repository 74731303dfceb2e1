"""Models in half, bfloat16 or float64, casts and autocast in forward(): cast on the copy, told, and the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import preflight
from fxquant.artifact import signatures
from fxquant.errors import DtypeError, FxQuantError, LoweringError, MutationError, NonFiniteError, SchemaError
from fxquant.numerics import sqnr_db
from support.asserts import untouched

DTYPES = [torch.float16, torch.bfloat16, torch.float64]
PRESETS = ["int8", "int8-dynamic", "int8-weight-only"]


def seeded(kind, *args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args).eval()


def rows(count=32, width=8, dtype=torch.float32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def built(model, policy="int8", data=None, **options):
    with untouched(model):
        data = rows() if data is None else data
        return fxquant.compile(model, policy, **{"calibration_data": data, "target": "x86", **options})


def notices(compiled):
    return {row.code: row.reason for row in compiled.ledger.notices if row.code != "FXQ507"}


class Casting(nn.Module):
    """Every way to say a dtype that code written for half precision uses."""

    def __init__(self, dtype):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(8, 16), nn.Linear(16, 16), nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)
        self.register_buffer("scale", torch.rand(16) + 0.5)
        self.wanted = dtype
        self.to(dtype)

    def forward(self, x):
        x = x.to(self.first.weight.dtype)
        y = torch.relu(self.first(x)).to(self.wanted)
        y = self.second(y) * self.scale.to(y.dtype) + torch.zeros(16, dtype=self.wanted)
        y = (self.norm(y).float() * 1.5).type_as(y)
        say = {torch.float16: y.half, torch.bfloat16: y.bfloat16, torch.float64: y.double}
        y = say.get(self.wanted, y.float)()
        return torch.softmax(self.head(y), -1, dtype=torch.float32).to(self.wanted)


@pytest.mark.parametrize("policy", PRESETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_casts_in_forward_mean_the_dtype_that_the_weights_have_now(dtype, policy):
    model = seeded(Casting, dtype)
    made = built(model, policy, [rows(dtype=dtype)])
    expected = model(rows(dtype=dtype))
    assert expected.dtype is dtype and made(rows(dtype=dtype)).dtype is torch.float32
    assert sqnr_db(expected, made(rows(dtype=dtype))) > 25
    assert made(rows(dtype=dtype)).equal(made(rows(dtype=dtype).float())), "both kinds of input are taken alike"
    [row] = [row for row in made.ledger.layers if row.op == str(dtype).split(".")[1].replace("float16", "half") or (
        row.op == "double" and dtype is torch.float64) or (row.op == "bfloat16" and dtype is torch.bfloat16)]  # fmt: skip
    assert row.effective == "removed" and "forward() says" in row.reason


def test_a_saved_model_takes_the_former_dtype_too(tmp_path):
    made = built(seeded(Casting, torch.float16), data=[rows(dtype=torch.float16)])
    loaded = fxquant.load(made.save(tmp_path / "half.fxq.safetensors"))
    assert loaded(rows(dtype=torch.float16)).equal(made(rows(dtype=torch.float16)))
    with pytest.raises(LoweringError, match="FXQ503"):
        loaded(rows(dtype=torch.float64))


def test_a_float32_model_takes_no_half_inputs():
    made = built(seeded(nn.Linear, 8, 4))
    with pytest.raises(LoweringError, match="FXQ503"):
        made(rows(dtype=torch.float16))


def test_mixed_dtypes_and_half_buffers_are_counted_by_dtype():
    model = seeded(nn.Sequential, nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    model[0].half()
    model[1].running_mean = model[1].running_mean.bfloat16()
    made = built(model)
    assert "3 parameters and buffers were cast" in notices(made)["FXQ221"]
    assert "1 bfloat16, 2 float16; first '0.weight'" in notices(made)["FXQ221"]
    whole = fxquant.compile(model.float(), "int8", calibration_data=rows(), target="x86")
    assert made(rows()).equal(whole(rows())), "the same as compiling a float32 copy"


class DoubleBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)
        self.register_buffer("shift", torch.linspace(0, 1, 8, dtype=torch.float64))

    def forward(self, x):
        return self.head((x.double() - self.shift).float())


def test_code_that_computes_in_float64_on_purpose_stays_as_it_is():
    model = seeded(DoubleBuffer)
    made = built(model)
    assert notices(made) == {} and made.state_dict()["shift"].dtype is torch.float64
    assert sqnr_db(model(rows()), made(rows())) > 25


def test_tied_and_viewed_weights_are_cast_once():
    model = seeded(nn.Sequential, nn.Linear(8, 8), nn.Linear(8, 8))
    model.half()
    model[1].weight = model[0].weight
    model[1].bias.data = model[0].bias.data  # two Parameters over one storage
    copied = preflight.fork(model)
    assert copied[0].weight is copied[1].weight and copied[0].weight.dtype is torch.float32
    assert copied[0].bias.data_ptr() == copied[1].bias.data_ptr()


def test_a_half_lstm_is_quantized():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    model = seeded(Net).bfloat16()
    x = rows(16, 40).reshape(16, 5, 8).bfloat16()
    made = built(model, "int8-dynamic", example_inputs=(x,), calibration_data=None)
    assert sqnr_db(model(x), made(x)) > 25


class WritesAfterCast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        h = self.fc(x)
        y = h.float()
        y.add_(1.0)
        return y + h


def test_a_write_to_what_the_cast_had_copied_is_refused_and_never_wrong():
    """In half `y` is a copy of `h`; in float32 they would be one tensor."""
    with pytest.raises(MutationError) as caught:
        built(seeded(WritesAfterCast).half(), data=rows(dtype=torch.float16))
    assert caught.value.code == "FXQ211" and "'float_1' may have copied" in caught.value.message
    assert built(seeded(WritesAfterCast)).stage.name == "LOWERED"


def test_strict_is_an_error_that_names_the_first():
    with pytest.raises(DtypeError) as caught:
        built(seeded(nn.Linear, 8, 4).half(), strict=True)
    assert caught.value.code == "FXQ221" and "'weight' is torch.float16, and 2" in caught.value.message


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_half_weight_that_overflowed_is_fxq302(value):
    model = seeded(nn.Linear, 8, 4).half()
    model.weight.data[1, 2] = value
    with pytest.raises(NonFiniteError, match="FXQ302 'weight' holds 1 of 32"):
        built(model)


def test_a_float64_weight_beyond_float32_is_fxq302():
    model = seeded(nn.Linear, 8, 4).double()
    model.weight.data[1, 2] = 1e300
    with pytest.raises(NonFiniteError, match="beyond float32's range"):
        built(model)


class Codes(nn.Module):
    """Integer weights in plain buffers, widened in forward: not quantized in torch's sense."""

    def __init__(self):
        super().__init__()
        self.register_buffer("codes", torch.randint(-127, 127, (4, 8), dtype=torch.int8))
        self.register_buffer("step", torch.tensor(0.01))

    def forward(self, x):
        return nn.functional.linear(x, self.codes.float() * self.step)


@pytest.mark.parametrize("policy", PRESETS)
def test_integer_weights_in_plain_buffers_stay_what_they_are(policy):
    model = seeded(Codes)
    made = built(model, policy)
    assert sqnr_db(model(rows()), made(rows())) > 25


def test_a_complex_weight_is_refused():
    with pytest.raises(DtypeError) as caught:
        built(seeded(lambda: nn.Linear(8, 4, dtype=torch.complex64)))
    assert caught.value.code == "FXQ221" and "complex model" in caught.value.hint


def test_a_model_that_was_compressed_and_trained_in_bfloat16_goes_on():
    model = seeded(Casting, torch.float32)
    trainable = fxquant.compress(model, [], example_inputs=(rows(),)).bfloat16()
    for came in (trainable, nn.DataParallel(trainable)):
        made = fxquant.compile(came, "int8", calibration_data=rows(dtype=torch.bfloat16), target="x86")
        assert "FXQ221" in notices(made) and sqnr_db(model(rows()), made(rows())) > 25
        assert made(rows(dtype=torch.bfloat16)).dtype is torch.float32
    assert next(trainable.parameters()).dtype is torch.bfloat16


def test_measuring_reporting_and_diffing_know_a_cast_model(tmp_path):
    model = nn.DataParallel(seeded(Casting, torch.float16)).eval()
    made = built(model)
    assert min(layer.own_sqnr_db for layer in fxquant.measure(made).layers) > 25
    assert "FXQ221" in made.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert made.diff("traced", "lowered").counts["unchanged"] > 0


def test_inference_mode_around_compile_changes_nothing():
    model = seeded(Casting, torch.float16)
    with torch.inference_mode():
        made = fxquant.compile(model, "int8", calibration_data=rows(), target="x86")
        inside = made(rows())
    assert inside.equal(built(model)(rows()))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        y = self.fc(x.half())
        return y if y.sum() > 0 else -y


def test_a_half_model_that_cannot_be_traced_is_told_its_line_and_not_about_dtypes():
    with pytest.raises(FxQuantError, match=r"FXQ210.*(?s:.)*if y.sum"):
        built(seeded(Branches).half())


def test_whatever_the_dtype_no_other_error_comes_out():
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.complex128):
        for policy in PRESETS:
            first, last = nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 2, dtype=dtype)
            try:
                built(seeded(nn.Sequential, first, nn.GELU(), last), policy)
            except FxQuantError as error:
                assert error.code == "FXQ221" and dtype.is_complex


@pytest.mark.parametrize("cast", [["int8"], "float16", [7], [["float16"]], [None]])
def test_a_file_that_casts_inputs_of_no_such_dtype_is_refused(cast):
    signature = signatures.encode(built(seeded(Casting, torch.float16)).program.signature)
    assert signatures.decode(signature, None).cast == (torch.float16,)
    with pytest.raises(SchemaError, match="FXQ604"):
        signatures.decode(signature | {"cast": cast}, None)


def test_a_model_that_was_not_cast_has_no_such_key_in_its_file():
    signature = signatures.encode(built(seeded(nn.Linear, 8, 4)).program.signature)
    assert "cast" not in signature and signatures.decode(signature, None).cast == ()
