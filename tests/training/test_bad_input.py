"""What goes wrong around QAT: each with its code, the culprit's name, and the caller's model as it was."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import fxquant
from fxquant import torch_ao
from fxquant.errors import FxQuantError, FxQuantWarning
from support.asserts import fingerprint
from support.training import labels, net, pictures, qat, train

with torch_ao.quiet():
    from torch.ao.quantization import QConfigMapping


@pytest.fixture
def model():
    made = net()
    before = fingerprint(made)
    yield made
    assert fingerprint(made) == before


def refused(code, call, *parts):
    with pytest.raises(FxQuantError) as told:
        call()
    assert told.value.code == code, told.value
    for part in parts:
        assert part in str(told.value), str(told.value)


def test_a_mode_that_is_none(model):
    refused("FXQ111", lambda: fxquant.compile(model, "int8", mode="sideways"), "mode='sideways'", "'qat'")


def test_a_mapping_that_quantizes_nothing(model):
    refused("FXQ231", lambda: qat(model, QConfigMapping()), "Sequential", "nothing")


def test_a_loop_that_never_calls_backward(model):
    trained = qat(model)
    for _ in range(3):
        trained.train()(pictures())
    with pytest.warns(FxQuantWarning, match=r"FXQ314 nothing was trained: backward\(\) never reached it"):
        compiled = trained.convert()
    assert [row.code for row in compiled.ledger.notices].count("FXQ314") == 1
    assert not any(row.code == "FXQ314" for row in trained.ledger.notices)


def test_an_optimizer_that_trains_the_float_model():
    model = net()
    trained = qat(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        nn.functional.cross_entropy(trained(pictures()), labels()).backward()
        optimizer.step()
    with pytest.warns(FxQuantWarning, match=r"backward\(\) ran 2 times, but no weight has changed"):
        trained.convert()


def test_convert_before_anything_was_seen(model):
    refused("FXQ301", qat(model, calibration_data=None).check, "not called in training mode")


def test_calls_in_eval_mode_alone_give_no_ranges(model):
    trained = qat(model, calibration_data=None)
    assert torch.isfinite(trained(pictures())).all()
    refused("FXQ301", trained.check)


def test_a_range_that_saw_nothing_is_named():
    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x), self.head(x[8:])

    trained = qat(Tail().eval(), calibration_data=None)
    out, _ = trained.train()(torch.rand(8, 4))
    out.sum().backward()
    refused("FXQ303", trained.check, "saw no value")


@pytest.mark.parametrize("name", ["5.weight", "0.norms.0.running_mean"])
def test_nan_in_weights_at_convert(model, name):
    trained = qat(model)
    tensors = {**dict(trained.named_parameters()), **dict(trained.named_buffers())}
    with torch.no_grad():
        tensors[name].view(-1)[0] = float("nan")
    refused("FXQ302", trained.convert, f"'{name}' holds 1", "training diverged")


def test_nan_in_a_batch_or_after_a_nan_loss_names_the_first_place(model):
    trained = qat(model).train()
    loss = trained(pictures()).sum() * float("nan")
    loss.backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    refused("FXQ302", lambda: trained(pictures()), "'_0' gave NaN")
    refused("FXQ302", lambda: qat(model).train()(pictures() / 0), "'input_1' gave NaN")


def test_a_model_in_training_is_not_compiled_again(model):
    trained = qat(model)
    for again in (
        lambda: fxquant.compile(trained, "int8"),
        lambda: qat(trained),
        lambda: fxquant.compress(trained, []),
    ):
        refused("FXQ230", again, "QATModel")


def test_a_model_in_training_is_not_saved(model, tmp_path):
    path = tmp_path / "net.fxq.safetensors"
    refused("FXQ409", lambda: qat(model).save(path), "net.fxq.safetensors", "convert().save(path)")
    refused("FXQ409", lambda: pickle.dumps(qat(model)), "state_dict()")
    assert not path.exists()


@pytest.mark.parametrize("value", [-1, 2.5, True, "soon"])
def test_a_schedule_of_no_steps(value):
    refused("FXQ129", lambda: fxquant.QATSchedule(freeze_batchnorm_after=value), f"freeze_batchnorm_after={value!r}")


def test_a_schedule_that_is_none(model):
    refused("FXQ111", lambda: qat(model, schedule=100), "schedule=100")


def test_a_schedule_without_training(model):
    refused("FXQ111", lambda: fxquant.compile(model, "int8", schedule=fxquant.QATSchedule()), "mode='qat'")


def test_a_pipeline_that_cannot_train(model):
    refused("FXQ129", lambda: qat(model, passes=["select-qconfigs", "convert"]), "'insert-observers'")


def test_arguments_that_do_not_fit(model):
    refused("FXQ107", lambda: qat(model)(pictures(), pictures()))


def test_data_with_nan_is_named_before_training(model):
    refused("FXQ302", lambda: qat(model, calibration_data=[pictures() * float("nan")]), "calibration batch 0")


def test_training_goes_on_after_a_refusal(model):
    trained = qat(model, calibration_data=None)
    refused("FXQ301", trained.check)
    train(trained)
    assert trained.convert().stage is fxquant.Stage.LOWERED
