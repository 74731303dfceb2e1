"""Attention and encoder layers written out: the same numbers in float, and projections that can be quantized."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxquant.origin import origins
from fxquant.passes._attention import refusal
from fxquant.passes._encoder import refusal as encoder_refusal
from fxquant.passes.custom_modules import CustomModules
from fxquant.plan import Mode
from fxquant.program import Stage
from fxquant.structure import flatten
from fxquant.torch_ao import quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization as ao
from support.asserts import assert_no_orphans, assert_pass, assert_same, untouched
from support.quantizing import call, quantized, row_of, sqnr_db
from support.tracing import run_passes, trace

TARGETS, SOURCES, BATCH, WIDTH, HEADS = 5, 7, 3, 16, 4


class Attend(nn.Module):
    """Calls the attention with fixed options; masks are inputs."""

    def __init__(self, attention: nn.Module, **options: Any) -> None:
        super().__init__()
        self.attn = attention
        self.options = options

    def forward(self, query, key, value, key_padding_mask=None, attn_mask=None):
        return self.attn(query, key, value, key_padding_mask=key_padding_mask, attn_mask=attn_mask, **self.options)


def inputs(*, is_batch_first: bool = False, is_batched: bool = True) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shapes = [(length, BATCH, WIDTH) if is_batched else (length, WIDTH) for length in (TARGETS, SOURCES, SOURCES)]
    found = [torch.randn(shape) for shape in shapes]
    return tuple(x.transpose(0, 1) if is_batch_first and is_batched else x for x in found)


def padding(*, is_float: bool = False, is_batched: bool = True) -> torch.Tensor:
    mask = torch.zeros(BATCH, SOURCES, dtype=torch.bool)
    mask[0, 4:] = mask[2, 6:] = True
    mask = mask if is_batched else mask[0]
    return torch.zeros(mask.shape).masked_fill(mask, float("-inf")) if is_float else mask


def causal(*, is_float: bool = False, is_3d: bool = False, is_batched: bool = True) -> torch.Tensor:
    mask = torch.triu(torch.ones(TARGETS, SOURCES, dtype=torch.bool), 1)
    mask = mask.expand(BATCH * HEADS if is_batched else HEADS, TARGETS, SOURCES).clone() if is_3d else mask
    return torch.zeros(mask.shape).masked_fill(mask, -2.5) if is_float else mask


FORMS = {
    "plain": (None, None),
    "padding": ({}, None),
    "float padding": ({"is_float": True}, None),
    "causal": (None, {}),
    "float mask": (None, {"is_float": True}),
    "3-d mask": (None, {"is_3d": True}),
    "3-d float mask and padding": ({"is_float": True}, {"is_3d": True, "is_float": True}),
    "both": ({}, {}),
}


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("is_batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("is_batch_first", [False, True], ids=["sequence first", "batch first"])
@pytest.mark.parametrize("form", FORMS)
def test_every_mask_form_gives_the_same_numbers(form, is_batch_first, is_batched, need_weights):
    pad, mask = FORMS[form]
    model = Attend(nn.MultiheadAttention(WIDTH, HEADS, batch_first=is_batch_first), need_weights=need_weights)
    masks = {} if pad is None else {"key_padding_mask": padding(is_batched=is_batched, **pad)}
    masks |= {} if mask is None else {"attn_mask": causal(is_batched=is_batched, **mask)}
    given = inputs(is_batch_first=is_batch_first, is_batched=is_batched)
    program, _ = assert_pass(CustomModules(), model, *given, **masks, rtol=1e-5, atol=1e-5)
    assert call(program, *given, **masks)[1] is None or need_weights


@pytest.mark.parametrize(
    "attention",
    [
        nn.MultiheadAttention(WIDTH, HEADS, bias=False),
        nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5),
        nn.MultiheadAttention(WIDTH, 1),
        nn.MultiheadAttention(WIDTH, HEADS, kdim=WIDTH, vdim=WIDTH),
    ],
    ids=["no bias", "dropout", "one head", "kdim"],
)
def test_other_options(attention):
    assert_pass(CustomModules(), Attend(attention, average_attn_weights=False), *inputs(), rtol=1e-5, atol=1e-5)


def test_different_key_and_value_widths():
    model = Attend(nn.MultiheadAttention(WIDTH, HEADS, kdim=6, vdim=10))
    query, _, _ = inputs()
    given = query, torch.randn(SOURCES, BATCH, 6), torch.randn(SOURCES, BATCH, 10)
    program, _ = assert_pass(CustomModules(), model, *given, rtol=1e-5, atol=1e-5)
    assert program.graph_module.get_submodule("attn.k_proj").in_features == 6


def test_weights_that_nobody_reads_are_not_computed():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS)

        def forward(self, x):
            return self.attn(x, x, x)[0]

    program, _ = assert_pass(CustomModules(), First(), inputs()[0], rtol=1e-5, atol=1e-5)
    targets = [node.target for node in program.graph.nodes]
    assert F.scaled_dot_product_attention in targets
    assert torch.softmax not in targets


def test_new_nodes_carry_the_attentions_origin_and_modules_its_name():
    program, _ = run_passes(CustomModules(), Attend(nn.MultiheadAttention(WIDTH, HEADS), need_weights=False), *inputs())
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_module"]
    assert called == ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"]
    assert all("attn" in origins(node) for node in program.graph.nodes if node.op.startswith("call_"))
    assert all(type(program.graph_module.get_submodule(name)) is nn.Linear for name in called)


def test_the_projections_share_the_attentions_memory():
    attention = nn.MultiheadAttention(WIDTH, HEADS)
    program, _ = run_passes(CustomModules(), Attend(attention), *inputs())
    rooms = {p.untyped_storage().data_ptr() for name, p in program.graph_module.named_parameters() if "weight" in name}
    assert len(rooms) == 2, "the three input projections are slices of one tensor, the output projection is another"


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_projections_are_quantized_and_the_core_says_why_it_is_not(mode):
    model = Attend(nn.MultiheadAttention(WIDTH, HEADS), need_weights=False).eval()
    given = inputs()
    with untouched(model):
        program, ledger = quantized(model, mode, *given)
    row = row_of(ledger, "attn")
    assert row.effective == "int8 (q_proj, k_proj, v_proj, out_proj), float32 (attention)"
    assert "attention: no engine has an int8 kernel for softmax(q @ k) @ v" in row.reason
    assert row.code == ""
    assert (
        sqnr_db(call(program, *given)[0], model(*given)[0].detach()) > 28
    )  # five quantizations in a row of 8 bits, 7 on x86
    packed = [node for node in program.graph.nodes if "quantized" in str(node.target)]
    assert len(packed) == 4


def test_weight_only_projections():
    model, given = Attend(nn.MultiheadAttention(WIDTH, HEADS), need_weights=False).eval(), inputs()
    with quiet():
        qconfig = ao.QConfig(ao.PlaceholderObserver, ao.default_per_channel_weight_observer)
    program, ledger = quantized(model, Mode.WEIGHT_ONLY, *given, qconfig=qconfig)
    assert row_of(ledger, "attn").effective.startswith("int8 weights (q_proj, k_proj, v_proj, out_proj)")
    assert sqnr_db(call(program, *given)[0], model(*given)[0].detach()) > 35


def test_float16_projections():
    model, given = Attend(nn.MultiheadAttention(WIDTH, HEADS)).eval(), inputs()
    program, ledger = quantized(model, Mode.FLOAT16, *given)
    assert row_of(ledger, "attn").effective.startswith("float16 weights (q_proj, k_proj, v_proj, out_proj)")
    assert sqnr_db(call(program, *given)[0], model(*given)[0].detach()) > 60


def test_a_float_decision_leaves_it_whole():
    model, given = Attend(nn.MultiheadAttention(WIDTH, HEADS)).eval(), inputs()
    program, ledger = quantized(model, Mode.FLOAT, *given)
    assert [node.target for node in program.graph.nodes if node.op == "call_module"] == ["attn"]
    assert row_of(ledger, "attn").effective == "float32"


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_appended_rows_stay_float_with_their_code(options):
    model, given = Attend(nn.MultiheadAttention(WIDTH, HEADS, **options)).eval(), inputs()
    program, ledger = quantized(model, Mode.STATIC, *given)
    row = row_of(ledger, "attn")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert "add_bias_kv or add_zero_attn" in row.reason
    with torch.no_grad():
        assert_same(call(program, *given), model(*given), atol=1e-6)


class AttendOddly(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.attn, self.attend = nn.MultiheadAttention(WIDTH, HEADS), attend

    def forward(self, x):
        return self.attend(self.attn, x)[0]


@pytest.mark.parametrize(
    ("attend", "told"),
    [
        (lambda attn, x: attn(x, x, x, need_weights=x.sum() > 0), "its need_weights is computed by the model"),
        (lambda attn, x: attn(x, x, x, is_causal=True), "is_causal without an attn_mask is an error in torch"),
        (lambda attn, x: attn(x, [x, x], x), "its query, key or value is no single tensor"),
    ],
)
def test_a_call_that_cannot_be_written_out_stays_whole_and_says_why(attend, told):
    program, _ = trace(AttendOddly(attend).eval())
    calls = [node for node in program.graph.nodes if node.op == "call_module"]
    assert told in str(refusal(program.module_of(calls[0]), calls[0]))


def test_one_attention_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(WIDTH, HEADS)

        def forward(self, x):
            x = self.attn(x, x, x)[0]
            return self.attn(x, x, x)[0]

    program, _ = assert_pass(CustomModules(), Twice(), inputs()[0], rtol=1e-5, atol=1e-5)
    assert_no_orphans(program)


# Encoders


class Encode(nn.Module):
    def __init__(self, encoder: nn.Module, name: str) -> None:
        super().__init__()
        self.encoder, self.name = encoder, name

    def forward(self, x, mask=None, src_key_padding_mask=None):
        return self.encoder(x, **{self.name: mask}, src_key_padding_mask=src_key_padding_mask)


def layer(**options: Any) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(WIDTH, HEADS, 32, **{"batch_first": True, **options})


def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, SOURCES, WIDTH)


@pytest.mark.parametrize("masks", ["none", "causal", "padding"])
@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True}, {"activation": "gelu"}, {"activation": nn.SiLU()}, {"bias": False}], ids=str
)
def test_an_encoder_layer_written_out(options, masks):
    given = {
        "none": {},
        "causal": {"mask": torch.triu(torch.full((SOURCES, SOURCES), float("-inf")), 1)},
        "padding": {"src_key_padding_mask": padding()},
    }[masks]
    program, _ = assert_pass(CustomModules(), Encode(layer(**options), "src_mask"), x(), **given, rtol=1e-5, atol=1e-5)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_module"]
    assert {"encoder.linear1", "encoder.linear2", "encoder.self_attn.q_proj"} <= set(called)


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(WIDTH)], ids=["no norm", "norm"])
def test_an_encoder_written_out(norm):
    encoder = nn.TransformerEncoder(layer(), 3, norm=norm, enable_nested_tensor=False)
    assert_pass(CustomModules(), Encode(encoder, "mask"), x(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_positions_are_computed_where_nested_tensors_would_drop_them():
    model = Encode(nn.TransformerEncoder(layer(), 2), "mask").eval()
    program, _ = run_passes(CustomModules(), model, x(), src_key_padding_mask=padding())
    with torch.no_grad():
        expected = model(x(), src_key_padding_mask=padding())
    found = call(program, x(), src_key_padding_mask=padding())
    kept = ~padding()
    assert_same(found[kept], expected[kept], rtol=1e-5, atol=1e-5)


def test_the_row_says_that_padded_positions_are_computed():
    model = Encode(nn.TransformerEncoder(layer(), 1), "mask").eval()
    _, ledger = quantized(model, Mode.DYNAMIC, x(), src_key_padding_mask=padding())
    assert row_of(ledger, "encoder").reason.startswith("padded positions are computed like the others")
    _, ledger = quantized(model, Mode.DYNAMIC, x())
    assert "padded" not in row_of(ledger, "encoder").reason


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_every_linear_of_an_encoder_is_quantized(mode):
    model = Encode(nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False), "mask").eval()
    given = x()
    with untouched(model):
        program, ledger = quantized(model, mode, given)
    row = row_of(ledger, "encoder")
    assert row.effective.startswith("int8 (")
    assert "float32 (" in row.effective
    linears = [node for node in program.graph.nodes if "quantized.linear" in str(node.target)]
    assert len(linears) == 12
    with torch.no_grad():
        assert sqnr_db(call(program, x()), model(x())) > (25 if mode is Mode.STATIC else 35)


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (layer(activation=lambda x: F.relu(x) ** 2), "a function without a name"),
        (nn.TransformerEncoder(layer(activation=lambda x: x.sin()), 1, enable_nested_tensor=False), "without a name"),
    ],
    ids=["layer", "encoder"],
)
def test_an_encoder_that_cannot_be_written_out_stays_float(encoder, told):
    model = Encode(encoder, "mask" if isinstance(encoder, nn.TransformerEncoder) else "src_mask").eval()
    program, ledger = quantized(model, Mode.STATIC, x())
    row = row_of(ledger, "encoder")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert told in row.reason
    with torch.no_grad():
        assert_same(call(program, x()), model(x()), atol=1e-6)


def test_a_decoder_stays_float():
    class Decode(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 32, batch_first=True)

        def forward(self, x, memory):
            return self.decoder(x, memory)

    model = Decode().eval()
    program, ledger = quantized(model, Mode.STATIC, x(), x())
    row = row_of(ledger, "decoder")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    with torch.no_grad():
        assert_same(call(program, x(), x()), model(x(), x()), atol=1e-6)


def test_prepared_numbers_are_the_float_ones():
    model = Encode(layer(), "src_mask").eval()
    program, _ = quantized(model, Mode.STATIC, x(), until=Stage.PREPARED)
    with torch.no_grad():
        assert_same(call(program, x()), model(x()), atol=1e-5)
    assert flatten(call(program, x()))[1] == flatten(model(x()))[1]


class OddLayer(nn.TransformerEncoderLayer):
    """A layer of the user's own: what it adds would be lost."""


@pytest.mark.parametrize(
    ("encoder", "options", "told"),
    [
        (nn.TransformerEncoder(OddLayer(WIDTH, HEADS, 32, batch_first=True), 1, enable_nested_tensor=False), {}, "its layers are OddLayer"),
        (layer(), {"is_causal": True}, "is_causal without a mask is an error in torch"),
    ],
    ids=["layers of the user's own", "causal without a mask"],
)  # fmt: skip
def test_an_encoder_call_that_cannot_be_written_out_says_why(encoder, options, told):
    program, _ = trace(Runs(encoder, options).eval())
    (node,) = (node for node in program.graph.nodes if node.op == "call_module")
    assert told in str(encoder_refusal(encoder, node))


class Runs(nn.Module):
    def __init__(self, encoder, options) -> None:
        super().__init__()
        self.encoder, self.options = encoder, options

    def forward(self, x):
        return self.encoder(x, **self.options)
