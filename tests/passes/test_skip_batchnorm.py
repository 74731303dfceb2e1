"""skip-batchnorm: what the user names and what cannot be folded is marked, written down, and left by fold-batchnorm."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fxquant.errors import RecipeError, UnknownTargetError
from fxquant.keep_float import is_kept_float, kept_because
from fxquant.passes.fold_batchnorm import FoldBatchnorm
from fxquant.passes.skip_batchnorm import SkipBatchnorm
from fxquant.pipeline import Pipeline
from fxquant.plan import Decision, Mode, QuantPlan
from fxquant.program import Stage
from support.asserts import assert_pass, untouched
from support.tracing import run_passes, trace


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class Net(nn.Module):
    """Two blocks, and a batch norm of the input that nothing can take in."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.stem, self.body = Block(1, 2), Block(2, 3)

    def forward(self, x):
        return self.body(self.stem(self.norm(x)))


def inputs():
    return torch.randn(2, 1, 5, 5)


def kept(program):
    return [node.name for node in program.graph.nodes if is_kept_float(node)]


def test_fires_on_what_cannot_be_folded_and_leaves_the_rest_alone():
    program, ledger = assert_pass(SkipBatchnorm(), Net(), inputs(), changes=False)
    assert kept(program) == ["norm"]
    assert (ledger["norm"].code, ledger["norm"].effective) == ("FXQ205", "float32")
    assert ledger["stem_bn"].effective == ""


@pytest.mark.parametrize("names", [("stem.bn",), "stem.bn", ["re:stem"], (r"re:.*m\.bn",)])
def test_names_are_exact_or_regular_expressions(names):
    program, ledger = assert_pass(SkipBatchnorm(names), Net(), inputs(), changes=False)
    assert kept(program) == ["norm", "stem_bn"]
    assert ledger["stem_bn"].code == "FXQ206" and "skip-batchnorm names it" in ledger["stem_bn"].reason


def test_what_is_kept_is_not_folded():
    program, ledger = run_passes((SkipBatchnorm(("stem.bn",)), FoldBatchnorm()), Net(), inputs())
    names = [node.name for node in program.graph.nodes]
    assert "stem_bn" in names and "norm" in names and "body_bn" not in names
    assert ledger["stem_bn"].code == "FXQ206"
    assert ledger["body_bn"].effective == "folded into body.conv"


def test_a_second_run_does_not_change_the_reason():
    _, ledger = run_passes((SkipBatchnorm(("stem.bn",)), SkipBatchnorm()), Net(), inputs())
    assert ledger["stem_bn"].code == "FXQ206" and ledger["norm"].reason.count("cannot be folded") == 1


def test_the_name_before_a_pass_renamed_the_module_counts_too():
    program, ledger = trace(Net().eval(), inputs())
    module = program.graph_module.stem.bn
    program.graph_module.add_submodule("stem.bn_1", module)
    next(node for node in program.graph.nodes if node.name == "stem_bn").target = "stem.bn_1"
    Pipeline((SkipBatchnorm(("stem.bn",)),)).run(program, ledger)
    assert ledger["stem_bn"].code == "FXQ206"


@pytest.mark.parametrize("name", ["stem.nb", "re:nothing.*", "stem.conv", ""])
def test_a_name_that_is_no_batch_norm_is_refused_with_the_nearest(name):
    model, x = Net().eval(), inputs()
    with untouched(model), pytest.raises(UnknownTargetError, match="is no batch norm of this model") as caught:
        run_passes(SkipBatchnorm((name,)), model, x)
    assert caught.value.code == "FXQ110" and caught.value.pass_name == "skip-batchnorm"
    assert repr(name) in str(caught.value) and "bn" in caught.value.hint


def test_a_name_in_a_model_without_batch_norms_is_refused():
    model, x = nn.Sequential(nn.Linear(2, 2)).eval(), torch.randn(1, 2)
    with untouched(model), pytest.raises(UnknownTargetError) as caught:
        run_passes(SkipBatchnorm(("bn",)), model, x)
    assert "no batch norm" in caught.value.hint


def test_a_regular_expression_that_does_not_parse_is_refused_at_once():
    with pytest.raises(RecipeError, match="not a regular expression") as caught:
        SkipBatchnorm(("re:(",))
    assert caught.value.code == "FXQ101" and "re:(" in str(caught.value)


def planned(model, **modes):
    """The program with a plan: static for all sites but those given, which are named explicitly."""
    program, ledger = trace(model.eval(), inputs())
    decisions = [
        Decision(row.site, row.module, row.op, mode, None, str(mode), "a test says so", is_explicit=row.site in modes)
        for row in ledger.layers
        for mode in [modes.get(row.site, Mode.STATIC)]
    ]
    return replace(program.at(Stage.PLANNED), plan=QuantPlan(tuple(decisions))), ledger


def test_a_batch_norm_that_the_plan_names_as_float_is_kept():
    program, ledger = planned(Net(), stem_bn=Mode.FLOAT)
    program, _ = Pipeline((SkipBatchnorm(), FoldBatchnorm())).run(program, ledger)
    assert kept(program) == ["norm", "stem_bn"]
    assert ledger["stem_bn"].code == "FXQ206" and "a test says so" in ledger["stem_bn"].reason


def test_a_layer_that_stays_float_keeps_its_numbers():
    """I11: what the plan leaves float is bit-equal, so nothing is folded into it."""
    program, ledger = planned(Net(), stem_conv=Mode.FLOAT)
    program, _ = Pipeline((SkipBatchnorm(), FoldBatchnorm())).run(program, ledger)
    assert kept(program) == ["norm", "stem_bn"]
    assert ledger["stem_bn"].code == "FXQ205" and "stays float32" in ledger["stem_bn"].reason
    assert ledger["body_bn"].effective == "folded into body.conv"


def test_a_batch_norm_that_the_plan_names_otherwise_than_its_layer_is_kept():
    program, ledger = planned(Net(), stem_bn=Mode.DYNAMIC)
    program, _ = Pipeline((SkipBatchnorm(),)).run(program, ledger)
    assert ledger["stem_bn"].code == "FXQ205" and "dynamic" in ledger["stem_bn"].reason


def test_the_mark_says_why():
    program, _ = run_passes(SkipBatchnorm(("stem.bn",)), Net(), inputs())
    reasons = {node.name: kept_because(node) for node in program.graph.nodes}
    assert "names it" in reasons["stem_bn"] and "directly before" in reasons["norm"] and reasons["body_bn"] == ""
