"""FAULTS rows 64–70: engines, ranges, and what a compiled model is called with."""

from __future__ import annotations

import threading

import pytest
import torch

import fxquant
from fxquant import qdq, targets, torch_ao
from fxquant.errors import EngineUnavailableError, ExampleInputError, LoweringError, NonFiniteError
from fxquant.testing import InputSpec, ModelSpec, Op
from support.asserts import assert_same, untouched, world
from support.compiling import ENGINES
from support.compiling import compiled as of_case
from support.models import MODELS

CASE = MODELS["mlp"]
DATA = torch.cat([args[0] for args in CASE.batches(2, 8)])


def compiled(**options):
    model = CASE.make()
    with untouched(model):
        return fxquant.compile(model, "int8", calibration_data=DATA, **{"target": "x86", **options})


def test_row_64_an_engine_that_is_not_there_is_refused_up_front(monkeypatch):
    monkeypatch.setattr(targets, "available", lambda name: name != "qnnpack")
    with pytest.raises(EngineUnavailableError) as caught:
        compiled(target="qnnpack")
    assert caught.value.code == "FXQ502" and "'qnnpack'" in caught.value.message
    assert "x86" in caught.value.hint and "fxquant doctor" in caught.value.hint


def test_row_64_no_engine_at_all_is_refused_up_front(monkeypatch):
    monkeypatch.setattr(targets, "available", lambda name: False)
    with pytest.raises(EngineUnavailableError) as caught:
        compiled(target="auto")
    assert "no quantized engine at all" in caught.value.hint


@pytest.mark.parametrize("target", ENGINES)
def test_row_65_the_engine_is_recorded_and_another_one_runs_the_same(target):
    model = compiled(target=target)
    assert model.target == target
    with torch_ao.engine(target):
        expected = model(DATA)
    for other in ENGINES:
        with torch_ao.engine(other):
            assert_same(model(DATA), expected)


@pytest.mark.parametrize("target", ENGINES)
def test_row_66_extreme_codes_are_right_on_every_engine(target):
    """Inputs at the ends of the calibrated range, with the signs of the weights: the largest sums there can be."""
    model = compiled(target=target)
    weight = CASE.make().state_dict()
    first = next(value for value in weight.values() if value.dim() == 2)
    low, high = float(DATA.min()), float(DATA.max())
    extreme = torch.where(first > 0, torch.tensor(high), torch.tensor(low))
    ours = fxquant.compile(CASE.make(), "int8", calibration_data=torch.cat([DATA, extreme]), target=target)
    with torch_ao.engine(target):
        assert fxquant.sqnr_db(ours.canonical(extreme)[0], ours(extreme)) > 25
    assert model.target == target


def test_row_67_nan_and_infinity_are_refused_where_inputs_are_guarded():
    guarded, free = compiled(guard_inputs=True), compiled()
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = DATA.clone()
        bad[2, 1] = value
        assert torch.isfinite(free(bad)).all(), "unguarded, integer kernels make plausible numbers of it"
        with pytest.raises(NonFiniteError) as caught:
            guarded(bad)
        assert caught.value.code == "FXQ302" and "'x' has 1 NaN or infinite of 128" in caught.value.message
    assert_same(guarded(DATA), free(DATA))


def test_row_68_an_empty_batch_runs():
    assert compiled()(torch.zeros(0, 8)).shape == (0, 4)


@pytest.mark.parametrize("preset", ["int8", "int8-dynamic"])
@pytest.mark.parametrize("target", ENGINES)
def test_row_68_an_empty_batch_keeps_its_dimensions_on_every_engine(target, preset):
    """oneDNN's own linear gives (0, 4) here."""
    linear = ModelSpec((InputSpec((3, 2)),), (Op("linear", (0,), width=4),), (1,))
    model = fxquant.compile(linear.build(), preset, calibration_data=linear.batches(), target=target)
    assert model(torch.zeros(0, 3, 2)).shape == (0, 3, 4)


@pytest.mark.parametrize("name", ["lstm", "lstm_state", "gru"])
def test_row_68_an_empty_batch_runs_through_recurrent_layers_on_onednn(name):
    model = of_case(MODELS[name], "int8-dynamic", target="onednn")
    assert len(model(*MODELS[name].inputs(0, 0))) == 0


def test_row_68_a_dynamic_layer_that_no_kernel_runs_takes_an_empty_batch():
    assert qdq.choose_qparams(torch.zeros(0, 4), False) == (1.0, 0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float16, torch.bfloat16, torch.float64])
def test_row_69_another_dtype_is_refused_with_a_hint(dtype):
    with pytest.raises(LoweringError) as caught:
        compiled()(torch.ones(2, 8, dtype=dtype))
    assert caught.value.code == "FXQ503" and "float32" in caught.value.hint
    assert str(dtype).removeprefix("torch.") + "[2, 8] on cpu" in caught.value.message


@pytest.mark.parametrize("args", [(), (DATA, DATA), ("text",), (None,)])
def test_row_69_other_arguments_are_refused_by_name(args):
    with pytest.raises(ExampleInputError) as caught:
        compiled()(*args)
    assert caught.value.code == "FXQ107" and "forward(x" in caught.value.hint


def test_row_69_another_width_is_refused():
    with pytest.raises(LoweringError) as caught:
        compiled()(torch.ones(2, 7))
    assert caught.value.code == "FXQ503" and "float32[2, 7]" in caught.value.message


def test_row_70_two_threads_compile_at_once():
    """Each for an engine of its own: both are right, and the engine is the caller's again."""
    alone = {name: compiled(target=name)(DATA) for name in ENGINES[:2]}
    before, results, errors = world(), {}, []
    start, models_of = (
        threading.Barrier(2),
        {name: CASE.make() for name in ENGINES[:2]},
    )  # made ahead: weights are random

    def work(name):
        try:
            start.wait(10)
            for _ in range(2):
                model = fxquant.compile(models_of[name], "int8", calibration_data=DATA, target=name)
                results.setdefault(name, []).append(model)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ENGINES[:2]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors
    assert world() == before
    for name, models in results.items():
        assert len(models) == 2
        for model in models:
            assert_same(model(DATA), alone[name])


def test_what_torchs_dispatcher_adds_to_its_error_is_left_out() -> None:
    with pytest.raises(LoweringError) as caught:
        compiled()(torch.zeros(2, 4).to_sparse())
    assert caught.value.code == "FXQ503" and "Could not run 'aten::" in caught.value.message
    assert len(str(caught.value).splitlines()) == 2 and "registered at" not in str(caught.value)
