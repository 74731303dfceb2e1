"""The table of steps: computed for whoever's pass, in Python, on the command line and in the report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

import fxquant
from fxquant.ledger import Ledger
from fxquant.passes.low_rank import LowRank
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.pipeline import Pass, Pipeline
from fxquant.program import Stage
from fxquant.tools.cli import run
from fxquant.tools.digits_models import MODELS
from support.tracing import trace

PICTURES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PRUNE, FACTORIZE = PruneMagnitude(sparsity=0.5, targets=["head"]), LowRank(rank=16, targets=["body.3"])


@dataclass(frozen=True)
class Touch(Pass):
    """Somebody's pass that moves weights and tells nobody: distillation does it."""

    name: ClassVar[str] = "touch"

    def run(self, program, ledger):
        program.graph_module.get_parameter("head.weight").data.mul_(1.5)
        return program


@dataclass(frozen=True)
class Narrow(Pass):
    """Somebody's pass that really makes tensors smaller."""

    name: ClassVar[str] = "narrow"

    def run(self, program, ledger):
        first, second = program.graph_module.get_submodule("body.0"), program.graph_module.get_submodule("body.3")
        first.weight, first.bias = nn.Parameter(first.weight[:64].detach()), nn.Parameter(first.bias[:64].detach())
        second.weight = nn.Parameter(second.weight[:, :64].detach())
        first.out_features = second.in_features = 64
        for node in program.graph.nodes:
            node.meta.pop("fxq_value", None)
        return program


def mlp():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS["mlp"]().eval()


def test_each_pass_that_changes_weights_or_work_is_a_step_and_no_other():
    found = fxquant.compress(mlp(), [PRUNE, FACTORIZE, "drop-identity", Touch()], example_inputs=PICTURES)
    prune, factorize, touch = fxquant.steps_of(found.history)
    assert [step.name for step in (prune, factorize, touch)] == ["prune-magnitude", "low-rank", "touch"]
    assert [step.layers for step in (prune, factorize, touch)] == [("head",), ("body.3",), ("head",)]
    whole = 64 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10
    assert (prune.before.parameters, prune.after.parameters) == (whole, whole)
    assert prune.before.nonzero - prune.after.nonzero == 640 and prune.before.macs == prune.after.macs
    assert factorize.after.parameters == whole - 128 * 128 + 2 * 16 * 128
    assert factorize.before.macs - factorize.after.macs == len(PICTURES) * (128 * 128 - 2 * 16 * 128)
    assert factorize.after.size_bytes == 4 * factorize.after.parameters
    assert touch.before == touch.after


def test_the_steps_compose_and_compile_goes_on_with_them():
    found = fxquant.compress(mlp(), [PRUNE, FACTORIZE, Touch()], example_inputs=PICTURES)
    compiled = fxquant.compile(found, "int8", calibration_data=PICTURES)
    assert fxquant.steps_of(compiled.history) == fxquant.steps_of(found.history)
    assert [row.effective for row in compiled.ledger.layers if row.op == "Linear"] == ["int8"] * 3
    codes = compiled.state_dict()["head.weight"]
    assert int((codes[found.masks["head.weight"]] == 0).sum()) == 640 and int((codes == 0).sum()) < 700


def test_one_pipeline_prunes_factorizes_and_quantizes():
    pipeline = fxquant.default_pipeline().before("select-qconfigs", PRUNE, FACTORIZE, Touch())
    compiled = fxquant.compile(mlp(), "int8", calibration_data=PICTURES, passes=pipeline)
    assert [step.name for step in fxquant.steps_of(compiled.history)] == ["prune-magnitude", "low-rank", "touch"]
    assert int((compiled.state_dict()["head.weight"] == 0).sum()) >= 640


def test_structured_pruning_of_whoever_shows_by_its_sizes():
    program, ledger = trace(mlp(), PICTURES)
    _, history = Pipeline((Narrow(),)).run(program, ledger)
    (step,) = fxquant.steps_of(history)
    assert step.layers == ("body.0", "body.3")
    assert step.before.parameters - step.after.parameters == 64 * 64 + 64 + 128 * 64


def test_without_an_example_the_multiplications_are_not_known():
    (step,) = fxquant.steps_of(fxquant.compress(mlp(), [FACTORIZE]).history)
    assert step.before.macs is None and step.after.macs is None


def test_a_weight_that_only_gets_another_name_is_no_step():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return nn.functional.linear(x, self.weight)

    found = fxquant.compress(Named().eval(), [], example_inputs=torch.rand(2, 4))
    assert found.history[1].weights_before != found.history[1].weights_after
    assert fxquant.steps_of(found.history) == ()


def test_a_pass_that_only_moves_weights_has_changed_something():
    program, _ = trace(mlp(), PICTURES)
    _, (touched, again) = Pipeline((Touch(), PruneMagnitude(sparsity=0.5))).run(program, Ledger())
    assert touched.is_changed and again.is_changed
    assert repr(fxquant.compress(mlp(), [Touch()])).endswith(", touch)")


def test_nothing_is_weighed_once_a_plan_is_made():
    compiled = fxquant.compile(mlp(), "int8-dynamic")
    assert all(record.weights_before is None for record in compiled.history)
    assert compiled.stage is Stage.LOWERED and fxquant.steps_of(compiled.history) == ()


def test_the_report_has_a_row_for_each_step_and_one_for_quantization(tmp_path):
    found = fxquant.compress(mlp(), [PRUNE, FACTORIZE], example_inputs=PICTURES)
    compiled = fxquant.compile(found, "int8", calibration_data=PICTURES, target="x86")
    page = compiled.report(tmp_path / "r.html").read_text(encoding="utf-8")
    table = page[page.index('id="steps-table"') :].partition("</table>")[0]
    assert [table.count(f">{name}</th>") for name in ("prune-magnitude", "low-rank", "quantize for x86")] == [1, 1, 1]
    assert '<span class="dim">26.1 k →</span> 25.5 k' in table and '<span class="dim">26.1 k →</span> 13.8 k' in table
    assert table.count(" kB →</span>") == 2 and "normalize-calls" not in table


def test_a_report_without_steps_has_no_table(tmp_path):
    page = fxquant.compile(mlp(), "int8-dynamic").report(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "steps-table" not in page


FACTORY = """
import torch, fxquant
from fxquant.passes.prune_magnitude import PruneMagnitude
from fxquant.tools.digits_models import Mlp

def make():
    return fxquant.compress(Mlp().eval(), [PruneMagnitude(sparsity=0.5)], example_inputs=torch.rand(2, 1, 8, 8))
"""


def test_the_command_line_prints_the_steps(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(FACTORY, encoding="utf-8")
    command = ("compile", f"{file}:make", "--shape", "4,1,8,8")
    assert run(command) == 0
    told = capsys.readouterr().out
    assert "prune-magnitude" in told and "not zero" in told and "26,122 → 13,194" in told
    assert run((*command, "--json")) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert step["name"] == "prune-magnitude" and step["before"]["parameters"] == 26122
    assert step["layers"] == ["body.0", "body.3", "head"]
