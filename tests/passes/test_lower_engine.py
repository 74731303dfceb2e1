"""Lowering for engines outside torch: what they take, what stays in torch, and what becomes of a model they get wrong."""

from __future__ import annotations

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.engines.engine import EngineModule, EngineRefusal
from fxquant.errors import ContractError, EngineUnavailableError, LoweringError, ParityError
from fxquant.ledger import FLOAT
from fxquant.numerics import sqnr_db
from fxquant.program import Stage
from fxquant.qdq import dequantize_per_channel
from support.engines import Interpreted, choosy, failing, faithful, install, noisy

X = torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions, a `roll` in the middle that engines may not have, a size, and two layers after one value."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        y = self.second(torch.roll(y, 1, dims=2)) + y[:, :, 2:, 2:]
        return self.fc(y.mean((2, 3)).view(x.size(0), -1))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def compiled(model: nn.Module | None = None, policy: object = "int8", **options: object) -> fxquant.CompiledModel:
    given = {"calibration_data": X, "target": "openvino", **options}
    return fxquant.compile(model or net(), policy, **given)


def codes(model: fxquant.CompiledModel) -> dict[str, str]:
    return {notice.code: notice.reason for notice in model.ledger.notices}


def test_a_graph_that_the_engine_takes_is_one_call(monkeypatch):
    install(monkeypatch, faithful())
    model = compiled()
    called = [node for node in model.graph_module.graph.nodes if node.op.startswith("call")]
    assert [node.op for node in called] == ["call_module", "call_function"]
    assert model.target == "openvino" and model.engine in ("onednn", "x86", "qnnpack") and model.stage is Stage.LOWERED
    assert torch.equal(model(X), model.canonical(X)[0])
    assert model.history[-1].name == "lower-openvino"
    assert all(row.effective == "int8" for row in model.ledger.layers if row.op in ("Conv2d", "Linear"))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "inductor"])
def test_each_target_outside_torch_has_its_pass(monkeypatch, name):
    install(monkeypatch, faithful(name), name)
    model = compiled(target=name)
    assert model.target == name and model.history[-1].name == f"lower-{name}"


def test_an_op_that_the_engine_has_not_stays_in_torch_between_two_calls(monkeypatch):
    install(monkeypatch, choosy(torch.roll))
    model = compiled()
    calls = [node.op for node in model.graph_module.graph.nodes if node.op in ("call_module",)]
    assert len(calls) == 2 and torch.equal(model(X), model.canonical(X)[0])
    row = next(row for row in model.ledger.layers if row.op == "roll")
    assert (row.code, row.effective) == ("FXQ504", FLOAT)
    assert row.reason == "stays in torch: openvino does not take roll: it has no such op"


def test_a_float_op_that_stays_in_torch_is_said_without_a_code(monkeypatch):
    install(monkeypatch, choosy(torch.roll))
    model = compiled(policy="int8-dynamic", example_inputs=(X,))
    row = next(row for row in model.ledger.layers if row.op == "roll")
    assert (
        row.effective == FLOAT and not row.code and row.reason.startswith("stays in torch: openvino does not take roll")
    )


def test_strict_refuses_a_quantized_layer_that_stays_in_torch(monkeypatch):
    install(monkeypatch, choosy(F.linear))
    with pytest.raises(LoweringError) as caught:
        compiled(strict=True)
    assert caught.value.code == "FXQ504" and caught.value.module == "fc" and "test_lower_engine.py" in str(caught.value)


def test_a_layer_in_torch_has_its_weight_widened_once(monkeypatch):
    install(monkeypatch, choosy(F.linear))
    model = compiled()
    assert not [n for n in model.graph_module.graph.nodes if n.target is dequantize_per_channel]
    assert torch.equal(model(X), model.canonical(X)[0])


REFUSALS = {
    "a refusal that names no node": (choosy(torch.roll, is_named=False), "it has no such op"),
    "a failure of the build": (failing(RuntimeError("unsupported\nmore")), "RuntimeError: unsupported"),
    "a missing function": (failing(AttributeError("no such thing")), "AttributeError: no such thing"),
    "more refusals than it is tried again": (
        choosy(F.conv2d, F.relu, F.linear, operator.add, operator.getitem, torch.roll, "mean", "view"),
        "openvino still refuses a part of it after 8 tries, the last time: it has no such op",
    ),
    "a node of no graph": (failing(EngineRefusal("it says so", "nowhere")), "it says so"),
}


@pytest.mark.parametrize("build, told", REFUSALS.values(), ids=REFUSALS)
def test_a_model_that_the_engine_refuses_runs_on_the_native_one_and_it_is_said(monkeypatch, build, told):
    install(monkeypatch, build)
    model = compiled()
    assert model.target == model.engine != "openvino" and model.history[-1].name == "lower-native"
    reason = codes(model)["FXQ512"]
    assert reason.startswith("openvino does not run this model: ") and told in reason
    assert reason.endswith(f"; {model.engine} runs it instead")
    assert sqnr_db(net()(X), model(X)) > 20


@pytest.mark.parametrize("build, told", REFUSALS.values(), ids=REFUSALS)
def test_strict_makes_it_an_error(monkeypatch, build, told):
    install(monkeypatch, build)
    with pytest.raises(LoweringError) as caught:
        compiled(strict=True)
    assert caught.value.code == "FXQ512" and told in caught.value.message and caught.value.pass_name == "lower-openvino"


def test_a_model_of_which_nothing_is_left_for_the_engine_gives_way(monkeypatch):
    install(monkeypatch, choosy(F.linear))
    model = compiled(nn.Sequential(nn.Linear(4, 4)).eval(), calibration_data=torch.randn(8, 4))
    assert model.target == model.engine
    assert "it has no such op, and nothing is left for openvino" in codes(model)["FXQ512"]


def test_the_same_numbers_come_out_as_if_the_native_engine_had_been_named(monkeypatch):
    install(monkeypatch, failing(RuntimeError("no")))
    fallen = compiled()
    named = compiled(target=fallen.engine)
    assert torch.equal(fallen(X), named(X))
    assert fallen.ledger.layers == named.ledger.layers


def test_an_engine_that_lies_is_left(monkeypatch):
    install(monkeypatch, faithful(spoil=lambda value: value * 1.5))
    model = compiled()
    assert model.target == model.engine
    assert codes(model)["FXQ514"].startswith("openvino computes something else: output 0: ")
    with pytest.raises(ParityError, match="FXQ514"):
        compiled(strict=True)


def test_an_engine_that_rounds_otherwise_is_kept(monkeypatch):
    own = 10 ** (-sqnr_db(net()(X), faithful_model(monkeypatch)(X)) / 10)
    install(monkeypatch, faithful(spoil=noisy(0.05 * own)))
    assert compiled().target == "openvino"
    install(monkeypatch, faithful(spoil=noisy(3 * own)))
    assert compiled().target != "openvino"


def faithful_model(patch: pytest.MonkeyPatch) -> fxquant.CompiledModel:
    install(patch, faithful())
    return compiled()


class Bfloat16(Interpreted):
    """Computes its floats in bfloat16, and says so."""

    float_type = "bfloat16"

    def rows(self) -> dict[str, str]:
        return {"conv2d": "int8"}


def test_where_nothing_is_rounded_floats_of_16_bits_are_allowed_if_the_engine_says_that_it_has_them(monkeypatch):
    def build(kind: type[Interpreted]) -> object:
        return lambda canonical, leaves, *, threads: kind("openvino", canonical, lambda x: x.bfloat16().float())

    install(monkeypatch, build(Bfloat16))
    model = compiled(policy="bfloat16", example_inputs=(X,), calibration_data=None)
    assert model.target == "openvino"
    row = next(row for row in model.ledger.layers if row.op == "roll")
    assert row.effective == "bfloat16" and "openvino computes it in bfloat16" in row.reason
    install(monkeypatch, build(Interpreted))
    assert compiled(policy="bfloat16", example_inputs=(X,), calibration_data=None).target != "openvino"


def test_an_engine_that_is_not_installed_gives_way_or_is_fxq502(monkeypatch):
    install(monkeypatch, faithful(), why="openvino is not installed")
    model = compiled()
    assert model.target == model.engine and model.history[-1].name == "lower-native"
    assert codes(model)["FXQ511"] == (
        f"target 'openvino' is not here: openvino is not installed; {model.engine} runs it instead"
    )
    with pytest.raises(EngineUnavailableError) as caught:
        compiled(strict=True)
    assert str(caught.value) == (
        "FXQ502 target 'openvino' is not here: openvino is not installed\n"
        "  hint: pip install 'fxquant[openvino]', or target='auto' takes what is here"
    )


def test_without_example_inputs_it_gives_way_and_says_what_to_give(monkeypatch):
    install(monkeypatch, faithful())
    model = compiled(policy="int8-dynamic", calibration_data=None)
    assert model.target == model.engine and "no example inputs are known" in codes(model)["FXQ512"]
    assert compiled(policy="int8-dynamic", calibration_data=None, example_inputs=(X,)).target == "openvino"


class Counting(nn.Module):
    """Keeps a count between calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) + self.calls


def test_a_model_with_state_gives_way(monkeypatch):
    install(monkeypatch, faithful())
    model = compiled(Counting().eval(), calibration_data=torch.randn(8, 4))
    assert model.target == model.engine and "keeps state" in codes(model)["FXQ512"]


def test_a_calibrating_model_is_lowered_for_its_target_when_it_is_converted(monkeypatch):
    install(monkeypatch, faithful())
    model = compiled(calibration_data=None)
    assert model.target == "openvino" and "CALIBRATING" in repr(model)
    model(X)
    assert model.convert().target == "openvino" and model.history[-1].name == "lower-openvino"
    install(monkeypatch, failing(RuntimeError("no")))
    fallen = compiled(calibration_data=None)
    fallen(X)
    assert fallen.convert().target == fallen.engine and "FXQ512" in codes(fallen)


@pytest.mark.parametrize("build, target", [(faithful(), "openvino"), (failing(RuntimeError("no")), "")])
def test_a_trained_model_is_lowered_for_its_target(monkeypatch, build, target):
    install(monkeypatch, build)
    student = compiled(mode="qat").train()
    student(X).sum().backward()
    torch.optim.SGD(student.parameters(), lr=1e-4).step()
    model = student.convert()
    assert model.target == (target or model.engine)


@pytest.mark.parametrize("build, target", [(faithful(), "openvino"), (failing(RuntimeError("no")), "")])
def test_a_chain_ends_on_its_target(monkeypatch, build, target):
    install(monkeypatch, build)
    model = compiled(policy=("int8", "int8-dynamic", "float"))
    assert model.target == (target or model.engine)


def test_copies_share_the_engine_and_give_the_same(monkeypatch):
    install(monkeypatch, faithful())
    model = compiled()
    twin = copy.deepcopy(model)
    assert twin.graph_module.openvino is model.graph_module.openvino and torch.equal(twin(X), model(X))


class Shaped(Interpreted):
    """Takes the shapes that it was made for."""

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        if len(leaves[0]) not in (2, 8):
            raise RuntimeError("the batch is fixed")
        return super().forward(*leaves)


def test_a_shape_that_the_engine_refuses_is_fxq515_and_one_that_the_model_refuses_is_fxq503(monkeypatch):
    def build(canonical, leaves, *, threads) -> EngineModule:
        return Shaped("openvino", canonical)

    install(monkeypatch, build)
    model = compiled()
    with pytest.raises(LoweringError) as caught:
        model(X[:3])
    assert (
        caught.value.code == "FXQ515"
        and "openvino" in caught.value.message
        and "[3, 3, 12, 12]" in caught.value.message
    )
    with pytest.raises(LoweringError) as caught:
        model(X[:3, :2])
    assert caught.value.code == "FXQ503"


PIPELINES = {
    "another pass": lambda: fxquant.default_pipeline(),
    "another engine's pass": lambda: fxquant.default_pipeline(target="onnxruntime"),
    "its name": lambda: [step.name for step in fxquant.default_pipeline()],
}


@pytest.mark.parametrize("passes", PIPELINES.values(), ids=PIPELINES)
def test_a_pipeline_that_lowers_for_another_target_is_fxq401(monkeypatch, passes):
    install(monkeypatch, faithful())
    with pytest.raises(ContractError, match="does not lower for target 'openvino'") as caught:
        compiled(passes=passes())
    assert caught.value.code == "FXQ401" and "default_pipeline(target='openvino')" in caught.value.hint


def test_a_pipeline_says_its_target_where_auto_is_named(monkeypatch):
    install(monkeypatch, faithful())
    passes = fxquant.default_pipeline(target="openvino")
    assert compiled(passes=passes, target="auto").target == "openvino" == compiled(passes=passes).target
    assert compiled(passes=fxquant.default_pipeline(), target="auto").target != "openvino"


class OnTwo(Interpreted):
    """An engine whose kernel for batches of two is another one: it fails, or computes something else."""

    def __init__(self, graph, spoil):
        super().__init__("openvino", graph)
        self._on_two = spoil

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        found = super().forward(*leaves)
        return tuple(map(self._on_two, found)) if len(leaves[0]) == 2 else found


def no_kernel(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel for two")


ON_TWO = {
    "FXQ512": no_kernel,
    "FXQ514": lambda x: x * 1.2,
}


@pytest.mark.parametrize("code, spoil", ON_TWO.items(), ids=ON_TWO)
@pytest.mark.parametrize("example", [X[:2], torch.zeros(2, 3, 12, 12)], ids=["rows", "zeros"])
def test_the_shape_that_it_will_be_called_with_is_checked_as_well(monkeypatch, code, spoil, example):
    """The example has 2 rows, the calibration data 8."""
    install(monkeypatch, lambda canonical, leaves, *, threads: OnTwo(canonical, spoil))
    model = compiled(example_inputs=(example,))
    assert code in codes(model) and model.target == model.engine
    with pytest.raises((LoweringError, ParityError)) as caught:
        compiled(example_inputs=(example,), strict=True)
    assert caught.value.code == code


@pytest.mark.parametrize("example", [X[:1], torch.zeros(1, 3, 12, 12), torch.zeros(3, 3, 20, 16), X[:0]])
def test_one_that_is_right_in_that_shape_stays(monkeypatch, example):
    install(monkeypatch, faithful())
    assert compiled(example_inputs=(example,)).target == "openvino"
