"""pipelines(): the verdict is that of Pipeline.check, legal ones run, every edit occurs, and it shrinks to the default."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import find, given

import fxquant
from fxquant.compiler import default_pipeline
from fxquant.errors import ContractError, FxQuantError
from fxquant.program import Stage
from fxquant.testing import InputSpec, ModelSpec, Op, pipelines
from fxquant.testing.pipeline_strategies import judged

SPEC = ModelSpec((InputSpec((3,)),), (Op("linear", (0,), width=2),), (1,))
DEFAULT = [step.name for step in default_pipeline()]


def names(drawn):
    return [step.name for step in drawn.pipeline]


@given(pipelines())
def test_the_verdict_is_that_of_check(drawn):
    if drawn.is_legal:
        assert drawn.pipeline.check(Stage.TRACED) is drawn.ends and not drawn.why
    else:
        with pytest.raises(ContractError) as refused:
            drawn.pipeline.check(Stage.TRACED)
        assert refused.value.code == "FXQ401" and f"'{refused.value.pass_name}'" in drawn.why


@given(pipelines())
def test_a_model_goes_through_the_legal_ones_and_is_refused_by_the_others(drawn):
    model = SPEC.build()
    try:
        compiled = fxquant.compile(model, "int8", calibration_data=SPEC.batches(), passes=drawn.pipeline)
    except FxQuantError as error:
        assert not drawn.is_legal and error.code == "FXQ401"
    else:
        assert drawn.is_legal and compiled.stage is drawn.ends


@given(pipelines(start=Stage.PLANNED))
def test_the_stage_at_the_start_counts(drawn):
    assert not drawn.is_legal or "select-qconfigs" not in names(drawn)


def test_it_is_frozen_and_says_what_it_is():
    drawn = judged(default_pipeline().passes)
    assert str(drawn).endswith("(legal, ends LOWERED)")
    with pytest.raises(dataclasses.FrozenInstanceError):
        drawn.is_legal = False


def test_passes_are_left_out_repeated_and_moved():
    assert find(pipelines(), lambda drawn: len(drawn.pipeline) == len(DEFAULT) - 2)
    assert find(pipelines(), lambda drawn: len(set(names(drawn))) < len(drawn.pipeline))
    assert find(pipelines(), lambda drawn: sorted(names(drawn)) == sorted(DEFAULT) and names(drawn) != DEFAULT)


@pytest.mark.parametrize("stage", Stage)
def test_legal_ones_end_at_every_stage(stage):
    assert find(pipelines(), lambda drawn: drawn.is_legal and drawn.ends is stage).ends is stage


def test_it_shrinks_to_the_default_pipeline():
    found = find(pipelines(), lambda drawn: True)
    assert found.pipeline == default_pipeline() and found.is_legal and found.ends is Stage.LOWERED


def test_what_is_illegal_shrinks_to_few_passes_more_or_less():
    found = find(pipelines(), lambda drawn: not drawn.is_legal)
    assert found.why and len(found.pipeline) <= len(DEFAULT) + 1
