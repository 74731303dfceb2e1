"""compile(): data in every form, pipelines of one's own, and what it says along the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fxquant
from fxquant.errors import CalibrationError, ContractError, ExampleInputError, FxQuantError, UsageError
from fxquant.passes.drop_identity import DropIdentity
from fxquant.pipeline import Pass, PassRecord
from fxquant.program import Stage
from support.asserts import assert_same, untouched
from support.models import MODELS

ONE, TWO = MODELS["mlp"], MODELS["two_inputs"]
X = torch.cat([args[0] for args in ONE.batches(2, 8)])


def compiled(model, data=None, policy="int8", **options):
    with untouched(model):
        return fxquant.compile(model, policy, calibration_data=data, target="x86", **options)


def codes(ledger):
    return {row.code for row in ledger.notices}


class Pairs:
    """Iterable, but neither sized nor an iterator."""

    def __iter__(self):
        return iter([X[:8], X[8:]])


FORMS = {
    "tensor": lambda: X,
    "tuple of arguments": lambda: (X,),
    "dict of keywords": lambda: {"x": X},
    "args and kwargs": lambda: ((X,), {}),
    "keywords only": lambda: ((), {"x": X}),
    "list of tensors": lambda: [X[:8], X[8:]],
    "list of tuples": lambda: [(X[:8],), (X[8:],)],
    "list of dicts": lambda: [{"x": X[:8]}, {"x": X[8:]}],
    "generator": lambda: (part for part in (X[:8], X[8:])),
    "iterable": Pairs,
    "loader": lambda: DataLoader(TensorDataset(X), batch_size=8),
    "labelled loader": lambda: DataLoader(TensorDataset(X, torch.arange(16)), batch_size=8),
    "labelled list": lambda: [[X[:8], torch.zeros(8)], [X[8:], torch.zeros(8)]],
}


@pytest.mark.parametrize("form", FORMS)
def test_calibration_data_comes_in_every_form(form):
    model = compiled(ONE.make(), FORMS[form]())
    assert model.stage is Stage.LOWERED
    assert ("FXQ308" in codes(model.ledger)) is form.startswith("labelled")
    if form in ("tuple of arguments", "dict of keywords", "args and kwargs", "keywords only"):
        assert_same(model(X), compiled(ONE.make(), X)(X))
    assert [row.effective for row in model.ledger.layers] == ["int8"] * 5


def test_two_arguments_are_no_label():
    args = TWO.inputs(1, 16)
    for data in (args, [args], [(args, {})]):
        model = compiled(TWO.make(), data)
        assert "FXQ308" not in codes(model.ledger)
        assert model(*TWO.inputs()).shape == TWO.make()(*TWO.inputs()).shape


def test_forward_fn_reads_batches_of_a_shape_of_its_own():
    batches = [{"picture": X[:8], "id": "a"}, {"picture": X[8:], "id": "b"}]
    model = compiled(ONE.make(), batches, example_inputs=X[:1], forward_fn=lambda model, batch: model(batch["picture"]))
    assert_same(model(X), compiled(ONE.make(), [X[:8], X[8:]])(X))


@pytest.mark.parametrize("example", [X[:2], (X[:2],), [X[:2]], {"x": X[:2]}, ((X[:2],), {}), ((), {"x": X[:2]})])
def test_example_inputs_come_in_every_form(example):
    model = compiled(ONE.make(), None, "int8-dynamic", example_inputs=example)
    assert model(X).shape == (16, 4)


def test_example_inputs_of_no_known_form_are_refused():
    with pytest.raises(ExampleInputError) as caught:
        compiled(ONE.make(), None, example_inputs=3)
    assert caught.value.code == "FXQ107" and "int" in caught.value.message


def test_a_mapping_that_needs_no_data_gives_a_finished_model():
    for policy in ("int8-dynamic", "int8-weight-only", "float16"):
        assert compiled(ONE.make(), None, policy).stage is Stage.LOWERED


def test_max_batches_stops_and_says_so():
    model = compiled(ONE.make(), [X[:8]] * 5, max_batches=2)
    [told] = [row for row in model.ledger.notices if row.code == "FXQ309"]
    assert told.reason == "calibration stopped after max_batches=2; there was more data"
    assert "FXQ309" not in codes(compiled(ONE.make(), [X[:8]] * 2, max_batches=2).ledger)


def test_few_samples_are_noticed():
    [told] = [row for row in compiled(ONE.make(), X[:1]).ledger.notices if row.code == "FXQ306"]
    assert "1 sample;" in told.reason


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_batches": 0}, "max_batches=0"),
        ({"max_batches": 1.5}, "max_batches=1.5"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite='ignore'"),
        ({"data": 3}, "int 3"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, named):
    with pytest.raises(UsageError) as caught:
        compiled(ONE.make(), **{"data": X, **options})
    assert caught.value.code == "FXQ111" and named in caught.value.message and caught.value.hint


@pytest.mark.parametrize("target", ["x86", "fbgemm", "onednn", "qnnpack", "auto"])
def test_a_target_goes_by_its_name(target):
    if target != "auto" and target not in torch.backends.quantized.supported_engines:
        pytest.skip(f"{target} is not built into this torch")
    model = fxquant.compile(ONE.make(), "int8", calibration_data=X, target=target)
    assert model.target == target or target == "auto"
    assert "FXQ507" in codes(model.ledger)


def test_an_unknown_target_is_refused_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        fxquant.compile(ONE.make(), "int8", calibration_data=X, target="x68")
    assert caught.value.code == "FXQ109" and "'x86'" in caught.value.hint


# Pipelines ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count(Pass):
    """A third party's pass: counts the nodes."""

    name: ClassVar[str] = "count"
    seen: ClassVar[list[int]] = []

    def run(self, program, ledger):
        self.seen.append(len(program.graph.nodes))
        return program


NAMES = [step.name for step in fxquant.default_pipeline()]


@pytest.mark.parametrize(
    "passes",
    [
        fxquant.default_pipeline(),
        NAMES,
        [*NAMES[:4], DropIdentity(), *NAMES[5:]],
        [*NAMES[:4], Count(), *NAMES[4:]],
        fxquant.default_pipeline().before("fuse", Count()),
    ],
)
def test_passes_come_as_a_pipeline_as_names_and_as_ones_own(passes):
    expected = compiled(ONE.make(), X)
    model = compiled(ONE.make(), X, passes=passes)
    assert_same(model(X), expected(X))
    told = [step if isinstance(step, str) else step.name for step in passes]
    assert [record.name for record in model.history] == told


def test_a_pipeline_without_lowering_gives_the_canonical_graph():
    model = compiled(ONE.make(), X, passes=fxquant.default_pipeline().without("lower-native"))
    assert model.stage is Stage.CONVERTED and model.canonical is model.graph_module
    assert repr(model).startswith("CompiledModel(MLP, CONVERTED")
    assert_same(model(X), compiled(ONE.make(), X)(X), atol=0.1)


def test_a_pipeline_that_only_rewrites_gives_a_float_model():
    model = compiled(ONE.make(), X, passes=["functionalize", "drop-identity"])
    assert model.stage is Stage.TRACED
    assert_same(model(X), ONE.make()(X).detach())
    with pytest.raises(ContractError, match="there is no plan"):
        _ = model.plan


@pytest.mark.parametrize(
    ("passes", "code"), [(["convert"], "FXQ401"), (["calibrat"], "FXQ105"), (NAMES[::-1], "FXQ401")]
)
def test_a_wrong_pipeline_is_refused_before_the_model_is_touched(passes, code):
    with pytest.raises(FxQuantError) as caught:
        compiled(ONE.make(), X, passes=passes)
    assert caught.value.code == code


def test_observers_get_each_record_in_order():
    seen: list[PassRecord] = []
    model = compiled(ONE.make(), X, observers=[seen.append])
    assert tuple(seen) == model.history
    assert [record.name for record in seen] == NAMES
    assert all(record.seconds >= 0 for record in seen)
    assert [record.name for record in seen if record.is_changed][-2:] == ["convert", "lower-native"]


def test_the_data_is_let_go():
    import gc
    import weakref

    data = [X[:8], X[8:].clone()]
    alive = weakref.ref(data[1])
    model = compiled(ONE.make(), iter(data))
    del data
    gc.collect()
    assert alive() is None and model.stage is Stage.LOWERED


@pytest.mark.parametrize("policy", ["int8", "int8-dynamic", "int8-weight-only", "float16"])
def test_an_identity_model_compiles(policy):
    model = compiled(nn.Sequential().eval(), X, policy)
    assert_same(model(X), X)


def test_strict_passes_a_model_that_lands_whole_and_stops_at_one_that_does_not():
    assert compiled(ONE.make(), X, strict=True).stage is Stage.LOWERED
    groups = nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4)).eval()
    data = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert compiled(groups, data).ledger.layers[1].code == "FXQ209"
    with pytest.raises(FxQuantError) as caught:
        compiled(groups, data, strict=True)
    assert caught.value.code == "FXQ501" and "GroupNorm" in caught.value.message


def test_an_error_of_the_calibration_data_carries_the_records_so_far():
    def batches():
        yield X
        raise ValueError("disk on fire")

    with pytest.raises(CalibrationError) as caught:
        compiled(ONE.make(), batches())
    assert [record.name for record in caught.value.records] == NAMES[: NAMES.index("calibrate")]
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("policy", ["int8-dynamic", "int8-weight-only", "float16"])
@pytest.mark.parametrize("given", [{"calibration_data": [torch.ones(2, 5)]}, {"example_inputs": (torch.ones(2, 5),)}])
def test_an_example_that_the_model_cannot_be_called_with_is_no_fault_of_a_pass(policy, given):
    """Without calibration nothing runs on it until kernels are checked."""
    model = nn.Sequential(nn.Linear(4, 4)).eval()
    with pytest.raises(ExampleInputError) as caught:
        fxquant.compile(model, policy, target="x86", **given)
    assert str(caught.value).splitlines()[0] == (
        "FXQ113 the model fails on the example inputs at '_0': RuntimeError: "
        "mat1 and mat2 shapes cannot be multiplied (2x5 and 4x4)"
    )
    assert "that the model can be called with" in caught.value.hint


def test_an_observer_of_the_users_own_keeps_what_it_saw():
    """Its ranges are buffers of a class outside of torch; put back after calibration, all codes would be zero."""
    from torch.ao.quantization import MinMaxObserver, QConfig, QConfigMapping, default_weight_observer

    class OwnObserver(MinMaxObserver):
        pass

    policies = [
        QConfigMapping().set_global(QConfig(kind, default_weight_observer)) for kind in (MinMaxObserver, OwnObserver)
    ]
    expected, found = (compiled(ONE.make(), X, policy) for policy in policies)
    assert torch.equal(found(X), expected(X)) and found(X).abs().max() > 0
