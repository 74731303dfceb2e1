"""Law I22: the caller's model and world are the same after each failure; errors name the pass. I15, I21, I23."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import ContractError, FxQuantError, PassError
from fxquant.origin import origins
from fxquant.pipeline import Pass
from fxquant.program import Stage
from support.asserts import assert_no_orphans, assert_same, untouched
from support.compiling import compile_model, compiled
from support.models import MODELS, SIGNATURES, TROUBLE

CASE = MODELS["mlp"]
NAMES = [step.name for step in fxquant.default_pipeline()]
TRACEABLE = {name: case for name, case in {**TROUBLE, **SIGNATURES}.items() if case.is_traceable}


@dataclass(frozen=True)
class Fail(Pass):
    """Raises in the middle of a compilation, after it disturbed what it could."""

    name: ClassVar[str] = "fail"
    kind: type[BaseException] = ValueError

    def run(self, program, ledger):
        torch.manual_seed(99)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float64)
        raise self.kind("planted")


@pytest.mark.parametrize("before", NAMES)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyboardInterrupt, MemoryError])
def test_a_failure_at_any_pass_leaves_all_as_it_was(before, kind):
    model = CASE.make()
    pipeline = fxquant.default_pipeline().before(before, Fail(kind))
    expected = PassError if issubclass(kind, Exception) and kind is not MemoryError else kind
    with untouched(model), pytest.raises(expected) as caught:
        compile_model(model, "int8", CASE, passes=pipeline)
    if expected is PassError:
        assert (caught.value.code, caught.value.pass_name) == ("FXQ403", "fail")
        assert [record.name for record in caught.value.records] == NAMES[: NAMES.index(before)]
        assert isinstance(caught.value.__cause__, kind)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError, SystemExit])
@pytest.mark.parametrize("at", ["select-qconfigs", "calibrate", "lower-native"])
def test_a_failure_in_a_callback_leaves_all_as_it_was(at, kind):
    def observe(record):
        if record.name == at:
            raise kind("planted")

    model = CASE.make()
    with untouched(model), pytest.raises(kind):
        compile_model(model, "int8", CASE, observers=[observe])


def test_a_failure_of_the_data_midway_leaves_all_as_it_was():
    def batches():
        yield CASE.inputs(1)
        torch.manual_seed(3)
        raise OSError("planted")

    model = CASE.make()
    with untouched(model), pytest.raises(FxQuantError) as caught:
        fxquant.compile(model, "int8", calibration_data=batches())
    assert caught.value.pass_name == "calibrate"
    assert [record.name for record in caught.value.records] == NAMES[: NAMES.index("calibrate")]


def test_a_failing_convert_leaves_all_as_it_was():
    model = CASE.make()
    pipeline = fxquant.default_pipeline().before("lower-native", Fail())
    with untouched(model):
        waiting = fxquant.compile(model, "int8", passes=pipeline)
        waiting(*CASE.inputs(1, 8))
        with pytest.raises(PassError) as caught:
            waiting.convert()
    assert [record.name for record in caught.value.records] == NAMES[:-1]
    assert waiting.stage is Stage.PREPARED


def test_a_model_that_a_callback_changes_is_found_out():
    model = CASE.make()

    def meddle(record):
        if record.name == "convert":
            with torch.no_grad():
                next(model.parameters()).add_(1.0)

    with pytest.raises(ContractError) as caught:
        compile_model(model, "int8", CASE, observers=[meddle])
    assert caught.value.code == "FXQ405"


@dataclass(frozen=True)
class Inspect(Pass):
    """I15: what holds after each pass."""

    name: ClassVar[str] = "inspect"

    def run(self, program, ledger):
        program.graph.lint()
        assert_no_orphans(program)
        if program.stage <= Stage.PLANNED:
            missing = [node.name for node in program.graph.nodes if not origins(node)]
            assert not missing, missing
        return program


@pytest.mark.parametrize("name", TRACEABLE)
def test_after_each_pass_the_graph_is_sound(name):
    passes = [step for built_in in fxquant.default_pipeline() for step in (built_in, Inspect())]
    model = compiled(TRACEABLE[name], passes=passes)
    known = {row.site for row in model.ledger.layers}
    carried = {origin for node in model.canonical.graph.nodes for origin in origins(node)}
    assert known & carried, "the canonical graph still knows the layers it came from"


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class Renamed(Plain):
    """The same, with other names for the values."""

    def forward(self, x):
        hidden_of_another_name = self.first(x)
        activated = torch.relu(hidden_of_another_name)
        return self.second(activated)


class WithDeadCode(Plain):
    """The same, with a value that nothing reads."""

    def forward(self, x):
        hidden = self.first(x)
        torch.sigmoid(hidden) * 3
        return self.second(torch.relu(hidden))


@pytest.mark.parametrize(
    "kind",
    [
        Renamed,
        WithDeadCode,
    ],
)
def test_i21_renaming_and_dead_code_change_nothing(kind):
    plain, other = Plain().eval(), kind().eval()
    other.load_state_dict(plain.state_dict())
    data = CASE.inputs(3, 32)
    left, right = (fxquant.compile(model, "int8", calibration_data=data, target="x86") for model in (plain, other))
    assert_same(left(*data), right(*data))
    assert_same(left.state_dict(), right.state_dict())


SCRIPT = """
import hashlib, sys, warnings
import torch
torch.set_num_threads(1)
from support.models import MODELS
from support.compiling import compiled
for name in ("mlp", "two_inputs", "functional_relu", "shared_linear"):
    model = compiled(MODELS[name])
    state = hashlib.sha256()
    for key, value in model.state_dict().items():
        state.update(key.encode() + bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist()))
    print(name, state.hexdigest(), *(record.after.digest for record in model.history))
"""


def test_i23_the_same_inputs_give_the_same_bytes_in_another_process():
    tests = str(Path(__file__).resolve().parents[1])
    seen = []
    for seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": tests}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        seen.append(done.stdout)
    assert seen[0] == seen[1] and seen[0].count("\n") == 4
