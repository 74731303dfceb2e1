"""insert-observers, calibrate and convert: where observers stand, what they may see, and the canonical graph they become."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import qdq, torch_ao
from fxquant.errors import BackendError, ContractError, EmptyCalibrationError, PassError
from fxquant.observation import observer_of
from fxquant.passes.calibrate import Calibrate
from fxquant.passes.convert import Convert
from fxquant.passes.insert_observers import InsertObservers
from fxquant.passes.select_qconfigs import SelectQConfigs
from fxquant.pipeline import Pipeline
from fxquant.policy import read_policy
from fxquant.program import Stage
from fxquant.sizes import size_bytes
from support.asserts import assert_same, untouched
from support.compiling import compiled
from support.models import MODELS
from support.small import AGREE, BETTER, SMALL
from support.tracing import call, run_passes, trace


class Repooled(nn.Module):
    """Its mean keeps the scale of its input, so one observer stands under two names."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)

    def forward(self, x):
        return self.norm(self.conv(x)).mean((2, 3))


LOWERLESS = fxquant.default_pipeline().without("lower-native")


def select(policy="int8"):
    return SelectQConfigs(read_policy(policy, target="x86"))


def prepared(name, policy="int8", **options):
    case = SMALL[name]
    return run_passes((select(policy), InsertObservers(**options)), case.make(), *case.inputs())


def observed(program):
    return [node.args[0].name for node in program.graph.nodes if observer_of(program.graph_module, node) is not None]


@pytest.mark.parametrize("name", ["conv_relu", "linear", "add_relu", "cat"])
def test_observers_do_not_change_what_is_computed(name):
    case = SMALL[name]
    program, _ = prepared(name)
    assert program.stage is Stage.PREPARED and observed(program)
    assert_same(call(program, *case.inputs(3)), case.make()(*case.inputs(3)).detach())


@pytest.mark.parametrize("policy", ["int8-dynamic", "int8-weight-only", "float16"])
def test_only_static_sites_are_observed(policy):
    program, _ = prepared("linear", policy)
    assert not observed(program)


def test_an_observer_has_the_line_of_its_value_and_no_origin():
    program, _ = prepared("conv_relu")
    for node in program.graph.nodes:
        if observer_of(program.graph_module, node) is not None:
            assert "fxq_where" in node.meta or node.args[0].op == "placeholder"
            assert not node.meta.get("fxq_origin")


def test_a_decision_that_did_not_land_is_a_row_or_with_strict_an_error():
    case = AGREE["conv"]
    model = nn.Sequential(*case.make(), nn.GroupNorm(2, 4)).eval()
    _program, ledger = run_passes((select(), InsertObservers()), model, *case.inputs())
    assert ledger.layers[1].code == "FXQ209" and "GroupNorm" in ledger.layers[1].reason
    with untouched(model), pytest.raises(BackendError) as caught:
        run_passes((select(), InsertObservers(strict=True)), model, *case.inputs())
    assert caught.value.code == "FXQ501" and caught.value.pass_name == "insert-observers"


def test_without_a_plan_the_order_is_refused():
    program, ledger = trace(AGREE["conv"].make(), *AGREE["conv"].inputs())
    with pytest.raises(ContractError, match="there is no plan"):
        InsertObservers().run(program.at(Stage.PLANNED), ledger)


def test_calibrate_without_data_is_refused_and_without_observers_needs_none():
    program, ledger = prepared("linear")
    with pytest.raises(EmptyCalibrationError):
        Pipeline((Calibrate(),)).run(program, ledger)
    program, ledger = prepared("linear", "int8-dynamic")
    assert Pipeline((Calibrate(),)).run(program, ledger)[0].stage is Stage.CALIBRATED


def test_integer_values_are_not_observed():
    model = compiled(MODELS["counts_calls"], passes=LOWERLESS)
    assert model.ledger["add_"].code == "FXQ209" and "int64" in model.ledger["add_"].reason
    assert set(model.ledger.as_dicts()[0]) >= {"site", "module", "requested", "effective"}
    assert "steps" not in model.ledger, "a buffer is no layer"


def test_a_tuple_is_not_observed():
    rows = [row for row in compiled(BETTER["chunk"]).ledger.layers if row.code == "FXQ209"]
    assert rows and all(row.effective == "float32" and "no single tensor" in row.reason for row in rows)


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic", "int8-weight-only", "float16"])
@pytest.mark.parametrize("name", ["conv_relu", "conv_transpose", "linear_without_bias", "add_relu", "conv_circular"])
def test_the_canonical_graph_is_plain(name, policy):
    model = compiled(SMALL[name], policy, passes=LOWERLESS)
    assert model.stage is Stage.CONVERTED
    seen = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            seen.append(isinstance(value, torch.Tensor) and value.is_quantized)
            return value

    Watch(model.canonical).run(*SMALL[name].inputs())
    assert seen and not any(seen), "no quantized dtypes"
    assert not any(observer_of(model.canonical, node) for node in model.canonical.graph.nodes)
    assert not any(torch_ao.is_observer(module) for module in model.canonical.modules())


@pytest.mark.parametrize("name", ["conv_relu", "linear", "conv_transpose", "conv_circular", "conv3d"])
def test_each_weight_is_stored_once_as_codes(name):
    model = compiled(SMALL[name], passes=LOWERLESS)
    floats = [key for key, value in model.state_dict().items() if value.dtype == torch.float32]
    assert all(key.endswith((".bias", ".weight_scale")) for key in floats)
    weights = [value for key, value in model.state_dict().items() if key.endswith(".weight")]
    assert [value.dtype for value in weights] == [torch.int8]
    held = sum(parameter.numel() for parameter in SMALL[name].make().parameters() if parameter.dim() > 1)
    assert size_bytes(weights) == held


def test_codes_follow_the_weight_observer():
    case = AGREE["linear"]
    model, layer = compiled(case, passes=LOWERLESS), case.make()[0]
    state = model.state_dict()
    scale = layer.weight.detach().abs().amax(1) / 127.5
    torch.testing.assert_close(state["0.weight_scale"], scale, rtol=1e-5, atol=0)
    back = qdq.dequantize_per_channel(state["0.weight"], scale, state["0.weight_zero_point"], 0)
    assert ((back - layer.weight).abs() <= scale[:, None] * 0.51).all()
    assert torch.equal(state["0.bias"], layer.bias)


def test_a_transposed_convolution_has_one_scale():
    state = compiled(AGREE["conv_transpose"], passes=LOWERLESS).state_dict()
    assert state["0.weight_scale"].shape == ()


def test_verify_finds_an_observer_that_is_left():
    program, _ = prepared("linear")
    with pytest.raises(PassError, match="FXQ403 observers are left"):
        Convert().verify(program)


def test_a_flattened_value_keeps_scale_and_zero_point():
    graph = compiled(BETTER["flatten"], passes=LOWERLESS.without("canonicalize-qdq")).canonical.graph
    quantizes = [node.args[1:3] for node in graph.nodes if node.target is qdq.quantize_per_tensor]
    assert quantizes[1] == quantizes[2] != quantizes[0]


@pytest.mark.parametrize("make", [Repooled, *(MODELS[name].make for name in ("mlp", "encoder", "mobilenet_v3"))])
def test_the_state_holds_what_the_canonical_graph_reads_and_nothing_else(make):
    """torch leaves a module that stands under two names behind: 8 kB of a histogram in a model of 1 kB."""
    case = next((case for case in MODELS.values() if case.make == make), None)
    data = torch.randn(8, 3, 8, 8) if case is None else case.batches(2, 16)
    model = fxquant.compile(make().eval(), "int8", calibration_data=data)
    read = {str(n.target) for n in model.canonical.graph.nodes if n.op in ("get_attr", "call_module")}
    left = [name for name in model.state_dict() if name not in read and name.rpartition(".")[0] not in read]
    assert not left
