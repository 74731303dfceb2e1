"""Number formats end to end: what each kind of layer gets, what its row says, and that a saved model is the same."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import fxquant
from fxquant import float_formats, groups, qdq, torch_ao
from fxquant.passes import _native_formats
from fxquant.recipe import parse
from fxquant.targets import Isa, isa

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping, per_channel_dynamic_qconfig

TOKENS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(3, 4, 9, 9, generator=torch.Generator().manual_seed(1))
STEPS = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(2))


class Words(nn.Module):
    """A table, a recurrent layer over its rows, a Linear layer."""

    def __init__(self, kind=nn.LSTM, **options):
        super().__init__()
        self.table = nn.Embedding(20, 10)
        self.rnn = kind(10, 12, batch_first=True, **options)
        self.head = nn.Linear(12 * self.rnn(torch.zeros(1, 1, 10))[0].shape[-1] // 12, 5)

    def forward(self, ids):
        return self.head(self.rnn(self.table(ids))[0])


class Picture(nn.Module):
    """Convolutions, one of them transposed, and a Linear layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(6, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.relu(self.up(torch.relu(self.conv(x)))).mean((2, 3)))


class Cells(nn.Module):
    """One step of each cell."""

    def __init__(self):
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(6, 8), nn.GRUCell(8, 8), nn.RNNCell(8, 4)

    def forward(self, x):
        h, _ = self.lstm(x[:, 0])
        return self.rnn(self.gru(h))


class Bags(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(20, 9, mode="sum"), nn.Linear(9, 2)

    def forward(self, ids):
        return self.head(self.bag(ids))


def make(kind, *args, **options):
    torch.manual_seed(0)
    return kind(*args, **options).eval()


CASES = {
    "lstm": (lambda: make(Words), TOKENS),
    "gru": (lambda: make(Words, nn.GRU, num_layers=2, bidirectional=True), TOKENS),
    "lstm without biases": (lambda: make(Words, nn.LSTM, bias=False), TOKENS),
    "picture": (lambda: make(Picture), PICTURES),
    "cells": (lambda: make(Cells), STEPS),
    "bags": (lambda: make(Bags), TOKENS),
}
WEIGHTED = {"Linear", "Conv2d", "ConvTranspose2d", "Embedding", "EmbeddingBag", "LSTM", "GRU", "LSTMCell", "GRUCell", "RNNCell"}  # fmt: skip


def rows(compiled):
    return {row.module: row for row in compiled.ledger.layers if row.op in WEIGHTED}


def compiled_with(model, mapping, x, **options):
    return fxquant.compile(model, mapping, example_inputs=(x,), target="x86", **options)


def everywhere(**options):
    return QConfigMapping().set_global(fxquant.qconfig(**options))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("weight", "held", "least_db"),
    [("int4", "int4 weights", 12), ("bfloat16", "bfloat16 weights", 38), ("float16", "float16 weights", 60), ("float8_e4m3", "float8_e4m3fn weights", 22),
     ("e3m2", "e3m2 weights", 16), ("e5m8", "e5m8 weights", 45)],
)  # fmt: skip
def test_weights_alone_on_every_kind_of_layer(case, weight, held, least_db, tmp_path):
    model, x = CASES[case][0](), CASES[case][1]
    compiled = compiled_with(model, everywhere(weight=weight), x)
    expected = model(x).detach()
    for row in rows(compiled).values():
        if row.op != "EmbeddingBag" or not weight.endswith("float16"):
            assert (row.effective, row.code) == (held, ""), row
    assert fxquant.sqnr_db(expected, compiled(x)) > least_db
    loaded = fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))
    assert loaded(x).equal(compiled(x))
    assert [(row.effective, row.reason) for row in rows(loaded).values()] == [
        (row.effective, row.reason) for row in rows(compiled).values()
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", ["int4-weight-only", "bfloat16", "float8"])
def test_presets_save_and_load_bit_for_bit(case, preset, tmp_path):
    model, x = CASES[case][0](), CASES[case][1]
    compiled = compiled_with(model, preset, x, calibration_data=[x])
    assert fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))(x).equal(compiled(x))
    assert not [row for row in rows(compiled).values() if row.code == "FXQ204"]


def test_the_file_holds_two_codes_a_byte_and_half_precision_scales(tmp_path):
    model = nn.Sequential(nn.Linear(256, 256, bias=False)).eval()
    compiled = compiled_with(model, everywhere(weight="int4", group_size=64), torch.randn(2, 256))
    state = compiled.canonical.state_dict()
    assert {name: (value.dtype, tuple(value.shape)) for name, value in state.items()} == {
        "0.weight": (torch.uint8, (256, 128)),
        "0.weight_scale": (torch.float16, (256, 4)),
    }
    size = compiled.save(tmp_path / "m.fxq.safetensors").stat().st_size
    assert 256 * 256 // 2 + 256 * 4 * 2 <= size <= 256 * 256 // 2 + 256 * 4 * 2 + 6000


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [1, 7, 32, 1000])
def test_a_group_size_that_does_not_divide_the_width_leaves_a_shorter_last_group(group_size, symmetric):
    model, x = nn.Sequential(nn.Linear(50, 4)).eval(), torch.randn(8, 50)
    compiled = compiled_with(model, everywhere(weight="int4", group_size=group_size, symmetric=symmetric), x)
    made = groups.quantize_groups(model[0].weight, min(group_size, 50), symmetric=symmetric)
    weight = groups.dequantize_groups(made.packed, made.scale, made.zero_point, made.group_size, made.shape)
    assert torch.allclose(compiled(x), F.linear(x, weight, model[0].bias), atol=1e-6)
    assert compiled.canonical.state_dict()["0.weight_scale"].shape == (4, -(-50 // min(group_size, 50)))


# bfloat16 -------------------------------------------------------------------------------------------------------------


def test_bfloat16_is_computed_in_it_where_the_cpu_can_and_widened_elsewhere(monkeypatch):
    model, x = CASES["picture"][0](), PICTURES
    has_it = compiled_with(model, "bfloat16", x)
    monkeypatch.setattr(_native_formats, "isa", lambda: Isa("x86_64", True, True, True, amx=False, bf16=False))
    widened = compiled_with(model, "bfloat16", x)
    told = "x86 has no kernel for Linear on bfloat16 weights alone: the weight is widened ahead"
    assert rows(widened)["head"].reason == told
    assert rows(has_it)["head"].reason == ("runs as torch's linear_bf16 on x86" if isa().bf16 else told)
    assert fxquant.sqnr_db(model(x).detach(), widened(x)) > 45
    with torch.no_grad():
        exact = model[0] if isinstance(model, nn.Sequential) else model
        for parameter in exact.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.bfloat16())
    assert torch.allclose(exact(x), widened(x), atol=1e-6)


# Few bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("case", ["lstm", "picture"])
def test_weights_of_two_to_eight_bits_run_as_int8(case, bits):
    model, x = CASES[case][0](), CASES[case][1]
    mapping = everywhere(
        weight_bits=bits, granularity="tensor", activation="uint8", observer="minmax", reduce_range=True
    )
    compiled = compiled_with(model, mapping, x, calibration_data=[x])
    for row in rows(compiled).values():  # the kernel of this small transposed convolution fails its parity check
        assert row.effective == ("float32" if row.code == "FXQ505" else "int8"), row
        assert row.code != "FXQ505" or row.op == "ConvTranspose2d"
        assert row.op != "Embedding" or ("all 8 bits of them" in row.reason) == (bits < 7)
    state = compiled.canonical.state_dict()
    codes = [value for name, value in state.items() if value.dtype is torch.int8]
    assert codes and all(-(1 << bits - 1) <= int(code.min()) and int(code.max()) < 1 << bits - 1 for code in codes)


def activations(compiled):
    """The nodes that round activations in the canonical graph."""
    rounds = (qdq.quantize_per_tensor, float_formats.simulate_float)
    return [node for node in compiled.canonical.graph.nodes if node.target in rounds]


@pytest.mark.parametrize("bits", range(2, 7))
def test_activations_of_few_bits_are_simulated_and_the_row_says_why(bits, tmp_path):
    model, x = CASES["picture"][0](), PICTURES
    mapping = everywhere(granularity="tensor", activation="uint8", observer="minmax", activation_bits=bits)
    compiled = compiled_with(model, mapping, x, calibration_data=[x])
    for row in rows(compiled).values():
        assert (row.effective, row.code) == (f"simulated {bits}-bit quint8 × qint8", "FXQ508"), row
        assert row.reason == f"no engine runs {bits}-bit activations: computed on the canonical graph"
        assert row.requested.startswith(f"static {bits}-bit quint8 × qint8")
    assert {node.args[4] for node in activations(compiled)} == {(1 << bits) - 1}
    loaded = fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))
    assert loaded(x).equal(compiled(x)) and rows(loaded)["head"].code == "FXQ508"
    assert torch.equal(compiled.graph_module(x)[0], compiled.canonical(x)[0])


def test_more_bits_are_nearer_to_float():
    model, x = CASES["picture"][0](), PICTURES
    found = []
    for bits in (2, 3, 4, 5, 6, 8):
        mapping = everywhere(granularity="tensor", activation="uint8", observer="minmax", activation_bits=bits)
        found.append(fxquant.sqnr_db(model(x).detach(), compiled_with(model, mapping, x, calibration_data=[x])(x)))
    assert all(after > before for before, after in itertools.pairwise(found)) and found[-1] > found[0] + 20, found


@pytest.mark.parametrize("bits", range(2, 7))
def test_dynamic_activations_of_few_bits_are_no_longer_8_bits_in_silence(bits):
    model, x = nn.Sequential(nn.Linear(6, 5)).eval(), STEPS
    compiled = compiled_with(model, everywhere(activation="uint8", dynamic=True, activation_bits=bits), x)
    row = rows(compiled)["0"]
    assert (row.effective, row.code) == (f"simulated {bits}-bit quint8 × qint8", "FXQ508")
    scale, zero_point = qdq.choose_qparams(x, False, bits)
    seen = (torch.clamp(torch.round(x / scale) + zero_point, 0, (1 << bits) - 1) - zero_point) * scale
    assert torch.allclose(compiled(x), F.linear(seen, model[0].weight, model[0].bias), atol=0.02)


@pytest.mark.parametrize("activation", [{"activation_bits": 4}, {"activation": "e3m2"}])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_refuse_other_activations_than_8_bits_with_the_reason(kind, dynamic, activation):
    options = {"activation": "uint8", "dynamic": dynamic} | activation
    compiled = compiled_with(make(Words, kind), everywhere(**options), TOKENS, calibration_data=[TOKENS])
    row = rows(compiled)["rnn"]
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert f"the canonical {kind.__name__} quantizes activations to 8 bits, the qconfig asks for" in row.reason


# Small floats and groups under quantized activations ------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "weight"), [("float8_e5m2", "float8_e4m3"), ("e2m3", "int8"), ("e3m2", "int4")])
@pytest.mark.parametrize("dynamic", [True, False])
def test_activations_in_small_floats_are_on_their_grid(activation, weight, dynamic, tmp_path):
    model, x = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)).eval(), STEPS
    mapping = everywhere(weight=weight, activation=activation, dynamic=dynamic)
    compiled = compiled_with(model, mapping, x, calibration_data=[x])
    assert all(row.code == "FXQ508" for row in rows(compiled).values())
    assert all(row.effective.startswith(f"simulated {activation} × ") for row in rows(compiled).values())
    assert {node.target for node in activations(compiled)} == {float_formats.simulate_float}
    assert fxquant.load(compiled.save(tmp_path / "m.fxq.safetensors"))(x).equal(compiled(x))
    fmt, first = float_formats.read_format(activation), activations(compiled)[0]
    seen = float_formats.simulate_float(x, x.abs().amax() / fmt.largest, fmt.exponent_bits, fmt.mantissa_bits)
    if not dynamic:
        assert first.args[1] == pytest.approx(float(x.abs().amax()) / fmt.largest, rel=0.02)
    assert fxquant.sqnr_db(F.linear(seen, *model[0].parameters()), F.linear(x, *model[0].parameters())) > 10


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_weights_in_groups_under_8_bit_activations_are_simulated(kind, dynamic):
    model = make(Words, kind)
    compiled = compiled_with(model, everywhere(weight="int4", activation="uint8", dynamic=dynamic), TOKENS, calibration_data=[TOKENS])  # fmt: skip
    found = rows(compiled)
    assert (found["table"].effective, found["table"].code) == (
        ("float32", "FXQ204") if dynamic else ("int4 weights", "")
    )
    for name in ("rnn", "head"):
        assert (found[name].effective, found[name].code) == ("simulated quint8 × int4", "FXQ508")
        assert "no engine runs int4 weights with quantized activations" in found[name].reason
    assert fxquant.sqnr_db(model(TOKENS).detach(), compiled(TOKENS)) > 8


# By type, by name, by regex -------------------------------------------------------------------------------------------


class Two(nn.Module):
    """Two of each, so that a rule must tell them apart."""

    def __init__(self):
        super().__init__()
        self.table, self.other = nn.Embedding(20, 10), nn.Embedding(20, 10)
        self.lstm, self.gru = nn.LSTM(10, 8, batch_first=True), nn.GRU(10, 8, batch_first=True)
        self.head, self.tail = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, ids):
        return self.head(self.lstm(self.table(ids))[0]) + self.tail(self.gru(self.other(ids))[0])


DYNAMIC = 'activation = { dynamic = true }\nweight = {}\n'  # fmt: skip
ROWS = 'scheme = "int8-dynamic"\n'
BY = {
    "type": (lambda m, q: m.set_object_type(nn.Linear, q).set_object_type(nn.LSTM, q).set_object_type(nn.GRU, q), '["Linear", "LSTM", "GRU"]', {"head", "tail", "lstm", "gru"}),
    "name": (lambda m, q: m.set_module_name("head", q).set_module_name("gru", q), '["head", "gru"]', {"head", "gru"}),
    "regex": (lambda m, q: m.set_module_name_regex("(ta.l|lstm)$", q), "['re:(ta.l|lstm)$']", {"tail", "lstm"}),
}  # fmt: skip


@pytest.mark.parametrize("how", BY)
def test_dynamic_layers_are_chosen_by_type_name_and_regex(how):
    choose, targets, wanted = BY[how]
    model = make(Two)
    mapping = choose(QConfigMapping(), per_channel_dynamic_qconfig)
    recipe = parse(f"schema = 1\n[[rule]]\ntargets = {targets}\n{DYNAMIC}")
    for policy in (mapping, recipe):
        compiled = compiled_with(model, policy, TOKENS)
        assert {name for name, row in rows(compiled).items() if row.effective == "int8"} == wanted
        assert fxquant.sqnr_db(model(TOKENS).detach(), compiled(TOKENS)) > 25


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [('["Embedding"]', {"table", "other"}), ('["table"]', {"table"}), ("['re:o.h.r$']", {"other"})],
)
def test_tables_are_chosen_by_type_name_and_regex(targets, wanted):
    for scheme, held in (
        ("int8-dynamic", "int8"),
        ("int4-weight-only", "int4 weights"),
        ("bfloat16", "bfloat16 weights"),
    ):
        compiled = compiled_with(make(Two), parse(f'schema = 1\n[[rule]]\ntargets = {targets}\nscheme = "{scheme}"\n'), TOKENS)  # fmt: skip
        assert {name for name, row in rows(compiled).items() if row.effective == held} == wanted


def test_formats_mix_in_one_model_each_where_its_rule_says():
    text = """
schema = 1
[[rule]]
targets = ["head"]
weight = { dtype = "int4", group_size = 4 }
[[rule]]
targets = ["LSTM"]
scheme = "int8-dynamic"
[[rule]]
targets = ["re:t.*"]
weight = { dtype = "bfloat16" }
[[rule]]
targets = ["gru", "other"]
weight = { dtype = "e4m2" }
"""
    model = make(Two)
    found = rows(compiled := compiled_with(model, parse(text), TOKENS))
    assert {name: row.effective for name, row in found.items()} == {
        "table": "bfloat16 weights", "other": "e4m2 weights", "lstm": "int8", "gru": "e4m2 weights",
        "head": "int4 weights", "tail": "bfloat16 weights",
    }  # fmt: skip
    assert fxquant.sqnr_db(model(TOKENS).detach(), compiled(TOKENS)) > 15


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attn(x, x, self.encoder(x))[0]


@pytest.mark.parametrize("choose", ["everything", "regex"])
def test_attention_is_a_layer_with_weights_for_rules_that_do_not_name_it(choose):
    model, x = make(Attending), torch.randn(2, 5, 8)
    mapping = QConfigMapping()
    for qconfig in (fxquant.qconfig("int4"), per_channel_dynamic_qconfig):
        mapping = (
            mapping.set_global(qconfig) if choose == "everything" else mapping.set_module_name_regex(".*", qconfig)
        )
        found = {row.module: row.effective for row in compiled_with(model, mapping, x).ledger.layers}
        held = "int4 weights" if qconfig is not per_channel_dynamic_qconfig else "int8"
        assert all(found[name].startswith(held) for name in ("encoder", "attn")), found


class Stated(nn.Module):
    """A recurrent layer with the state that it is given, all of its results."""

    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(6, 5, **options)

    def forward(self, x, *state):
        return self.rnn(x, state if len(state) > 1 else state[0]) if state else self.rnn(x)


@pytest.mark.parametrize("shape", [(4, 3, 6), (4, 6)], ids=["batched", "one sequence"])
@pytest.mark.parametrize("has_state", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_on_widened_weights_are_the_canonical_ones(kind, options, has_state, shape):
    model, x = make(Stated, kind, **options), torch.randn(shape)
    batch = () if len(shape) == 2 else (shape[0] if options else shape[1],)
    one = torch.randn(4 if options else 1, *batch, 5)
    state = ((one, one / 2) if kind is nn.LSTM else (one,)) if has_state else ()
    for weight in ("int4", "bfloat16"):
        mapping = everywhere(weight=weight)
        compiled = fxquant.compile(model, mapping, example_inputs=(x, *state), target="x86")
        assert f"torch's {kind.__name__.lower()}_on_widened_weights" in rows(compiled)["rnn"].reason
        found, expected = (tree_leaves(of(x, *state)) for of in (compiled.graph_module, compiled.canonical))
        pairs = list(zip(found, expected, strict=True))
        assert len(pairs) > 1 and all(torch.allclose(*pair, atol=1e-5) for pair in pairs)


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        return torch.sigmoid(self.head(x)) * torch.tanh(x[..., :5])


def test_ops_of_a_fixed_range_are_rounded_by_what_was_seen():
    model = make(Squashed)
    compiled = compiled_with(model, "float8", STEPS, calibration_data=[STEPS])
    found = {row.op: row.effective for row in compiled.ledger.layers if row.op in ("sigmoid", "tanh")}
    assert found == dict.fromkeys(("sigmoid", "tanh"), "simulated float8_e4m3fn")
    assert fxquant.sqnr_db(model(STEPS).detach(), compiled(STEPS)) > 20
