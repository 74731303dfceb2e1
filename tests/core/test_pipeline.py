"""A pipeline as a value: put together from others, told as text, held to what its passes promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import ContractError
from fxquant.graphs.change import Rewire
from fxquant.ledger import Ledger
from fxquant.passes.drop_identity import DropIdentity
from fxquant.passes.functionalize import Functionalize
from fxquant.passes.select_qconfigs import SelectQConfigs
from fxquant.passes.unshare import Unshare
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Program, Stage
from support.tracing import run_passes, trace

NAMES = [step.name for step in fxquant.default_pipeline()]


@dataclass(frozen=True)
class Promises(Pass):
    """Says that it plans, and gives back what it got."""

    name: ClassVar[str] = "promises"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})
    yields: ClassVar[Stage | None] = Stage.PLANNED

    def run(self, program: Program, ledger: Ledger) -> Program:
        return program


def test_pipelines_are_put_together_by_name_and_the_old_one_stays():
    two = Pipeline((Functionalize(), DropIdentity()))
    assert [step.name for step in two.after("functionalize", Unshare())] == [
        "functionalize",
        "unshare",
        "drop-identity",
    ]
    assert [step.name for step in two.before("functionalize", Unshare())] == [
        "unshare",
        "functionalize",
        "drop-identity",
    ]
    assert [step.name for step in two.without("functionalize")] == ["drop-identity"]
    assert len(two) == 2 and str(two).split(" | ") == [str(step) for step in two.passes]
    with pytest.raises(ContractError, match="FXQ402 no pass 'fuse' in this pipeline"):
        two.after("fuse", Unshare())


def test_a_pipeline_is_cut_where_a_stage_is_reached():
    cut = fxquant.default_pipeline().until(Stage.PREPARED)
    assert [step.name for step in cut] == NAMES[: NAMES.index("insert-observers") + 1]
    with pytest.raises(ContractError, match="FXQ402 no pass of this pipeline yields LOWERED"):
        cut.until(Stage.LOWERED)


def test_a_pass_that_does_not_give_what_it_promised_is_stopped():
    with pytest.raises(ContractError) as caught:
        run_passes(Promises(), nn.Linear(2, 2), torch.ones(1, 2))
    assert caught.value.code == "FXQ401" and "'promises' promised PLANNED, gave TRACED" in str(caught.value)


def test_a_plan_needs_a_policy_and_a_check_of_it_needs_a_plan():
    program, ledger = trace(nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(ContractError) as caught:
        SelectQConfigs().run(program, ledger)
    assert caught.value.code == "FXQ406" and "there is no policy to decide by" in str(caught.value)
    with pytest.raises(ContractError, match="FXQ401 select-qconfigs made no plan"):
        SelectQConfigs().verify(replace(program, stage=Stage.PLANNED))


def test_a_ledger_tells_how_many_of_each_outcome_it_has():
    program, ledger = trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.ReLU()), torch.ones(1, 2))
    first, second = (node for node in program.graph.nodes if node.name in ("_0", "_1"))
    assert not ledger.is_settled(first)
    ledger.settle(first, "int8", "a rule asks for it")
    ledger.settle(second, "int8", "a rule asks for it")
    ledger.notice("FXQ308", "labels are left out")
    assert ledger.is_settled(first)
    assert repr(ledger) == "Ledger(3 layers: 2 int8, 1 open; 1 notices)"


def test_an_edge_that_moved_is_told_in_one_line_and_seen_from_the_other_side():
    assert str(Rewire("cat", "cat", "a", "b")) == "↷ cat: reads a → b"
    assert str(Rewire("cat", "cat_1", None, "b")) == "↷ cat → cat_1: reads nothing → b"
    assert str(Rewire("cat", "cat_1", None, "b").inverse()) == "↷ cat_1 → cat: reads b → nothing"
