"""distil as a pass: between compression and quantization, in compress() and in compile()."""

from __future__ import annotations

import pytest
import torch

import fxquant
from fxquant.errors import UsageError
from fxquant.passes.distil import Distil
from support.asserts import fingerprint
from support.training import net

DATA = [torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(index)) for index in range(8)]


def whole():
    model = net()
    model[3].p = 0.0
    return model


def damaged():
    model = whole()
    with torch.no_grad():
        model[5].weight.mul_(torch.rand(10, 288, generator=torch.Generator().manual_seed(0)) > 0.5)
    return model


def error(model, teacher):
    with torch.no_grad():
        return sum(float((model(batch) - teacher(batch)).square().mean()) for batch in DATA)


def test_what_pruning_lost_comes_back_and_its_zeros_stay():
    model, teacher = damaged(), whole()
    before = fingerprint(model), fingerprint(teacher)
    healed = fxquant.compress(model, [Distil(teacher=teacher, data=DATA, epochs=10, lr=3e-3)])
    assert error(healed, teacher) < 0.5 * error(model, teacher)
    weight = healed.get_submodule("5").weight
    assert bool(((weight == 0) == (model[5].weight == 0)).all()) and not healed.training
    assert (fingerprint(model), fingerprint(teacher)) == before
    assert [row.reason.startswith("distilled from its teacher: 80 steps") for row in healed.ledger.notices] == [True]


def test_in_one_pipeline_with_quantization():
    model, teacher = damaged(), whole()
    step = Distil(teacher=teacher, data=DATA, epochs=10, lr=3e-3)
    passes = fxquant.default_pipeline().before("select-qconfigs", step)
    healed = fxquant.compile(model, "int8", calibration_data=DATA, passes=passes, target="x86")
    plain = fxquant.compile(model, "int8", calibration_data=DATA, target="x86")
    assert error(healed, teacher) < 0.6 * error(plain, teacher)
    assert healed.history[0].name == "distil" and healed.history[0].is_changed  # its weights
    assert str(step) == "distil{epochs=10,lr=0.003}"


@pytest.mark.parametrize("given", [{}, {"teacher": whole()}])
def test_without_a_teacher_or_data_it_says_what_it_needs(given):
    with pytest.raises(UsageError, match=f"FXQ127 the pass 'distil' has no {'data' if given else 'teacher'}"):
        fxquant.compress(net(), [Distil(**given)])
    with pytest.raises(UsageError, match="has no teacher"):
        fxquant.compress(net(), ["distil"])
