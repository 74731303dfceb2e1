"""Fates of leaves: users' handlers, tables of embeddings, norms, and modules that nobody handles."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxquant import qdq
from fxquant.custom import CustomModule, handler_for, leaf_types
from fxquant.errors import PassError, UnknownTargetError, UnsupportedOpError, UsageError
from fxquant.graphs.snapping import snapshot_of
from fxquant.ledger import Ledger
from fxquant.origin import as_part
from fxquant.passes.custom_modules import CustomModules
from fxquant.pipeline import Pipeline
from fxquant.plan import Mode, QuantPlan
from fxquant.program import Stage
from fxquant.torch_ao import engine, quiet
from support.asserts import assert_same, fingerprint, untouched
from support.quantizing import call, planned, quantized, row_of, sqnr_db, trace
from support.tracing import run_passes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.ao import quantization as ao

# A module of the user's own, with its three forms


class Gate(nn.Module):
    """x * sigmoid(scale * x), which fx must not look into."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 1.5))

    def forward(self, x):
        if float(x.abs().max()) > 1e6:  # untraceable on purpose
            return x
        return x * torch.sigmoid(self.scale * x)


class ObservedGate(nn.Module):
    def __init__(self, inner: Gate, qconfig) -> None:
        super().__init__()
        self.inner, self.largest = inner, 0.0
        self.qconfig_seen = qconfig

    def forward(self, x):
        self.largest = max(self.largest, float(x.abs().max()))
        return self.inner(x)


class QuantizedGate(nn.Module):
    def __init__(self, observed: ObservedGate) -> None:
        super().__init__()
        self.step = observed.largest / 127
        self.register_buffer("scale", observed.inner.scale.detach())

    def forward(self, x):
        x = torch.clamp(torch.round(x / self.step), -127, 127) * self.step
        return x * torch.sigmoid(self.scale * x)


GATE = CustomModule(Gate, observe=ObservedGate, quantize=QuantizedGate)


class Net(nn.Module):
    def __init__(self, gate: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate, self.last = nn.Linear(8, 16), gate or Gate(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.gate(self.first(x)))


def x() -> torch.Tensor:
    return torch.linspace(-2, 2, 32 * 8).view(32, 8).sin()


def run(handlers, mode=Mode.STATIC, model=None, leaf_modules=(Gate,), **options):
    return quantized(model or Net().eval(), mode, x(), handlers=handlers, leaf_modules=leaf_modules, **options)


def test_a_handler_swaps_float_for_observed_for_quantized():
    model = Net().eval()
    with untouched(model):
        prepared, _ = run((GATE,), model=model, until=Stage.CALIBRATED)
        program, ledger = run((GATE,), model=model)
    observed = prepared.graph_module.get_submodule("gate")
    assert type(observed) is ObservedGate
    assert observed.qconfig_seen is not None
    with torch.no_grad():
        seen = float(model.first(x()).abs().max())
        assert abs(observed.largest - seen) / seen < 0.05, "it sees the values of the graph during calibration"
        assert sqnr_db(call(program, x()), model(x())) > 30
    assert type(program.graph_module.get_submodule("gate")) is QuantizedGate
    row = row_of(ledger, "gate")
    assert (row.effective, row.reason) == ("custom (QuantizedGate)", "your handler for Gate quantizes it")
    assert [row_of(ledger, name).effective for name in ("first", "last")] == ["int8", "int8"]


@pytest.mark.parametrize("mode", [Mode.DYNAMIC, Mode.WEIGHT_ONLY])
def test_a_handler_works_in_every_mode_that_quantizes(mode):
    with quiet():
        activation = ao.default_dynamic_quant_observer if mode is Mode.DYNAMIC else ao.PlaceholderObserver
        qconfig = ao.QConfig(activation, ao.default_weight_observer)
    _, ledger = run((GATE,), mode, qconfig=qconfig)
    assert row_of(ledger, "gate").effective == "custom (QuantizedGate)"


def test_a_float_decision_keeps_the_handler_away():
    program, ledger = run((GATE,), Mode.FLOAT)
    assert type(program.graph_module.get_submodule("gate")) is Gate
    assert row_of(ledger, "gate").effective == "float32"


def test_without_a_plan_handlers_wait():
    program, _ = trace_gate()
    after, _ = Pipeline((CustomModules(handlers=(GATE,)),)).run(program, Ledger())
    assert type(after.graph_module.get_submodule("gate")) is Gate


def trace_gate():
    from fxquant.capture import capture
    from fxquant.request import CaptureRequest

    ledger = Ledger()
    return capture(CaptureRequest(Net().eval(), (x(),), leaf_modules=(Gate,)), ledger), ledger


def test_twice_is_like_once():
    program, ledger = trace_gate()
    program = planned(program, ledger, Mode.STATIC)
    once, _ = Pipeline((CustomModules(handlers=(GATE,)),)).run(program, ledger)
    picture, plan, rows = snapshot_of(once.graph_module), once.plan, ledger.as_dicts()
    observed = once.graph_module.get_submodule("gate")
    twice, _ = Pipeline((CustomModules(handlers=(GATE,)),)).run(once, ledger)
    assert (snapshot_of(twice.graph_module), twice.plan, ledger.as_dicts()) == (picture, plan, rows)
    assert twice.graph_module.get_submodule("gate") is observed


def test_a_class_that_stays_float_by_request():
    program, ledger = run((CustomModule.float(Gate, "its gate is steep"),))
    row = row_of(ledger, "gate")
    assert (row.effective, row.reason, row.code) == ("float32", "its gate is steep", "FXQ208")
    assert type(program.graph_module.get_submodule("gate")) is Gate


def test_a_leaf_without_a_handler_stays_float_and_says_how_to_register_one():
    program, ledger = run(())
    row = row_of(ledger, "gate")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert "Gate is a module of your own that nobody handles" in row.reason
    assert "custom_modules=[CustomModule(Gate" in row.hint
    assert [row_of(ledger, name).effective for name in ("first", "last")] == ["int8", "int8"]
    with torch.no_grad():
        assert sqnr_db(call(program, x()), Net().eval()(x())) > 30


def test_strict_makes_it_an_error_that_names_the_module():
    model = Net().eval()
    with untouched(model), pytest.raises(UnsupportedOpError) as caught:
        run((), model=model, strict=True)
    assert caught.value.code == "FXQ208"
    assert caught.value.message.startswith("module 'gate' (Gate) stays float")
    assert caught.value.where is not None
    run((GATE,), model=model, strict=True)


def test_a_handler_for_a_class_that_does_not_occur_names_the_nearest():
    class Gates(nn.Module):
        pass

    model = Net().eval()
    before = fingerprint(model)
    with pytest.raises(UnknownTargetError) as caught:
        run((CustomModule.float(Gates, "why not"),), model=model)
    assert caught.value.code == "FXQ110"
    assert "Gates" in caught.value.message
    assert "'Gate'" in caught.value.hint
    assert "leaf_modules" in caught.value.hint
    assert fingerprint(model) == before


def boom(*_):
    raise KeyError("nothing here")


class Wrong(nn.Module):
    def __init__(self, *_):
        super().__init__()

    def forward(self, x):
        return x[:, :3]


class Failing(nn.Module):
    def __init__(self, *_):
        super().__init__()

    def forward(self, x):
        raise ValueError("not today")


FAULTS = [
    (boom, QuantizedGate, "observe() of the handler for Gate raised KeyError"),
    (ObservedGate, boom, "quantize() of the handler for Gate raised KeyError"),
    (lambda *_: None, QuantizedGate, "observe() of the handler for Gate gave NoneType None, not an nn.Module"),
    (ObservedGate, lambda _: 3, "quantize() of the handler for Gate gave int 3, not an nn.Module"),
    (Wrong, QuantizedGate, "observe() of the handler for Gate gave a module that returns"),
    (ObservedGate, Wrong, "quantize() of the handler for Gate gave a module that returns"),
    (ObservedGate, Failing, "quantize() of the handler for Gate gave a module that fails: ValueError: not today"),
]


@pytest.mark.parametrize(("observe", "quantize", "told"), FAULTS)
def test_faults_of_a_handler_name_it_and_its_module(observe, quantize, told):
    model = Net().eval()
    with untouched(model), pytest.raises(PassError) as caught:
        run((CustomModule(Gate, observe=observe, quantize=quantize),), model=model)
    assert caught.value.code == "FXQ407"
    assert caught.value.message.startswith(told)
    assert caught.value.module == "gate"
    assert "correct" in caught.value.hint


@pytest.mark.parametrize("wrong", [lambda: CustomModule(Gate), lambda: CustomModule(Gate, observe=ObservedGate)])
def test_half_a_handler_is_refused(wrong):
    with pytest.raises(UsageError) as caught:
        wrong()
    assert caught.value.code == "FXQ111"
    assert "Gate" in caught.value.message


@pytest.mark.parametrize("kind", [int, "Gate", None])
def test_a_handler_for_no_module_class_is_refused(kind):
    with pytest.raises(UsageError) as caught:
        CustomModule.float(kind, "why")
    assert caught.value.code == "FXQ111"
    assert repr(kind) in caught.value.message


def test_leaf_types_and_the_nearest_handler():
    class Steep(Gate):
        pass

    near, far = CustomModule.float(Steep, "near"), CustomModule.float(Gate, "far")
    assert leaf_types((far, near, far)) == (Gate, Steep)
    assert handler_for(Steep(2), (far, near)) is near
    assert handler_for(Gate(2), (far, near)) is far
    assert handler_for(nn.ReLU(), (far, near)) is None


# Embeddings


class Table(nn.Module):
    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, *args):
        return self.table(*args)


class TakesOne(Table):
    def forward(self, indices):
        return self.table(indices)


class TakesTwo(Table):
    def forward(self, indices, offsets):
        return self.table(indices, offsets)


INDICES = {
    "scalar": torch.tensor(3),
    "1-d": torch.tensor([0, 3, 19, 3]),
    "2-d": torch.arange(12).view(3, 4),
    "3-d": torch.arange(18).view(3, 2, 3),
    "empty": torch.zeros(0, dtype=torch.int64),
    "int32": torch.arange(12, dtype=torch.int32).view(3, 4),
}


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC, Mode.WEIGHT_ONLY])
@pytest.mark.parametrize("form", INDICES)
def test_a_table_becomes_rows_in_every_mode(form, mode):
    torch.manual_seed(0)
    model = TakesOne(nn.Embedding(20, 8, padding_idx=0)).eval()
    program, ledger = quantized(model, mode, INDICES[form])
    row = row_of(ledger, "table")
    assert row.effective == "int8"
    assert ("its rows are int8" in row.reason) is (mode is not Mode.WEIGHT_ONLY)
    found, expected = call(program, INDICES[form]), model(INDICES[form]).detach()
    assert found.shape == expected.shape
    if expected.numel():
        assert sqnr_db(found, expected) > 40
    rows = qdq.dequantize_rows(
        *(program.canonical.table._buffers[f"weight{part}"] for part in ("", "_scale", "_zero_point"))
    )
    assert_same(found, F.embedding(INDICES[form], rows), atol=1e-6)


def test_raw_fx_leaves_a_static_embedding_float_and_says_nothing():
    """What the fate above is for."""
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    mapping = ao.QConfigMapping().set_global(ao.get_default_qconfig("x86"))
    with warnings.catch_warnings(), engine("x86"):
        warnings.simplefilter("ignore")
        prepared = prepare_fx(TakesOne(nn.Embedding(20, 8)).eval(), mapping, (INDICES["1-d"],))
        prepared(INDICES["1-d"])
        assert type(convert_fx(prepared).table) is nn.Embedding


def test_a_norm_that_a_rule_keeps_float_is_not_run_on_codes_between_quantized_neighbours():
    model = Normed(nn.LayerNorm(6), nn.Conv1d).eval()

    def all_but_the_norm(program, ledger):
        program = planned(program, ledger, Mode.STATIC)
        changed = (
            dataclasses.replace(decision, mode=Mode.FLOAT, qconfig=None) if decision.op == "LayerNorm" else decision
            for decision in program.plan
        )
        return dataclasses.replace(program, plan=QuantPlan(tuple(changed)))

    program, ledger = quantized(model, Mode.STATIC, image(nn.Conv1d), plan=all_but_the_norm)
    assert [row_of(ledger, name).effective for name in ("first", "norm", "last")] == ["int8", "float32", "int8"]
    assert "norm" in [node.target for node in program.graph.nodes]


def test_another_weight_observer_gives_rows_too():
    model = TakesOne(nn.Embedding(20, 8)).eval()
    with quiet():
        _, ledger = quantized(
            model, Mode.WEIGHT_ONLY, INDICES["1-d"], qconfig=ao.float_qparams_weight_only_qconfig_4bit
        )
    assert row_of(ledger, "table").effective == "int8"
    assert "tables of uint8 rows" in row_of(ledger, "table").reason


def test_a_float16_table():
    model = TakesOne(nn.Embedding(20, 8)).eval()
    program, ledger = quantized(model, Mode.FLOAT16, INDICES["2-d"])
    assert row_of(ledger, "table").effective == "float16 weights"
    assert program.graph_module.state_dict()["table.weight"].dtype is torch.float16
    assert sqnr_db(call(program, INDICES["2-d"]), model(INDICES["2-d"]).detach()) > 60


@pytest.mark.parametrize("is_ending", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_bag_with_offsets_becomes_rows(dtype, is_ending):
    torch.manual_seed(0)
    model = TakesTwo(nn.EmbeddingBag(20, 8, mode="sum", include_last_offset=is_ending)).eval()
    given = torch.arange(12, dtype=dtype), torch.tensor([0, 3, 3, 12 if is_ending else 7], dtype=dtype)
    program, ledger = quantized(model, Mode.STATIC, *given)
    assert row_of(ledger, "table").effective == "int8"
    assert sqnr_db(call(program, *given), model(*given).detach()) > 40


def test_a_bag_of_rows_of_indices():
    model = TakesOne(nn.EmbeddingBag(20, 8, mode="sum")).eval()
    program, ledger = quantized(model, Mode.WEIGHT_ONLY, INDICES["2-d"])
    assert row_of(ledger, "table").effective == "int8"
    assert sqnr_db(call(program, INDICES["2-d"]), model(INDICES["2-d"]).detach()) > 40


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_max_norm_stays_float(kind):
    model = TakesOne(kind(20, 8, max_norm=1.0)).eval()
    _, ledger = quantized(model, Mode.STATIC, INDICES["2-d"])
    row = row_of(ledger, "table")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert "max_norm=1 rewrites rows" in row.reason


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_a_bag_that_does_not_sum_stays_float(mode):
    model = TakesOne(nn.EmbeddingBag(20, 8, mode=mode)).eval()
    program, ledger = quantized(model, Mode.STATIC, INDICES["2-d"])
    row = row_of(ledger, "table")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert f"this one takes their {mode}" in row.reason
    assert_same(call(program, INDICES["2-d"]), model(INDICES["2-d"]).detach())


@pytest.mark.parametrize("mode", [1, 2], ids=["mean", "max"])
def test_torchs_kernel_sums_whatever_the_mode(mode):
    """The fact that keeps mean and max float: torch 2.13 takes `mode` and ignores it."""
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.randn(20, 8))
    indices, offsets = torch.arange(12), torch.tensor([0, 4])
    run = torch.ops.quantized.embedding_bag_byte_rowwise_offsets
    summed = run(packed, indices, offsets, False, 0)
    assert torch.equal(run(packed, indices, offsets, False, mode), summed)


# Norms


class Normed(nn.Module):
    def __init__(self, norm: nn.Module, conv: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = conv(8, 8, 1), norm, conv(8, 8, 1)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


NORMS = [
    (nn.LayerNorm(6), nn.Conv1d),
    (nn.LayerNorm((8, 6), elementwise_affine=False), nn.Conv1d),
    (nn.LayerNorm(6, bias=False), nn.Conv1d),
    (nn.GroupNorm(4, 8), nn.Conv2d),
    (nn.GroupNorm(2, 8, affine=False), nn.Conv1d),
    (nn.InstanceNorm1d(8), nn.Conv1d),
    (nn.InstanceNorm2d(8, affine=True), nn.Conv2d),
    (nn.InstanceNorm3d(8), nn.Conv3d),
]


def image(conv: type[nn.Module]) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 8, *(6,) * {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[conv])


@pytest.mark.parametrize(("norm", "conv"), NORMS, ids=lambda value: str(value) if isinstance(value, nn.Module) else "")
def test_norms_run_on_codes(norm, conv):
    model = Normed(norm, conv).eval()
    program, ledger = quantized(model, Mode.STATIC, image(conv))
    row = row_of(ledger, "norm")
    assert row.effective == "int8"
    assert "_norm on x86" in row.reason
    with torch.no_grad():
        assert (
            sqnr_db(call(program, image(conv)), model(image(conv))) > 26
        )  # 7 bits in, and each norm stretches what it gets


def test_running_statistics_stay_float():
    model = Normed(nn.InstanceNorm1d(8, track_running_stats=True), nn.Conv1d).eval()
    program, ledger = quantized(model, Mode.STATIC, image(nn.Conv1d))
    row = row_of(ledger, "norm")
    assert (row.effective, row.code) == ("float32", "FXQ208")
    assert "this one uses running ones" in row.reason
    with torch.no_grad():
        assert sqnr_db(call(program, image(nn.Conv1d)), model(image(nn.Conv1d))) > 30


def test_a_torch_module_without_a_kernel_stays_float():
    _, ledger = run((), model=Net(nn.GELU()).eval(), leaf_modules=())
    row = row_of(ledger, "gate")
    assert (row.effective, row.code, row.hint) == ("float32", "FXQ208", "")
    assert row.reason == "no engine has an int8 kernel for GELU"


def test_a_model_with_nothing_of_this_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    traced, _ = trace(model, torch.randn(2, 4))
    program, _ = run_passes(CustomModules(), model, torch.randn(2, 4))
    assert snapshot_of(program.graph_module) == snapshot_of(traced.graph_module)


# The ledger's parts and remarks


def test_parts_of_a_site_join_in_one_row():
    program, ledger = trace(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4))
    node = next(node for node in program.graph.nodes if node.op == "call_module")
    for part, effective in (("core", "float32"), ("q", "int8"), ("k", "int8")):
        ledger.settle(as_part(node, part), effective, f"why {effective}", code="FXQ208" * (part == "core"))
    row = ledger.row_of(node)
    assert row is not None
    assert (row.effective, row.reason) == ("int8 (q, k), float32 (core)", "q, k: why int8; core: why float32")
    assert row.code == "FXQ208"
    ledger.settle(as_part(node, "core"), "int8", "why int8")
    assert ledger.row_of(node).effective == "int8"


def test_a_remark_is_said_whatever_becomes_of_the_site():
    program, ledger = trace(nn.Sequential(nn.Linear(4, 4)), torch.randn(2, 4))
    node = next(node for node in program.graph.nodes if node.op == "call_module")
    ledger.remark(node, "not quite")
    ledger.settle(node, "int8", "a kernel")
    ledger.settle(node, "float32", "no kernel after all", code="FXQ504")
    row = ledger.row_of(node)
    assert row is not None
    assert (row.effective, row.reason, row.code) == ("float32", "not quite; no kernel after all", "FXQ504")
