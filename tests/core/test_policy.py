"""The policy decides as torch.ao would, says why, and refuses what means nothing."""

from __future__ import annotations

import operator
import time
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxquant import torch_ao
from fxquant.errors import FxQuantError, QConfigError, UnknownTargetError
from fxquant.passes.select_qconfigs import sites_of
from fxquant.plan import Mode
from fxquant.policy import Policy, read_policy
from fxquant.presets import preset_rules
from fxquant.qconfigs import ENGINES, PRESETS
from fxquant.targets import Isa
from support.tracing import trace

with torch_ao.quiet():
    from torch.ao.quantization import (
        MinMaxObserver,
        QConfig,
        QConfigMapping,
        default_dynamic_qconfig,
        default_qat_qconfig,
        default_reuse_input_qconfig,
        float16_dynamic_qconfig,
        float16_static_qconfig,
        float_qparams_weight_only_qconfig,
        get_default_qconfig,
        get_default_qconfig_mapping,
        per_channel_dynamic_qconfig,
    )
    from torch.ao.quantization.fx.qconfig_mapping_utils import _generate_node_name_to_qconfig
    from torch.ao.quantization.qconfig import default_activation_only_qconfig, default_weight_only_qconfig
    from torch.ao.quantization.quantize_fx import QuantizationTracer


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x):
        return torch.add(self.act(self.fc(x)), x).reshape(-1, 4)


class Zoo(nn.Module):
    """Modules, functions and methods at three depths, one module called twice."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.inner = Inner()
        self.blocks = nn.Sequential(Inner(), nn.Linear(4, 4), Inner())

    def forward(self, x):
        y = self.blocks(self.inner(self.fc(x))) + x
        y = nn.functional.relu(self.inner.act(torch.add(y, x)))
        return torch.add(self.fc(y).reshape(-1, 4), x)


QCONFIGS = (
    None,
    *(QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=100 + i), MinMaxObserver) for i in range(6)),
)
NAMES = (
    "fc",
    "inner",
    "inner.fc",
    "inner.act",
    "blocks",
    "blocks.0",
    "blocks.0.fc",
    "blocks.1",
    "blocks.2.act",
    "nope",
    "",
)
REGEXES = ("", "fc", "act", "inner", "blocks", r"blocks\.[02]", ".*fc", r".*\.act$", "nope", "^$")
TYPES = (
    nn.Linear,
    nn.ReLU,
    nn.Sequential,
    Inner,
    torch.add,
    operator.add,
    nn.functional.relu,
    "reshape",
    "add",
    "view",
)
a_qconfig = st.sampled_from(QCONFIGS)


def order_key():
    return st.tuples(st.sampled_from(NAMES), st.sampled_from(TYPES), st.integers(0, 3))


def level(keys):
    return st.lists(st.tuples(keys, a_qconfig), max_size=4)


@st.composite
def mappings(draw):
    mapping = QConfigMapping().set_global(draw(a_qconfig))
    for kind, qconfig in draw(level(st.sampled_from(TYPES))):
        mapping.set_object_type(kind, qconfig)
    for text, qconfig in draw(level(st.sampled_from(REGEXES))):
        mapping.set_module_name_regex(text, qconfig)
    for name, qconfig in draw(level(st.sampled_from(NAMES))):
        mapping.set_module_name(name, qconfig)
    for (name, kind, index), qconfig in draw(level(order_key())):
        mapping.set_module_name_object_type_order(name, kind, index, qconfig)
    return mapping


def torch_says(model, mapping):
    """torch.ao's own answer, node by node in graph order."""
    tracer = QuantizationTracer([], [])
    graph_module = torch.fx.GraphModule(model, tracer.trace(model))
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    said = _generate_node_name_to_qconfig(graph_module, modules, graph_module.graph, mapping, tracer.node_name_to_scope)
    return [said[node.name] for node in graph_module.graph.nodes if node.op.startswith("call_")]


ZOO = trace(Zoo(), torch.ones(2, 4))[0]
SITES = list(sites_of(ZOO).values())


def test_the_qconfigs_of_these_tests_can_be_told_apart():
    ranges = [qconfig.activation().quant_max for qconfig in QCONFIGS if qconfig is not None]
    assert len(set(ranges)) == len(ranges) == 6  # quant_max alone would be ignored by torch


@settings(max_examples=80, deadline=None)
@given(mappings())
def test_a_mapping_means_what_torch_means_by_it(mapping):
    expected = torch_says(Zoo(), mapping)
    rules = read_policy(mapping, target="x86").rules
    found = [rules.match(site) for site in SITES]
    assert len(found) == len(expected)
    for site, match, qconfig in zip(SITES, found, expected, strict=True):
        ours = None if match is None else match.rule.qconfig
        if qconfig is None or ours is None:
            assert ours is qconfig, site
        else:  # torch wraps the factories for the module's device: compare what they build
            assert ours.activation().quant_max == qconfig.activation().quant_max, site


@settings(max_examples=50, deadline=None)
@given(mappings())
def test_the_dict_form_means_the_same_as_the_mapping(mapping):
    one, other = (read_policy(given, target="x86") for given in (mapping, mapping.to_dict()))
    assert [one.decide(site) for site in SITES] == [other.decide(site) for site in SITES]


@settings(max_examples=50, deadline=None)
@given(mappings())
def test_every_decision_says_why_and_names_a_rule(mapping):
    policy = read_policy(mapping, target="x86")
    for site in SITES:
        decision = policy.decide(site)
        assert decision.why
        assert decision.site == site.id
        assert decision.requested
        assert (decision.qconfig is None) == (decision.mode is Mode.FLOAT)


def only(mapping, op, target="x86", sites=SITES):
    policy = read_policy(mapping, target=target)
    return next(policy.decide(site) for site in sites if site.op == op)


@pytest.mark.parametrize(
    ("qconfig", "mode", "requested"),
    [
        (get_default_qconfig("x86"), Mode.STATIC, "static quint8 × qint8 per channel"),
        (get_default_qconfig("qnnpack"), Mode.STATIC, "static quint8 × qint8 per tensor"),
        (default_qat_qconfig, Mode.STATIC, "static quint8 × qint8 per tensor"),
        (default_dynamic_qconfig, Mode.DYNAMIC, "dynamic quint8 × qint8 per tensor"),
        (per_channel_dynamic_qconfig, Mode.DYNAMIC, "dynamic quint8 × qint8 per channel"),
        (default_weight_only_qconfig, Mode.WEIGHT_ONLY, "weight-only qint8 per tensor"),
        (float16_dynamic_qconfig, Mode.FLOAT16, "float16"),
        (default_reuse_input_qconfig, Mode.STATIC, "static, as its input"),
        (None, Mode.FLOAT, "float32"),
    ],
)
def test_a_qconfig_is_put_into_a_mode_and_words(qconfig, mode, requested):
    decision = only(QConfigMapping().set_object_type(nn.Linear, qconfig), "Linear")
    assert (decision.mode, decision.requested) == (mode, requested)


def test_an_activation_only_qconfig_asks_nothing_of_the_weight():
    decision = only(QConfigMapping().set_object_type(nn.ReLU, default_activation_only_qconfig), "ReLU")
    assert (decision.mode, decision.requested) == (Mode.STATIC, "static quint8")


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize(
    ("qconfig", "told"),
    [
        (
            QConfig(MinMaxObserver.with_args(dtype=torch.qint8), MinMaxObserver.with_args(dtype=torch.qint8)),
            "qint8 act",
        ),
        (
            QConfig(MinMaxObserver.with_args(dtype=torch.qint32), MinMaxObserver.with_args(dtype=torch.qint8)),
            "qint32 act",
        ),
        (QConfig(MinMaxObserver, MinMaxObserver), "quint8 weights"),
        (float16_static_qconfig, "float16 activations"),
        (float_qparams_weight_only_qconfig, "quint8 weights"),
    ],
)
def test_what_an_engine_cannot_serve_stays_float_with_the_reason(qconfig, told, target):
    decision = only(QConfigMapping().set_object_type(nn.Linear, qconfig), "Linear", target)
    assert decision.mode is Mode.FLOAT
    assert decision.qconfig is None
    assert decision.requested != "float32"
    assert "kept float because" in decision.why
    assert told in decision.why
    assert "object_type 'Linear' of the QConfigMapping" in decision.why


def test_onednn_alone_refuses_affine_weights():
    affine = QConfig(MinMaxObserver, MinMaxObserver.with_args(dtype=torch.qint8))
    modes = {target: only(QConfigMapping().set_global(affine), "Linear", target).mode for target in ENGINES}
    assert modes == {"x86": "static", "onednn": "float32", "fbgemm": "static", "qnnpack": "static"}


def test_the_innermost_module_name_decides():
    dynamic, static = per_channel_dynamic_qconfig, get_default_qconfig("x86")
    mapping = QConfigMapping().set_module_name("blocks", static).set_module_name("blocks.0.fc", dynamic)
    policy = read_policy(mapping, target="x86")
    found = {site.module_name: policy.decide(site) for site in SITES}
    assert found["blocks.0.fc"].why == "module_name 'blocks.0.fc' of the QConfigMapping"
    assert found["blocks.2.fc"].why == "module_name 'blocks' of the QConfigMapping"
    assert found["blocks.2.fc"].is_explicit
    assert found["fc"].why == "no rule of the QConfigMapping matches 'Linear'"
    assert not found["fc"].is_explicit


class Layers(nn.Module):
    """One of each kind of layer that a preset treats in its own way."""

    def __init__(self):
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, 2)
        self.act, self.fc = nn.PReLU(), nn.Linear(4, 4)
        self.words, self.bag = nn.Embedding(5, 4), nn.EmbeddingBag(5, 4)
        self.lstm, self.gru, self.cell, self.rnn = nn.LSTM(4, 4), nn.GRU(4, 4), nn.LSTMCell(4, 4), nn.RNN(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, image, index):
        y = self.act(self.up(self.conv(image))).flatten(2).mean(2)
        z = self.norm(self.rnn(self.gru(self.lstm(self.words(index))[0])[0])[0])
        return torch.sigmoid(self.fc(y)), z, self.cell(self.bag(index.reshape(1, -1)))


LAYERS = list(sites_of(trace(Layers(), torch.ones(1, 3, 5, 5), torch.tensor([1, 2]))[0]).values())
EXPECTED = {
    "int8": "Conv2d:static ConvTranspose2d:static PReLU:static Linear:static LayerNorm:static Embedding:weight-only "
    "EmbeddingBag:weight-only LSTM:dynamic GRU:dynamic LSTMCell:dynamic RNN:float32 sigmoid:static",
    "int8-dynamic": "Conv2d:float32 ConvTranspose2d:float32 PReLU:float32 Linear:dynamic LayerNorm:float32 "
    "Embedding:weight-only EmbeddingBag:weight-only LSTM:dynamic GRU:dynamic LSTMCell:dynamic RNN:float32 "
    "sigmoid:float32",
    "int8-weight-only": "Conv2d:weight-only ConvTranspose2d:weight-only PReLU:float32 Linear:weight-only "
    "LayerNorm:float32 Embedding:weight-only EmbeddingBag:weight-only LSTM:float32 GRU:float32 LSTMCell:float32 "
    "RNN:float32 sigmoid:float32",
    "float16": "Conv2d:float32 ConvTranspose2d:float32 PReLU:float32 Linear:float16 LayerNorm:float32 "
    "Embedding:float32 EmbeddingBag:float32 LSTM:float16 GRU:float32 LSTMCell:float32 RNN:float32 sigmoid:float32",
    "hybrid": "Conv2d:static ConvTranspose2d:static PReLU:static Linear:static LayerNorm:static Embedding:weight-only "
    "EmbeddingBag:weight-only LSTM:dynamic GRU:dynamic LSTMCell:dynamic RNN:float32 sigmoid:static",
    "int4-weight-only": "Conv2d:weight-only ConvTranspose2d:weight-only PReLU:float32 Linear:weight-only "
    "LayerNorm:float32 Embedding:weight-only EmbeddingBag:weight-only LSTM:weight-only GRU:weight-only "
    "LSTMCell:weight-only RNN:float32 sigmoid:float32",
    "bfloat16": "Conv2d:bfloat16 ConvTranspose2d:bfloat16 PReLU:float32 Linear:bfloat16 LayerNorm:float32 "
    "Embedding:bfloat16 EmbeddingBag:bfloat16 LSTM:bfloat16 GRU:bfloat16 LSTMCell:bfloat16 RNN:float32 "
    "sigmoid:float32",
    "float8": "Conv2d:static ConvTranspose2d:static PReLU:float32 Linear:static LayerNorm:static "
    "Embedding:weight-only EmbeddingBag:weight-only LSTM:weight-only GRU:weight-only LSTMCell:weight-only RNN:float32 "
    "sigmoid:static",
}


@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_each_kind_of_layer_its_fate_and_declines_none(preset, target):
    policy = read_policy(preset, target=target)
    found = {site.op: policy.decide(site) for site in LAYERS}
    wanted = dict(pair.split(":") for pair in EXPECTED[preset].split())
    assert {op: str(found[op].mode) for op in wanted} == wanted
    assert not [decision.why for decision in found.values() if "kept float because" in decision.why]


def test_a_preset_names_its_rule():
    rules = preset_rules("int8-dynamic", "x86")
    assert next(iter(rules)).label == "rule 1, 'Linear' of preset 'int8-dynamic'"


@pytest.mark.parametrize("vnni", [True, False])
@pytest.mark.parametrize(("target", "full"), [("x86", 127), ("fbgemm", 127), ("onednn", 255), ("qnnpack", 255)])
def test_int8_keeps_each_engines_activation_range_where_the_cpu_can_hold_the_sums(target, full, vnni, monkeypatch):
    cpu = Isa("x86_64", avx2=True, avx512=True, vnni=vnni, amx=False, bf16=False)
    monkeypatch.setattr("fxquant.presets.isa", lambda: cpu)
    high = full if vnni or target == "qnnpack" else 127
    qconfig = only("int8", "Linear", target).qconfig
    assert torch_ao.read_qconfig(qconfig, "x").activation.quant_max == high


def test_a_per_channel_convtranspose_is_declined_where_torch_asserts():
    per_channel = QConfigMapping().set_global(get_default_qconfig("x86"))
    decision = only(per_channel, "ConvTranspose2d", "onednn", LAYERS)
    assert decision.mode is Mode.FLOAT
    assert "per tensor only" in decision.why


def test_a_static_rule_on_an_embedding_or_lstm_stands_for_custom_modules_to_give_them_the_form_they_have():
    policy = read_policy(get_default_qconfig_mapping("x86"), target="x86")
    found = {site.op: policy.decide(site).mode for site in LAYERS}
    assert found["Embedding"] is found["LSTM"] is Mode.STATIC


def test_a_catch_all_dynamic_rule_asks_nothing_of_layers_without_weights():
    policy = read_policy(QConfigMapping().set_global(default_dynamic_qconfig), target="x86")
    found = {site.op: policy.decide(site) for site in LAYERS}
    assert found["sigmoid"].requested == "float32"
    assert found["Conv2d"].requested == "dynamic quint8 × qint8 per tensor"
    assert "has no dynamic form" in found["Conv2d"].why


def test_explain_names_the_layer_what_it_gets_and_the_rule():
    policy = read_policy(QConfigMapping().set_module_name("fc", per_channel_dynamic_qconfig), target="x86")
    told = policy.explain(SITES[0])
    assert told == "'fc' (Linear): dynamic quint8 × qint8 per channel, by module_name 'fc' of the QConfigMapping"


def test_a_policy_reads_as_itself_and_not_for_another_target():
    policy = read_policy("int8", target="x86")
    assert read_policy(policy, target="x86") is policy
    with pytest.raises(QConfigError, match="target 'x86', not for 'onednn'"):
        read_policy(policy, target="onednn")


@pytest.mark.parametrize("given", [None, 3, b"int8", {3}, object(), get_default_qconfig("x86"), MinMaxObserver])
def test_what_is_no_policy_is_said_so(given):
    with pytest.raises(QConfigError, match="is no policy") as caught:
        read_policy(given, target="x86")
    assert caught.value.code == "FXQ102"
    assert caught.value.hint


def test_every_missing_name_is_listed_with_its_nearest():
    mapping = QConfigMapping().set_module_name("blocks.0.fcc", None).set_module_name("iner", None)
    policy = read_policy(mapping, target="x86")
    with pytest.raises(UnknownTargetError) as caught:
        policy.check_all_matched(SITES)
    assert "'blocks.0.fcc'" in caught.value.message
    assert "blocks.0.fc" in caught.value.message
    assert "nearest: inner" in caught.value.message


def test_object_types_that_are_not_there_are_one_notice_and_torchs_own_are_none():
    mapping = get_default_qconfig_mapping("x86").set_object_type(nn.Bilinear, None).set_object_type(nn.CELU, None)
    notices = read_policy(mapping, target="x86").check_all_matched(SITES)
    assert notices == ("object types of the QConfigMapping that the model does not call: Bilinear, CELU",)


def test_ten_thousand_sites_and_a_thousand_rules_are_no_matter():
    mapping = QConfigMapping()
    for index in range(1000):
        mapping.set_module_name(f"layer{index}", per_channel_dynamic_qconfig)
    policy = read_policy(mapping, target="x86")
    started = time.perf_counter()
    assert sum(policy.decide(site).mode is Mode.FLOAT for site in SITES * (10_000 // len(SITES))) > 9_000
    assert time.perf_counter() - started < 5.0


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(QCONFIGS),
    lambda below: (
        st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3) | st.tuples(below)
    ),
    max_leaves=6,
)
LEVELS = ("", "object_type", "module_name", "module_name_regex", "module_name_object_type_order")


@settings(max_examples=200, deadline=None)
@given(
    JUNK | st.dictionaries(st.sampled_from(LEVELS), JUNK | st.lists(st.tuples(st.text(max_size=5), JUNK), max_size=3))
)
def test_junk_in_the_place_of_a_policy_never_escapes_the_error_tree(junk):
    try:
        assert isinstance(read_policy(junk, target="x86"), Policy)
    except FxQuantError as error:
        assert error.code in {"FXQ101", "FXQ102", "FXQ103", "FXQ125"}


def test_reading_a_policy_warns_of_nothing_and_leaves_the_filters_alone():
    before = list(warnings.filters)
    for preset in PRESETS:
        for target in ENGINES:
            read_policy(preset, target=target)
    assert warnings.filters == before


def test_a_path_may_be_text_or_a_path(tmp_path: Path):
    path = tmp_path / "r.toml"
    path.write_text('schema = 1\n[[rule]]\ntargets = ["Linear"]\nscheme = "int8"\n')
    assert read_policy(path, target="x86").title == read_policy(str(path), target="x86").title == f"recipe '{path}'"
