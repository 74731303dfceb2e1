"""QAT: what it wins back of what 4-bit weights lose, and its training step against raw prepare_qat_fx's."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from fxquant.tools.bench import options
from fxquant.tools.bench.report import Check, show

if TYPE_CHECKING:
    from torch import nn

    from fxquant.tools.demo_model import Digits

LEAST_WON_BACK, MOST_OF_RAW = 0.80, 1.15
WIDTH, EPOCHS, DISTIL_EPOCHS = 8, 20, 12
LIVE_EPOCHS = 2  # with live batch norms: one scale for a whole weight follows their statistics
RECIPE = """schema = 1
[[rule]]
targets = ["*"]
weight = { num_bits = 4, granularity = "tensor" }
activation = { num_bits = 8 }
"""


@click.command()
@click.option("--seeds", default=3, show_default=True, help="Models that are trained, each with a seed of its own.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--quick", is_flag=True, help="One model, few rounds, a small ResNet: a smoke test, not a result.")
@options.tests
@options.as_json
def main(seeds: int, rounds: int, threads: int, quick: bool, tests: str | None, as_json: bool) -> None:
    """At least 80 % of the points come back; a step takes at most 1.15 of raw prepare_qat_fx's."""
    import torch

    torch.set_num_threads(threads)
    checks = [_won_back(1 if quick else seeds)]
    for name, (model, inputs) in _models(tests, full=not quick).items():
        checks.append(_step(name, model, inputs, rounds=3 if quick else rounds))
    show("QAT: 4-bit weights on digits; seconds of a step", checks, as_json=as_json)
    sys.exit(0 if all(check.is_met for check in checks) else 1)


# Accuracy -----------------------------------------------------------------------------------------------------------


def _won_back(seeds: int) -> Check:
    """Points that QAT with distillation wins back, over points that PTQ lost, summed over seeds."""
    from fxquant.tools.demo_model import load_digits

    digits = load_digits()
    rows = [_accuracies(digits, seed) for seed in range(seeds)]
    lost = sum(before - ptq for before, ptq, _ in rows)
    won = sum(qat - ptq for _, ptq, qat in rows)
    told = "; ".join(f"{before:.2%}, PTQ {ptq:.2%}, QAT {qat:.2%}" for before, ptq, qat in rows)
    detail = f"Cnn({WIDTH}), one 4-bit scale a weight: {told}; {lost / seeds * 100:.1f} points lost"
    return Check("won back", "at least", LEAST_WON_BACK, won / lost if lost > 0 else float("nan"), "", detail)


def _accuracies(digits: Digits, seed: int) -> tuple[float, float, float]:
    """(float32, PTQ, QAT with distillation), each on the test pictures."""
    import fxquant
    from fxquant.recipe import parse
    from fxquant.tools.digits_models import Cnn, accuracy_on_test, labelled_training_batches, trained

    model, policy = trained(lambda: Cnn(WIDTH), digits, seed=seed, epochs=EPOCHS), parse(RECIPE)
    data = digits.calibration_batches()
    ptq = fxquant.compile(model, policy, calibration_data=data)
    batches = labelled_training_batches(digits)
    schedule = fxquant.QATSchedule(freeze_batchnorm_after=LIVE_EPOCHS * len(batches))
    student = fxquant.compile(model, policy, mode="qat", calibration_data=data, schedule=schedule)
    fxquant.distil(student, model, batches, epochs=DISTIL_EPOCHS, lr=2e-3)
    sides = model, ptq, student.convert()
    before, after_ptq, after_qat = (accuracy_on_test(side, digits) for side in sides)
    return before, after_ptq, after_qat


# Speed --------------------------------------------------------------------------------------------------------------


def _models(tests: str | None, *, full: bool) -> dict[str, tuple[nn.Module, Any]]:
    """Name → (float model in eval, one batch)."""
    import torch

    from fxquant.tools.bench.zoo import load_zoo
    from fxquant.tools.digits_models import Cnn

    case = load_zoo(tests)["resnet18"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pictures = torch.rand(64, 1, 8, 8)
        (large,) = case.inputs(0, 4, full=full)
        return {"digits Cnn": (Cnn().eval(), pictures), "ResNet-18": (case.make(full=full), large)}


def _step(name: str, model: nn.Module, inputs: Any, *, rounds: int) -> Check:
    """A whole step (forward, backward, SGD) on both sides, with the same qconfigs."""
    import fxquant
    from fxquant.comparing.timing import interleaved, ratio

    raw, mapping = _raw(copy.deepcopy(model), inputs)
    ours = fxquant.compile(model, mapping, mode="qat", example_inputs=(inputs,), target="x86").train()
    sides = {"fxquant": _stepper(ours, inputs), "raw": _stepper(raw, inputs)}
    timings = interleaved(sides, rounds=rounds, seconds_a_round=0.3)
    found = ratio(timings["fxquant"], timings["raw"])
    medians = ", ".join(f"{side} {timing.median * 1e3:.1f} ms" for side, timing in timings.items())
    return Check(f"{name}: step / raw", "at most", MOST_OF_RAW, found.median, "", f"{medians}; ratio {found}")


def _raw(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    """What prepare_qat_fx makes of a model, which it marks, and torch's own mapping that it was given."""
    from fxquant.torch_ao import quiet, raw_fx

    with quiet():
        mapping = raw_fx("get_default_qat_qconfig_mapping")("x86")
        prepared: nn.Module = raw_fx("prepare_qat_fx")(model.train(), mapping, (inputs,))
    return prepared, mapping


def _stepper(model: nn.Module, inputs: Any) -> Callable[[], None]:
    import torch

    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    labels = torch.arange(len(inputs)) % 10

    def step() -> None:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
