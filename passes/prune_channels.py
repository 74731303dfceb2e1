"""The pass prune-channels: whole channels leave the model, through residual adds and concatenations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import nn

from fxquant.errors import ExampleInputError, PassError, UnknownTargetError, UsageError, did_you_mean
from fxquant.graphs.channel_choice import Choice, Limits, Scores, Work
from fxquant.graphs.channels import Alive, Group
from fxquant.graphs.costs import costs
from fxquant.graphs.snapping import snapshot_of
from fxquant.ledger import Ledger
from fxquant.passes._channel_flow import Flow, tensors_of
from fxquant.passes._channel_importance import KINDS, importance
from fxquant.passes._channel_means import fold_means
from fxquant.passes._channel_report import Report
from fxquant.passes._channel_rules import rule_of
from fxquant.passes._channel_slicing import shrink
from fxquant.pipeline import Pass
from fxquant.program import Program, Stage
from fxquant.values import known_value, record_values

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class PruneChannels(Pass):
    """y = bn(conv1(x)) + conv2(x)  ⇒  the same with fewer channels in conv1, bn, conv2 and in whatever reads y.

    Channels that must go together are one unit: those that are added, that a depthwise convolution carries from one
    layer to the next, that one parameter makes for two calls. Give exactly one of `ratio` and `macs`.

    What goes is a zero to every layer that reads it: the result is the model in which these layers see zeros in the
    place of the pruned channels. What such a channel had behind its batch norm, relu(beta) at least, is lost with it,
    unless `keep_mean` puts it into the biases of its readers. LayerNorm normalizes over what is left.

    Args:
        ratio: the share of its channels that each group loses, 0 ≤ ratio < 1.
        macs: the share of the model's multiply-accumulates that may remain, 0 < macs ≤ 1: one threshold of importance
            for all groups, found by bisection.
        importance: 'l1' or 'l2' norm of a unit's weights, or 'batchnorm' for the |gamma| of its batch norms; over the
            mean of each layer, averaged over the group (Fang et al. 2023; Liu et al. 2017).
        ignore: names of layers, or of modules with layers in them, that keep all their output channels.
        round_to: what a layer keeps is a multiple of this; kernels work in blocks of 8 or 16 channels.
        min_channels: what a layer keeps at least.
        keep_mean: let each reader's bias take what the pruned channels gave it on average over the example. It saves
            much of the accuracy before any fine-tuning, and wants an example of real data.

    Raises:
        UsageError: FXQ130 for options that mean nothing, FXQ131 where `macs` is out of reach.
        ExampleInputError: FXQ132 without an example, which tells the shapes.
        UnknownTargetError: FXQ110 for a name in `ignore` that no layer has.
    """

    name: ClassVar[str] = "prune-channels"
    accepts: ClassVar[frozenset[Stage]] = frozenset({Stage.TRACED})

    ratio: float | None = None
    macs: float | None = None
    importance: str = "l2"
    ignore: tuple[str, ...] = ()
    round_to: int = 8
    min_channels: int = 1
    keep_mean: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.ignore, (list, set, frozenset)):
            object.__setattr__(self, "ignore", tuple(self.ignore))
        _check(self)

    def run(self, program: Program, ledger: Ledger) -> Program:
        program = _with_values(program)
        report, alive = self.plan(program)
        outputs, parameters = _outputs(program), _parameters(program)
        if not alive.all():
            if self.keep_mean:
                fold_means(program, report.flow, alive)
            shrink(program, report.flow, alive)
            program.graph_module.recompile()
            program = _checked(program, outputs)
        report.tell(ledger, alive, str(self), (parameters, _parameters(program)))
        return program

    def plan(self, program: Program) -> tuple[Report, Alive]:
        """What is known of the channels of a program whose shapes are known, and which of them stay."""
        flow = Flow(program)
        flow.walk(rule_of)
        _ignore(flow, self.ignore)
        groups = flow.channels.groups()
        scores, kinds = self._scores(program, groups)
        amounts = {name: cost.macs or 0 for name, cost in costs(snapshot_of(program.graph_module)).items()}
        report = Report(flow, groups, kinds, Work(amounts, flow.work), Limits(self.round_to, self.min_channels))
        return report, self._chosen(flow, groups, scores, report)

    def verify(self, program: Program) -> None:
        for node in program.graph.nodes:
            told = _misfit(program.module_of(node))
            if told:
                raise PassError("FXQ403", f"'{node.target}' {told}", node=node.name, module=str(node.target))

    def _scores(self, program: Program, groups: Sequence[Group]) -> tuple[list[Scores], list[str]]:
        tensors = tensors_of(program.graph_module)
        modules = program.graph_module.named_modules(remove_duplicate=False)
        norms = {f"{name}.weight" for name, module in modules if isinstance(module, _NORMS)}
        nothing: tuple[Scores, str] = (np.zeros(0), "")
        found = [nothing if group.frozen else importance(group, self.importance, tensors, norms) for group in groups]
        return [scores for scores, _ in found], [kind for _, kind in found]

    def _chosen(self, flow: Flow, groups: Sequence[Group], scores: Sequence[Scores], report: Report) -> Alive:
        choice = Choice(flow.channels, groups, scores, report.limits)
        if self.ratio is not None:
            return choice.by_ratio(self.ratio)
        assert self.macs is not None
        whole = report.work.left(flow.channels.all_alive())
        alive = choice.by_macs(self.macs * whole, report.work)
        if report.work.left(alive) > self.macs * whole:
            raise report.unreachable(self.macs, alive)
        return alive


def _check(step: PruneChannels) -> None:
    """FXQ130 names the first option that means nothing."""
    given = {name: value for name in ("ratio", "macs") if (value := getattr(step, name)) is not None}
    if len(given) != 1:
        told = "neither ratio nor macs" if not given else f"ratio={step.ratio!r} and macs={step.macs!r}"
        raise _refusal(f"prune-channels got {told}", "give one: ratio=0.5 of each group, or macs=0.5 of the model")
    [(name, value)] = given.items()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _refusal(f"{name}={value!r} is no share", f"give a number: {name}=0.5")
    if (name, value) in (("ratio", 1), ("macs", 0)):
        stays = "the model's inputs and outputs stay, and so does at least one channel of each layer"
        raise _refusal(f"{name}={value!r} would prune everything: {stays}", f"give {name}=0.5, say")
    if not 0 <= value <= 1:
        raise _refusal(f"{name}={value!r} is no share", "ratio is 0 or more and below 1, macs above 0 and at most 1")
    if step.importance not in KINDS:
        raise _refusal(f"importance={step.importance!r}", did_you_mean(str(step.importance), KINDS))
    for name in ("round_to", "min_channels"):
        count = getattr(step, name)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise _refusal(f"{name}={count!r} is no number of channels", f"give an integer from 1 up: {name}=8")
    if not isinstance(step.keep_mean, bool):
        raise _refusal(f"keep_mean={step.keep_mean!r}", "True or False")
    if not isinstance(step.ignore, tuple) or not all(isinstance(one, str) for one in step.ignore):
        raise _refusal(f"ignore={step.ignore!r}", "give the names of layers: ignore=('head',)")


def _refusal(message: str, hint: str) -> UsageError:
    return UsageError("FXQ130", message, hint=hint, pass_name=PruneChannels.name)


def _with_values(program: Program) -> Program:
    """The program with the shape that each node gives. FXQ132 where no example tells."""
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    if program.example_leaves is None:
        raise ExampleInputError(
            "FXQ132",
            f"prune-channels has to know shapes, and {program.model_name} came without an example",
            hint="pass example_inputs=(...), one call's arguments, to compress() or compile()",
        )
    if all(known_value(node) is not None for node in inputs):
        return program
    values = record_values(program.graph_module, program.example_leaves)
    if not values:
        raise ExampleInputError(
            "FXQ132",
            f"prune-channels has to know shapes, and {program.model_name} fails on its example",
            hint="call the model on the example inputs: the error shows there",
        )
    return replace(program, values=values)


def _ignore(flow: Flow, names: Sequence[str]) -> None:
    layers = list(dict.fromkeys(flow.channels.makers.values()))
    for name in names:
        axes = [axis for axis, layer in flow.channels.makers.items() if layer == name or layer.startswith(f"{name}.")]
        if not axes:
            raise UnknownTargetError(
                "FXQ110",
                f"ignore names '{name}', and no layer with channels is called so",
                hint=did_you_mean(name, layers),
            )
        for axis in axes:
            flow.channels.freeze(flow.channels.axes[axis], f"'{name}' is in ignore")


def _outputs(program: Program) -> list[object]:
    [output] = [node for node in program.graph.nodes if node.op == "output"]
    return [known_value(node) for node in output.all_input_nodes]


def _checked(program: Program, before: list[object]) -> Program:
    """The program with the values of the pruned graph; FXQ403 where it does not run, or gives other shapes."""
    values = record_values(program.graph_module, program.example_leaves)
    if not values or _outputs(program) != before:
        raise PassError(
            "FXQ403",
            f"the pruned graph {'gives other shapes than before' if values else 'fails on the example'}",
            hint="this is a fault of the pass: ignore=(...) the layers of the unusual part, and please report it",
        )
    return replace(program, values={**program.values, **values})


def _misfit(module: nn.Module | None) -> str:
    """What a layer says of its own size that its weight does not; empty where they agree."""
    match module:
        case nn.Linear():
            said, held = (module.out_features, module.in_features), tuple(module.weight.shape)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            said, held = (module.out_channels, module.in_channels // module.groups), tuple(module.weight.shape[:2])
        case nn.ConvTranspose1d() | nn.ConvTranspose2d() | nn.ConvTranspose3d():
            said, held = (module.in_channels, module.out_channels // module.groups), tuple(module.weight.shape[:2])
        case _:
            return ""
    return "" if said == held else f"says its weight is {said}, and it is {held}"


def _parameters(program: Program) -> int:
    return sum(parameter.numel() for parameter in program.graph_module.parameters())
