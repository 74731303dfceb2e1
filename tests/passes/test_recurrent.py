"""Recurrent layers: a static request becomes dynamic and says so; the numbers are those of torch's own modules."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import fxquant
from fxquant import recurrent
from fxquant.errors import UntraceableError
from fxquant.passes.custom_modules import CustomModules
from fxquant.plan import Mode
from fxquant.program import Stage
from fxquant.structure import flatten
from fxquant.torch_ao import engine, quiet
from support.asserts import assert_same, untouched
from support.quantizing import call, planned, quantized, row_of, sqnr_db
from support.tracing import trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization as ao

STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 12, 16


class Whole(nn.Module):
    """Gives back everything that the layer returns."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, hx=None):
        return self.layer(x, hx) if hx is not None else self.layer(x)


def tensors(value: Any) -> list[torch.Tensor]:
    return flatten(value)[0]


def evaluated(model: nn.Module, *args: Any) -> Any:
    """The float model without gradients, which is another kernel than with."""
    with torch.no_grad():
        return model(*args)


def oracle(model: nn.Module, qconfig: Any, *args: Any) -> Any:
    """torch's own dynamic quantization, on the same engine."""
    kinds = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}
    with engine("x86"), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return ao.quantize_dynamic(model, dict.fromkeys(kinds, qconfig))(*args)


def initial(layer: nn.Module) -> Any:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    state = [0.5 * torch.randn(count, BATCH, HIDDEN) for _ in range(2)]
    return tuple(state) if isinstance(layer, nn.LSTM) else state[0]


OPTIONS = [
    {"num_layers": layers, "bidirectional": both, "batch_first": first, "bias": bias}
    for layers, both, first, bias in itertools.product((1, 2), (False, True), (False, True), (False, True))
]


@pytest.mark.parametrize("has_state", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_layer_equals_torchs_own_dynamic_one(kind, options, has_state):
    torch.manual_seed(0)
    model = Whole(kind(WIDTH, HIDDEN, dropout=0.1 if options["num_layers"] > 1 else 0.0, **options)).eval()
    shape = (BATCH, STEPS, WIDTH) if options["batch_first"] else (STEPS, BATCH, WIDTH)
    args = (torch.randn(shape), *((initial(model.layer),) if has_state else ()))
    with untouched(model):
        program, ledger = quantized(model, Mode.DYNAMIC, *args, qconfig=ao.default_dynamic_qconfig)
        found = call_on_x86(program, *args)
    assert row_of(ledger, "layer").effective == "int8"
    if options["bias"]:  # without one, torch's own module fails
        assert_same(found, oracle(model, ao.default_dynamic_qconfig, *args), atol=1e-5)
    for got, wanted in zip(tensors(found), tensors(model(*args)), strict=True):
        assert sqnr_db(got, wanted.detach()) > 30


def call_on_x86(program, *args):
    with engine("x86"), quiet():
        return call(program, *args)


CELLS = [
    (nn.LSTMCell, {}),
    (nn.GRUCell, {}),
    (nn.RNNCell, {"nonlinearity": "tanh"}),
    (nn.RNNCell, {"nonlinearity": "relu"}),
    (nn.GRUCell, {"bias": False}),
]


@pytest.mark.parametrize(("kind", "options"), CELLS)
@pytest.mark.parametrize("is_batched", [True, False])
def test_a_cell_runs_as_the_kernel(kind, options, is_batched):
    torch.manual_seed(0)
    model = Whole(kind(WIDTH, HIDDEN, **options)).eval()
    x = torch.randn(*((BATCH,) if is_batched else ()), WIDTH)
    state = torch.randn(*x.shape[:-1], HIDDEN)
    hx = (state, state) if kind is nn.LSTMCell else state
    program, ledger = quantized(model, Mode.DYNAMIC, x, hx, qconfig=ao.default_dynamic_qconfig)
    assert row_of(ledger, "layer").effective == "int8"
    found = call_on_x86(program, x, hx)
    if is_batched and options.get("bias") is not False:
        assert_same(found, oracle(model, ao.default_dynamic_qconfig, x, hx), atol=1e-5)
    for got, wanted in zip(tensors(found), tensors(model(x, hx)), strict=True):
        assert sqnr_db(got, wanted.detach()) > 30


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_weights_per_channel_are_closer_to_float_than_torchs_own(kind):
    torch.manual_seed(0)
    model = Whole(kind(WIDTH, HIDDEN)).eval()
    with torch.no_grad():  # one gate far larger than the others: what a single scale is bad at
        model.layer.weight_ih_l0[:HIDDEN] *= 12
    x = torch.randn(STEPS, BATCH, WIDTH)
    program, _ = quantized(model, Mode.DYNAMIC, x)
    expected = model(x)[0].detach()
    theirs = oracle(model, ao.default_dynamic_qconfig, x)[0]
    assert sqnr_db(call_on_x86(program, x)[0], expected) > sqnr_db(theirs, expected)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_static_request_becomes_dynamic_and_says_why(kind):
    torch.manual_seed(0)
    model = Whole(kind(WIDTH, HIDDEN)).eval()
    x = torch.randn(BATCH, WIDTH) if "Cell" in kind.__name__ else torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, Mode.STATIC, x)
    row = row_of(ledger, "layer")
    assert row.requested == "static everything"
    assert row.effective == "int8"
    assert f"the engines have no static {kind.__name__} kernel" in row.reason
    assert "quantized_" in row.reason
    assert all(sqnr_db(a, b.detach()) > 30 for a, b in zip(tensors(call(program, x)), tensors(model(x)), strict=True))


def test_unbatched_input():
    torch.manual_seed(0)
    model = Whole(nn.LSTM(WIDTH, HIDDEN, bidirectional=True, batch_first=True)).eval()
    x = torch.randn(STEPS, WIDTH)
    program, _ = quantized(model, Mode.DYNAMIC, x)
    found, expected = tensors(call(program, x)), tensors(model(x))
    assert [item.shape for item in found] == [item.shape for item in expected]
    assert all(sqnr_db(a, b.detach()) > 30 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell])
def test_float16_weights(kind):
    torch.manual_seed(0)
    model = Whole(kind(WIDTH, HIDDEN)).eval()
    x = torch.randn(BATCH, WIDTH) if kind is nn.LSTMCell else torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, Mode.FLOAT16, x)
    assert row_of(ledger, "layer").effective == "float16 weights"
    assert all(sqnr_db(a, b.detach()) > 60 for a, b in zip(tensors(call(program, x)), tensors(model(x)), strict=True))
    stored = [value.dtype for name, value in program.canonical.state_dict().items() if name.endswith("weight")]
    assert set(stored) == {torch.float16}


def test_float16_weights_are_widened_where_the_engine_has_no_kernel_for_them():
    model, x = Whole(nn.LSTM(WIDTH, HIDDEN)).eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, Mode.FLOAT16, x, target="qnnpack")
    row = row_of(ledger, "layer")
    assert (row.effective, row.reason) == (
        "float16 weights",
        "runs as torch's lstm_on_widened_weights on qnnpack",
    )
    assert sqnr_db(call(program, x)[0], evaluated(model, x)[0]) > 60


DECLINED = [
    (nn.LSTM(WIDTH, HIDDEN, proj_size=4), Mode.DYNAMIC, None, "proj_size=4"),
    (nn.GRU(WIDTH, HIDDEN), Mode.DYNAMIC, ao.QConfig(ao.default_dynamic_quant_observer, ao.default_observer), "quint8"),
    (nn.RNN(WIDTH, HIDDEN), Mode.DYNAMIC, None, "no engine has an int8 kernel for RNN"),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("layer", "mode", "qconfig", "told"), DECLINED, ids=["proj", "quint8", "rnn"])
def test_what_has_no_kernel_stays_float_with_its_code(layer, mode, qconfig, told):
    model, x = Whole(layer).eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, mode, x, qconfig=qconfig)
    row = row_of(ledger, "layer")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert told in row.reason
    assert_same(call(program, x), evaluated(model, x))


def test_a_float_decision_leaves_it_alone():
    model, x = Whole(nn.LSTM(WIDTH, HIDDEN)).eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, Mode.FLOAT, x)
    assert row_of(ledger, "layer").code == ""
    assert_same(call(program, x), evaluated(model, x))


def test_a_layer_among_static_ones_has_float_borders():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.lstm, self.last = (
                nn.Linear(8, WIDTH),
                nn.LSTM(WIDTH, HIDDEN, batch_first=True),
                nn.Linear(HIDDEN, 4),
            )

        def forward(self, x):
            x, (h, _) = self.lstm(self.first(x))
            return self.last(x), h

    torch.manual_seed(0)
    model, x = Tagger().eval(), torch.randn(BATCH, STEPS, 8)
    program, ledger = quantized(model, Mode.STATIC, x)
    assert [row_of(ledger, name).effective for name in ("first", "lstm", "last")] == ["int8"] * 3
    assert all(not row.code for row in ledger.layers if row.module)  # item access, which has none, stays float
    found = call(program, x)
    assert all(sqnr_db(a, b.detach()) > 28 for a, b in zip(tensors(found), tensors(model(x)), strict=True))


def test_the_canonical_graph_holds_plain_codes_once():
    model, x = Whole(nn.LSTM(WIDTH, HIDDEN)).eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, _ = quantized(model, Mode.DYNAMIC, x, until=Stage.CONVERTED)
    state = program.graph_module.state_dict()
    assert state["layer.ih_l0.weight"].dtype is torch.int8
    assert state["layer.hh_l0.weight_scale"].shape == (4 * HIDDEN,)
    assert not any(value.is_quantized for value in state.values())
    targets = [node.target for node in program.graph.nodes]
    assert recurrent.lstm in targets
    assert "layer" not in targets


@pytest.mark.parametrize(("layer", "function"), [(nn.LSTM, recurrent.lstm), (nn.GRU, recurrent.gru)])
def test_the_reference_without_quantization_is_torchs_float_layer(layer, function):
    torch.manual_seed(0)
    module = layer(WIDTH, HIDDEN, num_layers=2, bidirectional=True).double()
    x = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)
    names = [(f"l{i}{d}") for i in (0, 1) for d in ("", "_reverse")]
    weights = [
        getattr(module, f"{kind}_{half}_{n}") for n in names for kind in ("weight", "bias") for half in ("ih", "hh")
    ]
    output, h, *c = function(x, None, weights, 2, True, False, False, False)
    expected = module(x)
    assert_same(output, expected[0], atol=1e-12)
    assert_same((h, *c) if c else h, expected[1], atol=1e-12)


@pytest.mark.parametrize("name", ["x86", "fbgemm", "qnnpack"])
def test_parity_with_the_canonical_graph_on_each_engine(name):
    torch.manual_seed(0)
    model, x = Whole(nn.GRU(WIDTH, HIDDEN)).eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, ledger = quantized(model, Mode.DYNAMIC, x, target=name)
    assert row_of(ledger, "layer").effective == "int8", row_of(ledger, "layer").reason
    with engine(name), quiet(), torch.no_grad():
        expected = program.canonical(x)
        assert_same(tuple(program.graph_module(x)), tuple(expected), atol=1e-4)


def test_a_layer_called_twice_without_unshare():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(WIDTH, WIDTH)

        def forward(self, x):
            return self.gru(self.gru(x)[0])[0]

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(STEPS, BATCH, WIDTH)
    program, _ = quantized(model, Mode.DYNAMIC, x)
    assert sqnr_db(call(program, x), model(x).detach()) > 25


def test_parity_where_the_leading_sizes_of_input_and_state_are_equal_by_chance():
    torch.manual_seed(0)
    model = Whole(nn.LSTM(WIDTH, HIDDEN, num_layers=2, bidirectional=True)).eval()
    args = torch.randn(4, BATCH, WIDTH), initial(model.layer)
    program, ledger = quantized(model, Mode.DYNAMIC, *args)
    assert row_of(ledger, "layer").effective == "int8"
    for got, wanted in zip(tensors(call(program, *args)), tensors(evaluated(model, *args)), strict=True):
        assert sqnr_db(got, wanted) > 30


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(WIDTH, HIDDEN)

    def forward(self, packed):
        return self.layer(packed)[1][0]


def test_a_packed_sequence_cannot_be_traced_and_the_error_says_where():
    model = Packed().eval()
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, WIDTH), torch.randn(2, WIDTH)])
    with untouched(model), pytest.raises(UntraceableError) as caught:
        quantized(model, Mode.STATIC, packed)
    assert caught.value.code == "FXQ210"


def test_a_packed_sequence_from_another_capture_stays_float():
    program, ledger = trace(Packed(), torch.randn(STEPS, BATCH, WIDTH))
    program = planned(program, ledger, Mode.STATIC)
    node = next(node for node in program.graph.nodes if node.op == "call_module")
    node.args = ((node.args[0], node.args[0]),)
    CustomModules().run(program, ledger)
    row = row_of(ledger, "layer")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert "PackedSequence" in row.reason


@pytest.mark.parametrize(
    "target", [name for name in ("onednn", "qnnpack") if name in torch.backends.quantized.supported_engines]
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_pixels_that_lie_halfway_between_two_codes_are_no_reason_to_stay_float(kind, target):
    """k/16 with a range of [0, 1]: 8/16 is code 127.5, which each kernel rounds its own way, step after step."""
    torch.manual_seed(0)
    model = nn.Sequential(kind(8, 16, batch_first=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    x = torch.randint(0, 17, (64, 8, 8)).where(torch.rand(64, 8, 8) < 0.3, 8) / 16
    compiled = fxquant.compile(model, "int8-dynamic", example_inputs=(x,), target=target)
    assert [row.effective for row in compiled.ledger.layers] == ["int8"]
