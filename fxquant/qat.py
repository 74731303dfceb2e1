"""QATModel: what compile(mode="qat") gives. It trains like any module, and `convert()` makes a CompiledModel of it."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fxquant.calibration import enough_rows
from fxquant.errors import ContractError, FxQuantWarning
from fxquant.graphmodule import copied
from fxquant.ledger import Ledger
from fxquant.model import CompiledModel, Finish
from fxquant.pipeline import Observer, PassRecord, Pipeline, after
from fxquant.program import Program, Stage
from fxquant.source import Source
from fxquant.trainable import TrainableModel
from fxquant.training.agreement import Agreement, compare, refuse_disagreement
from fxquant.training.dropout import hidden_dropout, tell_hidden
from fxquant.training.fake_quantizer import FakeQuantizer
from fxquant.training.layers import QATLayer
from fxquant.training.pipeline import split_for_training
from fxquant.training.readiness import check_finite, check_seen, weight_sums, why_untrained
from fxquant.training.schedule import QATSchedule
from fxquant.training.source import TrainedSource, weights_state


class QATModel(TrainableModel):
    """A float model whose weights and activations are rounded as the quantized one's will be, and that trains.

    In training mode ranges follow the data and batch norms are live; in eval mode it computes what the converted model
    will. Use it in any training loop; `convert()` may be called at any time, in either mode, and more than once.
    """

    def __init__(
        self,
        program: Program,
        ledger: Ledger,
        history: tuple[PassRecord, ...],
        convert: Finish,
        lower: Finish,
        source: Source,
        *,
        schedule: QATSchedule | None = None,
        guard_inputs: bool = False,
    ) -> None:
        super().__init__(program, ledger, history)
        self._convert, self._lower, self._source, self._guard_inputs = convert, lower, source, guard_inputs
        self._schedule = schedule or QATSchedule()
        self._steps = 0
        self._agreement: tuple[Agreement, ...] = ()
        self._is_observing, self._is_norm_live = True, True
        self._born = weight_sums(self)
        self._follow_schedule()

    @property
    def steps(self) -> int:
        """How many calls in training mode were differentiated."""
        return self._steps

    @property
    def schedule(self) -> QATSchedule:
        """When ranges and batch norms freeze by themselves."""
        return self._schedule

    @property
    def agreement(self) -> tuple[Agreement, ...]:
        """The table of the last check() or convert(): a row for each requantization or layer."""
        return self._agreement

    # Training -------------------------------------------------------------------------------------------------------

    def run_graph(self, graph_module: fx.GraphModule, leaves: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """One call of the model: with rounding, and counted as a step once it is differentiated."""
        if self._program.example_leaves is None:
            self._program = replace(self._program, example_leaves=_few(leaves))
        results = super().run_graph(graph_module, leaves)
        if self.training and torch.is_grad_enabled():
            self._count_backward(results)
        return results

    def _count_backward(self, results: Sequence[Tensor]) -> None:
        """One step when a gradient arrives at any of this call's results."""
        arrived: list[bool] = []

        def count(gradient: Tensor) -> None:
            if not arrived:
                arrived.append(True)
                self._steps += 1
                self._follow_schedule()

        for result in results:
            if isinstance(result, Tensor) and result.requires_grad:
                result.register_hook(count)  # type: ignore[no-untyped-call]

    def _follow_schedule(self) -> None:
        for after_steps, freeze in (
            (self._schedule.freeze_observers_after, self.freeze_observers),
            (self._schedule.freeze_batchnorm_after, self.freeze_batchnorm),
        ):
            if after_steps == self._steps:
                freeze()

    def freeze_observers(self) -> None:
        """From here on every scale and zero point stays as it is."""
        self._set(is_observing=False, is_norm_live=self._is_norm_live)

    def freeze_batchnorm(self) -> None:
        """From here on batch norms use and keep their running statistics; their weights train on."""
        self._set(is_observing=self._is_observing, is_norm_live=False)

    def _set(self, *, is_observing: bool, is_norm_live: bool) -> None:
        self._is_observing, self._is_norm_live = is_observing, is_norm_live
        for module in self.modules():
            if isinstance(module, FakeQuantizer):
                module.is_observing = is_observing and module.grid.fixed is None
            elif isinstance(module, QATLayer):
                module.is_norm_frozen = not is_norm_live
            elif isinstance(module, _BatchNorm):
                module.train(self.training and is_norm_live)

    def train(self, mode: bool = True) -> QATModel:
        """As nn.Module; frozen batch norms stay in eval."""
        super().train(mode)
        self._set(is_observing=self._is_observing, is_norm_live=self._is_norm_live)
        return self

    def get_extra_state(self) -> Tensor:
        """Steps, and whether ranges and batch norms are live: part of state_dict()."""
        return torch.tensor([self._steps, self._is_observing, self._is_norm_live])

    def set_extra_state(self, state: Tensor) -> None:
        """What load_state_dict() found."""
        steps, is_observing, is_norm_live = state.tolist()
        self._steps = steps
        self._set(is_observing=bool(is_observing), is_norm_live=bool(is_norm_live))

    def float_state_dict(self) -> dict[str, Tensor]:
        """The trained weights under the float model's own names, without rounding: what its load_state_dict takes."""
        found: dict[str, Tensor] = {}
        skipped: set[nn.Module] = set()
        for name, module in self.named_modules():
            if isinstance(module, QATLayer):
                for norm_name, norm in zip(module.norm_names, module.norms, strict=True):
                    found |= {f"{norm_name}.{key}": value for key, value in norm.state_dict().items()}
                skipped.update(module.norms.modules())
            if not isinstance(module, FakeQuantizer) and module not in skipped:
                own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
                found |= {f"{name}.{key}".lstrip("."): value.detach() for key, value in own}
        return found

    # Conversion -----------------------------------------------------------------------------------------------------

    def convert(self) -> CompiledModel:
        """The finished model, as the weights and ranges are now. This one stays as it is and may train on.

        It is made of a copy in eval mode, so the mode of this one does not matter. Layer by layer the two are compared
        (`agreement`).

        Raises:
            FxQuantError: FXQ301 when no batch was seen in training mode, FXQ302 for NaN in weights, FXQ408 when a layer
                computes something else than in training. FXQ314 is a warning and a notice: nothing was trained.
        """
        self._check_ready()
        ledger = Ledger.of(self._ledger.state())
        idle = None if weight_sums(self) != self._born else why_untrained(self._steps)
        if idle is not None:
            told, hint = idle
            ledger.notice("FXQ314", f"nothing was trained: {told}", hint=hint)
            warnings.warn(f"FXQ314 nothing was trained: {told}; {hint}", FxQuantWarning, stacklevel=2)
        return self._converted(ledger)

    def check(self) -> tuple[Agreement, ...]:
        """Convert a copy and compare, layer by layer. FXQ408 names a layer that is more than a step off."""
        self._check_ready()
        self._converted(Ledger.of(self._ledger.state()))
        return self._agreement

    def _check_ready(self) -> None:
        check_finite(self)
        check_seen(self._program)

    def _converted(self, ledger: Ledger) -> CompiledModel:
        with after(self._history):
            program, records = self._convert(self._copied(), ledger, 0)
            self._compare(program.graph_module, ledger)  # as training rounds: later passes round less often
        with after((*self._history, *records)):
            program, more = self._lower(program, ledger, 0)
        history, source = (*self._history, *records, *more), self._trained_source()
        return CompiledModel(program, ledger, history, self._lower, source, guard_inputs=self._guard_inputs)

    def _compare(self, canonical: fx.GraphModule, ledger: Ledger) -> None:
        leaves = self._program.example_leaves
        if leaves is None:
            ledger.notice("FXQ408", "no example input is known: trained and converted layers were not compared")
            return
        trained = self._copied().graph_module
        self._agreement = compare(trained, canonical, tuple(leaf.cpu() for leaf in leaves), ledger)
        refuse_disagreement(self._agreement, trained)

    def _copied(self) -> Program:
        """A copy of the program on the CPU, in eval mode."""
        graph_module = copied(self.graph_module).cpu().float()
        for module in graph_module.modules():
            module.training = False
        return replace(self._program, graph_module=graph_module)

    def _trained_source(self) -> TrainedSource:
        source = self._source
        return TrainedSource(
            source.model,
            source.fingerprint,
            source.concrete_args,
            source.leaf_modules,
            weakref.ref(self),
            weights_state(self),
        )

    def save(self, path: str | os.PathLike[str], **options: Any) -> NoReturn:
        """Refused: a model in training has no artifact. FXQ409."""
        raise ContractError(
            "FXQ409",
            f"a model in training cannot be saved as '{os.fspath(path)}'",
            hint="model.convert().save(path) for the finished model; torch.save(model.state_dict(), path) to train on",
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refused: loading a pickle runs code. FXQ409."""
        raise ContractError(
            "FXQ409",
            "a model in training does not pickle",
            hint="keep state_dict(); compile again with the same mapping and load_state_dict() to train on",
        )

    def __repr__(self) -> str:
        fakes = [module for module in self.modules() if isinstance(module, FakeQuantizer)]
        count = sum(parameter.numel() for parameter in self.parameters())
        state = [
            f"step {self._steps:,}",
            f"{len(fakes)} fake quantizers, ranges {'live' if self._is_observing else 'frozen'}",
            f"batch norm {'live' if self._is_norm_live else 'frozen'}",
            *([str(self._schedule)] if str(self._schedule) else []),
        ]
        return f"QATModel({self._program.model_name}, {count:,} parameters, {'; '.join(state)})"


def begin(
    pipeline: Pipeline,
    program: Program,
    ledger: Ledger,
    history: tuple[PassRecord, ...],
    finish: Callable[[Pipeline], Finish],
    source: Source,
    *,
    observers: Sequence[Observer] = (),
    schedule: QATSchedule | None = None,
    guard_inputs: bool = False,
) -> QATModel:
    """Run a pipeline up to training. `finish` makes the rest of one run where the engine is."""
    head, tail = split_for_training(pipeline)
    pipeline.check(program.stage)
    hiding = hidden_dropout(program)
    program, records = head.run(program, ledger, observers=observers)
    assert program.stage is Stage.PREPARED
    tell_hidden(hiding, program, ledger)
    program = _on_first_links(program, ledger)
    records = (*history, *records)
    converting = tail.until(Stage.CONVERTED)
    finishes = finish(converting), finish(Pipeline(tail.passes[len(converting) :]))
    return QATModel(program, ledger, records, *finishes, source, schedule=schedule, guard_inputs=guard_inputs)


def _on_first_links(program: Program, ledger: Ledger) -> Program:
    """Training cannot begin anew with another link of a chain: no batches are kept for that, and it is said."""
    if program.plan is None or not any(decision.fallbacks for decision in program.plan):
        return program
    told = "what trains is the first link of each chain that a site can have; if that does not run, the site is float"
    ledger.notice("FXQ510", told, hint="name such a layer in a rule of its own")
    return replace(program, kept_batches=())


def _few(leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The first rows of a call, where its tensors share a leading size."""
    sizes = {leaf.shape[0] if leaf.dim() > 0 else None for leaf in leaves}
    rows = enough_rows(leaves) if len(sizes) == 1 and None not in sizes else None
    return tuple((leaf if rows is None else leaf[:rows]).detach().clone() for leaf in leaves)
