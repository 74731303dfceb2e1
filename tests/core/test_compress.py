"""compress(): a captured float model that trains, and that compile() goes on with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import ContractError, ExampleInputError, UsageError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 10)
    return nn.Sequential(*layers).eval()


PICTURES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_without_passes_it_computes_what_the_model_does():
    model = net()
    assert torch.equal(fxquant.compress(model, [])(PICTURES), model(PICTURES))


def test_its_state_has_the_names_of_the_model():
    model = net()
    assert list(fxquant.compress(model, []).state_dict()) == list(model.state_dict())


def test_it_trains_and_the_model_stays_as_it_was():
    model = net()
    before = copy.deepcopy(model.state_dict())
    trainable = fxquant.compress(model, []).train()
    optimizer = torch.optim.SGD(trainable.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        trainable(PICTURES).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in trainable.parameters())
    assert not torch.equal(trainable.eval()(PICTURES), model(PICTURES))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_dropout_and_batch_norm_follow_train_and_eval():
    trainable = fxquant.compress(net(), [])
    assert torch.equal(trainable(PICTURES), trainable(PICTURES))
    assert not torch.equal(trainable.train()(PICTURES), trainable(PICTURES))


def test_a_copy_has_tensors_of_its_own():
    trainable = fxquant.compress(net(), [])
    copied = copy.deepcopy(trainable).double()
    assert copied(PICTURES.double()).dtype is torch.float64
    assert trainable(PICTURES).dtype is torch.float32


def test_compile_goes_on_with_its_ledger_and_history():
    trainable = fxquant.compress(net(), ["drop-identity"])
    compiled = fxquant.compile(trainable, "int8", calibration_data=[(PICTURES, torch.zeros(16).long())])
    names = [record.name for record in compiled.history]
    assert names[:4] == ["functionalize", "normalize-calls", "drop-identity", "select-qconfigs"]
    assert compiled.ledger["_3"].effective == "removed"
    assert fxquant.sqnr_db(trainable(PICTURES), compiled(PICTURES)) > 30
    assert "quantized" in str(compiled.ledger) and not trainable.ledger.notices


def test_a_measurement_compares_with_the_compressed_model():
    trainable = fxquant.compress(net(), [])
    with torch.no_grad():
        trainable.get_submodule("5").weight.mul_(2)
    compiled = fxquant.compile(trainable, "int8", calibration_data=PICTURES)
    assert fxquant.measure(compiled).output_sqnr_db > 30


def test_a_pass_that_quantizes_is_refused():
    with pytest.raises(ContractError, match="a pass that quantizes") as told:
        fxquant.compress(net(), [*fxquant.default_pipeline(select_qconfigs={})][:1])
    assert told.value.code == "FXQ401"


def test_options_of_the_capture_come_too_late():
    with pytest.raises(UsageError, match="captured already") as told:
        fxquant.compile(fxquant.compress(net(), []), "int8-dynamic", leaf_modules=["0"])
    assert told.value.code == "FXQ111"


def test_examples_that_fit_no_call_are_refused():
    with pytest.raises(ExampleInputError) as told:
        fxquant.compress(net(), [], example_inputs=3)
    assert told.value.code == "FXQ107"
