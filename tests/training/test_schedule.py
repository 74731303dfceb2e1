"""When ranges and batch norms freeze: by steps, by hand, and visibly."""

from __future__ import annotations

import torch

import fxquant
from support.training import pictures, qat, train


def state(model):
    bounds = [buffer.clone() for name, buffer in model.named_buffers() if name.endswith("bounds")]
    means = [buffer.clone() for name, buffer in model.named_buffers() if name.endswith("running_mean")]
    return bounds, means


def is_same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def moved(model):
    """(did ranges move, did statistics move) in a call in training mode on other data."""
    before = state(model)
    model.train()(pictures(seed=9) * 3)
    after = state(model)
    return tuple(not is_same(left, right) for left, right in zip(before, after, strict=True))


def test_a_step_is_a_call_in_training_whose_result_was_differentiated():
    model = qat()
    model.train()(pictures())
    model.eval()(pictures()).sum().backward()
    with torch.no_grad():
        model.train()(pictures())
    assert model.steps == 0
    for part in (pictures(), pictures()):
        model(part).sum().backward()
    assert model.steps == 2


def test_ranges_and_batch_norm_freeze_after_so_many_steps():
    model = qat(schedule=fxquant.QATSchedule(freeze_observers_after=2, freeze_batchnorm_after=3))
    assert moved(model) == (True, True)
    train(model, 2)
    assert moved(model) == (False, True)
    train(model, 1)
    assert moved(model) == (False, False)


def test_they_freeze_by_hand_and_stay_frozen_through_train_and_eval():
    model = qat()
    model.freeze_batchnorm()
    model.eval().train()
    assert moved(model) == (True, False)
    model.freeze_observers()
    assert moved(model) == (False, False)


def test_a_frozen_batch_norm_computes_in_training_what_it_does_in_eval():
    model = qat()
    model.get_submodule("3").p = 0.0
    model.freeze_batchnorm()
    model.freeze_observers()
    assert torch.equal(model.train()(pictures()), model.eval()(pictures()))
    train(model, 1)
    gains = model.get_submodule("0").norms[0].weight
    assert gains.grad is not None and bool((gains.grad != 0).any())


def test_a_batch_norm_that_stands_alone_freezes_too():
    alone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 10)).eval()
    model = qat(alone)
    model.freeze_batchnorm()
    assert moved(model) == (True, False)


def test_the_repr_tells():
    schedule = fxquant.QATSchedule(freeze_observers_after=1000)
    model = qat(schedule=schedule)
    assert "step 0; 5 fake quantizers, ranges live; batch norm live; ranges freeze after 1,000" in repr(model)
    model.freeze_observers()
    model.freeze_batchnorm()
    assert "ranges frozen; batch norm frozen" in repr(model)
    assert model.schedule is schedule


def test_none_means_never_and_zero_at_once():
    assert moved(qat(schedule=fxquant.QATSchedule())) == (True, True)
    assert moved(qat(schedule=fxquant.QATSchedule(0, 0))) == (False, False)
