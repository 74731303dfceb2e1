"""The zoo keeps its promises: the same bits each time, sane numbers, and the caller's RNG left alone."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from fxquant.structure import flatten
from support.asserts import assert_same, fingerprint, untouched
from support.data import images
from support.models import BENCHED, FAMILIES, MODELS, TROUBLE, Case
from support.models.mobile import mobilenet_v2_tiny

ZOO = {**MODELS, **BENCHED}


def run(name, seed=0):
    case = ZOO[name]
    with torch.no_grad():
        return case.make()(*case.inputs(seed), **case.arguments(seed))


@pytest.mark.parametrize("name", ZOO)
def test_a_model_is_the_same_on_each_make_and_leaves_the_callers_world_alone(name):
    with untouched():
        first, second = run(name), run(name)
    assert_same(first, second)


@pytest.mark.parametrize("name", ZOO)
def test_other_inputs_give_other_finite_outputs(name):
    tensors = [leaf for leaf in flatten(run(name))[0] if isinstance(leaf, torch.Tensor)]
    others = [leaf for leaf in flatten(run(name, seed=7))[0] if isinstance(leaf, torch.Tensor)]
    assert tensors and all(tensor.isfinite().all() for tensor in tensors)
    assert all(not torch.equal(left, right) for left, right in zip(tensors, others, strict=True))
    assert all(0.01 < tensor.std() < 100 for tensor in tensors)


@pytest.mark.parametrize("name", ZOO)
def test_models_come_in_eval_mode_with_batch_norms_that_do_something(name):
    model = ZOO[name].make()
    norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
    assert not any(module.training for module in model.modules())
    for norm in norms:
        assert norm.momentum == 0.1
        assert not torch.allclose(norm.running_var, torch.ones(()), atol=1e-2)
        assert norm.running_mean.abs().max() > 1e-3


@pytest.mark.parametrize("name", {**FAMILIES, **BENCHED})
def test_raw_symbolic_tracing_takes_each_family(name):
    case = ZOO[name]
    model = case.make()
    before = fingerprint(model)
    with torch.no_grad():
        assert_same(fx.symbolic_trace(model)(*case.inputs()), model(*case.inputs()))
    assert fingerprint(model) == before


def test_symbolic_tracing_stops_where_the_case_says_so():
    with pytest.raises(fx.proxy.TraceError):
        fx.symbolic_trace(TROUBLE["branches_on_data"].make())


def test_calibration_data_is_apart_from_the_evaluation_data():
    case = FAMILIES["mlp"]
    batches = case.batches(3, batch=4)
    assert len(batches) == 3 and all(batch[0].shape == (4, 8) for batch in batches)
    assert not any(torch.equal(batch[0], case.inputs(0, 4)[0]) for batch in batches)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet18", 11.69),
        ("resnet50", 25.56),
        ("mobilenet_v2", 3.50),
        ("mobilenet_v3_large", 5.48),
        ("efficientnet_b0", 5.29),
    ],
)
def test_the_full_sizes_are_those_of_the_papers(name, millions):
    with torch.device("meta"):
        model = BENCHED[name].build_full()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


def test_the_batch_norms_of_a_full_model_are_settled_on_inputs_of_its_full_size():
    """Else a depthwise kernel's statistics are those of maps that are all padding, and activations grow or vanish."""
    case = Case(mobilenet_v2_tiny, images(8), images(64))
    model, spreads = case.make(full=True), []
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.register_forward_hook(
            lambda norm, _, out: spreads.append((out - norm.bias[:, None, None]) / norm.weight[:, None, None])
        )
    with torch.no_grad():
        model(*case.inputs(0, 8, full=True))
    assert all(0.8 < spread.std() < 1.25 for spread in spreads), [round(float(spread.std()), 2) for spread in spreads]
