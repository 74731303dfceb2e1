"""target="auto": who takes part, who is out and why, what is kept, and what the ledger says of it."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.comparing.timing import Timing
from fxquant.engines.engine import EngineModule
from fxquant.errors import UnknownTargetError, UsageError
from fxquant.passes import _placing_engines
from fxquant.presence import Presence
from fxquant.program import Stage
from fxquant.racing import VARIABLE, fastest
from fxquant.targets import resolve
from support.engines import Interpreted, choosy, failing, faithful, install, show

NATIVE = resolve("auto").engine
X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


class Slow(Interpreted):
    """Takes longer than any engine of torch's own."""

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        time.sleep(0.005)
        return super().forward(*leaves)


class Quick(Interpreted):
    """Knows the answers from its first calls; nothing is faster."""

    def __init__(self, name: str, graph: fx.GraphModule) -> None:
        super().__init__(name, graph)
        self._last: tuple[Tensor, ...] | None = None
        self._known: tuple[Tensor, ...] = ()

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        if self._last is None or self._last[0] is not leaves[0]:
            self._last, self._known = leaves, super().forward(*leaves)
        return self._known


def engine_of(kind: type[Interpreted], name: str):
    def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
        return kind(name, canonical)

    return build


def net(depth: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(16, 16), nn.ReLU())]).eval()


def raced(**options: object) -> fxquant.CompiledModel:
    return fxquant.compile(net(), "int8", **{"calibration_data": X, "race_seconds": 0.05, "place": False, **options})


def told(model: fxquant.CompiledModel) -> str:
    (notice,) = [notice for notice in model.ledger.notices if notice.code == "FXQ513"]
    return notice.reason


@pytest.fixture(autouse=True)
def may_race(monkeypatch):
    monkeypatch.delenv(VARIABLE)
    show(monkeypatch, {})


def test_the_fastest_is_kept_with_its_passes_its_rows_and_its_numbers(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    seen: list[str] = []
    model = raced(observers=(lambda record: seen.append(record.name),))
    assert model.target == "openvino" and model.engine == NATIVE and model.stage is Stage.LOWERED
    assert [record.name for record in model.history] == seen and seen[-1] == "lower-openvino"
    assert "lower-native" not in seen
    assert all("openvino" in row.reason for row in model.ledger.layers if row.op == "Linear")
    assert torch.equal(model(X), model.canonical(X)[0])


def test_the_notice_names_each_with_its_milliseconds_or_why_it_is_out(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    text = told(raced())
    assert text.startswith("race on inputs of [8, 16], 1 thread: openvino ") and text.endswith("; openvino is kept")
    assert f", {NATIVE} " in text and text.count(" ms (") == 2
    assert "onnxruntime is out (onnxruntime is not installed)" in text


def test_a_slower_one_loses_and_the_model_is_what_the_native_engine_makes(monkeypatch):
    install(monkeypatch, engine_of(Slow, "openvino"))
    model = raced()
    named = fxquant.compile(net(), "int8", calibration_data=X, target=NATIVE)
    assert model.target == NATIVE and told(model).endswith(f"; {NATIVE} is kept")
    assert model.ledger.layers == named.ledger.layers and torch.equal(model(X), named(X))
    assert [record.name for record in model.history] == [record.name for record in named.history]


OUT = {
    "refused": (
        failing(RuntimeError("no kernel")),
        "openvino is out (FXQ512 does not run this model: RuntimeError: no",
    ),
    "wrong": (faithful(spoil=lambda x: x + 1), "openvino is out (FXQ514 computes something else: output 0: "),
}


@pytest.mark.parametrize("build, why", OUT.values(), ids=OUT)
def test_one_that_does_not_run_it_right_is_out_and_no_error(monkeypatch, build, why):
    install(monkeypatch, build)
    model = raced()
    assert model.target == NATIVE and why in told(model) and f"{NATIVE} alone" in told(model)


class FailsOnTwo(Interpreted):
    """Refuses batches of two, as no engine of torch's own does."""

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        if len(leaves[0]) == 2:
            raise KeyError("a batch of two")
        return super().forward(*leaves)


class FailsLate(Interpreted):
    """Runs until it has been checked."""

    calls = 0

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        if self.calls > 20:
            raise MemoryError("no more")
        return super().forward(*leaves)


@pytest.mark.parametrize("kind, why", [(FailsOnTwo, "KeyError: 'a batch of two'"), (FailsLate, "MemoryError: no more")])
@pytest.mark.parametrize("strict", [False, True])
def test_one_that_fails_on_the_inputs_of_the_race_is_out(monkeypatch, kind, why, strict):
    install(monkeypatch, engine_of(kind, "openvino"))
    model = raced(example_inputs=(X[:2],), strict=strict)
    assert model.target == NATIVE and f"{NATIVE} alone" in told(model)
    assert "openvino is out (" in told(model) and why in told(model)


def test_one_that_takes_it_in_pieces_may_win(monkeypatch):
    install(monkeypatch, choosy(F.relu))
    model = raced()
    assert f"{NATIVE} is kept" in told(model) or "openvino is kept" in told(model)
    assert "openvino is out" not in told(model)


def test_with_strict_a_candidate_that_is_out_is_no_error_either(monkeypatch):
    install(monkeypatch, failing(RuntimeError("no kernel")))
    assert raced(strict=True).target == NATIVE


def test_nothing_to_race_against_is_said():
    text = told(raced())
    assert text == (
        "no race: openvino is out (openvino is not installed), onnxruntime is out (onnxruntime is not installed); "
        f"{NATIVE} runs it"
    )


def test_no_seconds_is_no_race_and_no_notice(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    model = raced(race_seconds=0)
    assert model.target == NATIVE and not [notice for notice in model.ledger.notices if notice.code == "FXQ513"]


def test_a_named_target_is_no_race(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    model = raced(target=NATIVE, race_seconds=0)
    assert model.target == NATIVE and not [notice for notice in model.ledger.notices if notice.code == "FXQ513"]


def test_without_example_inputs_there_is_no_race_and_it_is_said(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    model = fxquant.compile(net(), "int8-dynamic")
    assert model.target == NATIVE
    assert told(model) == f"no race, since no example inputs are known: {NATIVE} runs it, by its rule"


def test_it_runs_on_the_inputs_that_are_given_as_an_example(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    assert "inputs of [1, 16]" in told(raced(example_inputs=(X[:1],)))


def test_inductor_takes_part_when_it_is_named_and_others_then_do_not(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    show(monkeypatch, {name: Presence(True, "here") for name in ("openvino", "inductor")})
    assert "inductor" not in told(raced())
    install(monkeypatch, engine_of(Quick, "inductor"), "inductor")
    text = told(raced(race_targets=("inductor",)))
    assert "inductor" in text and "openvino" not in text


def test_the_environment_restricts_who_takes_part(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    monkeypatch.setenv(VARIABLE, "native")
    model = raced()
    assert model.target == NATIVE and not [n for n in model.ledger.notices if n.code == "FXQ513"]
    monkeypatch.setenv(VARIABLE, "native, openvino")
    model = raced()
    assert model.target == "openvino" and "onnxruntime" not in told(model)
    monkeypatch.setenv(VARIABLE, "openvino")
    install(monkeypatch, engine_of(Slow, "openvino"))
    model = raced()
    assert model.target == "openvino" and NATIVE not in told(model)


def test_where_all_that_may_are_out_the_native_engine_runs_it(monkeypatch):
    monkeypatch.setenv(VARIABLE, "openvino")
    install(monkeypatch, failing(RuntimeError("no kernel")))
    model = raced()
    assert model.target == NATIVE and told(model).endswith("; torch's own engine runs it")


WRONG = {"opnevino": "did you mean 'openvino'?", "cuda": "", "x86": "", "auto": ""}


@pytest.mark.parametrize("name, hint", WRONG.items())
def test_a_wrong_name_is_fxq109(monkeypatch, name, hint):
    with pytest.raises(UnknownTargetError, match=f"'{name}' is no target that 'auto' chooses among") as caught:
        raced(race_targets=(name,))
    assert caught.value.code == "FXQ109" and hint in caught.value.hint and "race_targets" in caught.value.message
    monkeypatch.setenv(VARIABLE, f"native,{name}")
    with pytest.raises(UnknownTargetError, match=VARIABLE):
        raced()


@pytest.mark.parametrize("options", [{"race_seconds": -1}, {"race_seconds": "2"}, {"race_seconds": float("nan")}, {"race_targets": "openvino"}, {"race_targets": [1]}], ids=str)  # fmt: skip
def test_options_that_mean_nothing_are_fxq111(options):
    with pytest.raises(UsageError) as caught:
        raced(**options)
    assert caught.value.code == "FXQ111" and next(iter(options)) in caught.value.message


def test_a_calibrating_model_races_when_it_is_converted(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    model = raced(calibration_data=None)
    assert model.target == NATIVE
    model(X)
    assert model.convert().target == "openvino" and told(model).endswith("openvino is kept")


def test_a_trained_model_races_when_it_is_converted(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    student = raced(mode="qat").train()
    student(X).sum().backward()
    torch.optim.SGD(student.parameters(), lr=1e-3).step()
    model = student.convert()
    assert model.target == "openvino" and told(model).endswith("openvino is kept")


def test_a_chain_races_once_and_its_rounds_go_on(monkeypatch):
    install(monkeypatch, engine_of(Slow, "openvino"))
    model = fxquant.compile(
        nn.Sequential(net(), nn.Softplus(), nn.Linear(16, 4)).eval(), ("int8", "int8-dynamic", "float"),
        calibration_data=X, race_seconds=0.05,
    )  # fmt: skip
    assert model.target == NATIVE and told(model)


def test_a_winner_whose_precision_cannot_be_placed_is_kept_as_it_is_and_it_is_said(monkeypatch):
    def contest(*_, **__):
        raise RuntimeError("it tells no times")

    install(monkeypatch, engine_of(Quick, "openvino"))
    monkeypatch.setattr(_placing_engines, "contest", contest)
    model = raced(place=None)
    assert model.target == "openvino"
    assert [row.reason for row in model.ledger.notices if row.code == "FXQ512"] == [
        "precision is not placed for openvino: openvino does not run this model: "
        "pass 'place-precision' failed: RuntimeError: it tells no times"
    ]


def timing(*milliseconds: float) -> Timing:
    return Timing(tuple(value / 1e3 for value in milliseconds))


def test_the_native_engine_stays_within_1_percent():
    assert fastest({"onednn": timing(1.005), "openvino": timing(1.0)}, "onednn") == "onednn"
    assert fastest({"onednn": timing(1.04), "openvino": timing(1.0)}, "onednn") == "openvino"
    assert fastest({"onednn": timing(0.5), "openvino": timing(1.0)}, "onednn") == "onednn"
    assert fastest({"onnxruntime": timing(2.0), "openvino": timing(1.0)}, "onednn") == "openvino"
    assert fastest({}, "onednn") is None


def test_a_tie_is_said(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    monkeypatch.setattr(
        "fxquant.racing.interleaved_within",
        lambda calls, **_: {name: timing(1.0 if name == "openvino" else 1.005) for name in calls},
    )
    model = raced()
    assert model.target == NATIVE
    assert told(model).endswith(f"; {NATIVE} is kept, within 1% of openvino and without its package")


def test_the_caller_s_threads_and_model_are_left_alone(monkeypatch):
    install(monkeypatch, engine_of(Quick, "openvino"))
    model, threads = net(), torch.get_num_threads()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fxquant.compile(model, "int8", calibration_data=X, race_seconds=0.05, place=False)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
