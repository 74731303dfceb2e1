"""Laws of the caller's world on drawn models: I21 (names, dead code), I22 (untouched), and success or an FxQuantError."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxquant
from fxquant.errors import FxQuantError, PassError
from fxquant.pipeline import Pass
from fxquant.testing import Op
from support.asserts import assert_same, untouched
from support.counting import counted
from support.drawn_models import compiled, drawn, engines, policies
from support.scale import examples

NAMES = [step.name for step in fxquant.default_pipeline()]


@dataclass(frozen=True)
class Fail(Pass):
    """Raises in the middle of a compilation, after it disturbed what it could."""

    name: ClassVar[str] = "fail"

    def run(self, program, ledger):
        torch.manual_seed(99)
        torch.set_grad_enabled(True)
        for parameter in program.graph_module.parameters():
            parameter.data = parameter.data + 1.0
        raise ValueError("planted")


@examples(1)
@given(spec=drawn(), asked=policies, target=engines)
def test_i22_model_and_world_are_as_before_and_every_failure_is_ours(spec, asked, target):
    model = spec.build()
    with untouched(model):
        try:
            made = compiled(spec, asked, target, model=model)
        except FxQuantError as error:
            assert error.code != "FXQ403", error  # a fault of ours, whatever it says
            return
        made(*spec.inputs())


@examples(1)
@given(spec=drawn(most_ops=6), before=st.sampled_from(NAMES))
def test_i22_a_failure_at_any_pass_leaves_all_as_it_was(spec, before):
    counted("injected failure")
    model = spec.build()
    with untouched(model), pytest.raises(PassError) as caught:
        compiled(spec, model=model, passes=fxquant.default_pipeline().before(before, Fail()))
    assert (caught.value.pass_name, len(caught.value.records)) == ("fail", NAMES.index(before))


@examples(0.7)
@given(spec=drawn(), asked=policies, target=engines)
def test_i21_names_change_nothing(spec, asked, target):
    renamed = spec.build(names=[f"other_{index}" for index in range(len(spec.ops))])
    one, two = compiled(spec, asked, target), compiled(spec, asked, target, model=renamed)
    assert_same(two(*spec.inputs(3)), one(*spec.inputs(3)))
    assert_same(list(two.state_dict().values()), list(one.state_dict().values()))


@examples(0.7)
@given(spec=drawn(), asked=policies, target=engines, data=st.data())
def test_i21_dead_code_changes_nothing(spec, asked, target, data):
    floats = [index for index, value in enumerate(spec.values) if not value.is_tokens]
    kind = data.draw(st.sampled_from(("gelu", "negate", "add_scalar")))
    dead = replace(spec, ops=(*spec.ops, Op(kind, (data.draw(st.sampled_from(floats)),))))
    one, two = compiled(spec, asked, target), compiled(dead, asked, target)
    assert_same(two(*spec.inputs(3)), one(*spec.inputs(3)))
    assert_same(two.state_dict(), one.state_dict())
