"""A MODEL of the command line at work: loaded once, compiled once, and its snapshot at any stage."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from fxquant.errors import EmptyCalibrationError, FxQuantError, UsageError
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.loading import Loaded, load, load_data, random_call, seeded
from fxquant.tools.model_options import Options
from fxquant.tools.model_reference import STAGES, Reference
from fxquant.tools.pass_progress import PassProgress

if TYPE_CHECKING:
    from torch import nn

    from fxquant.batches import Call
    from fxquant.model import CompiledModel
    from fxquant.row import Row

RANDOM = "calibrated on random numbers: to look at the graph only, not at accuracy"
ONE_CALL = "calibrated on one example: to look at the graph only, not at accuracy (--data gives it data)"
NEEDS_DATA = STAGES[STAGES.index("calibrated") :]


class Subject:
    """What a reference (less its stage) and the options come to; each part is computed when it is first asked for."""

    def __init__(self, reference: Reference, options: Options) -> None:
        self.reference, self.options = reference, options
        self.notes: list[str] = []  # what the user should know of how this came about
        self._progress = PassProgress()

    @cached_property
    def _loaded(self) -> Loaded:
        loaded = load(self.reference, seed=self.options.seed)
        ignored = [] if _is_float(loaded.source) else self.options.of_a_compilation
        if ignored:
            told = "means" if len(ignored) == 1 else "mean"
            self.notes.append(f"{', '.join(ignored)} {told} nothing here: '{self.reference}' is compiled already")
        return loaded

    @property
    def is_float(self) -> bool:
        """A float model, that has yet to be compiled."""
        return _is_float(self._loaded.source)

    @property
    def model(self) -> nn.Module | None:
        """The float model, where there is one."""
        return self._loaded.source if self.is_float else None

    @cached_property
    def example(self) -> Call | None:
        """Random inputs where --shape asks for them, else the call that came with the model."""
        if self.options.inputs:
            return random_call(self.options.inputs, seed=self.options.seed)
        return self._loaded.example

    @property
    def inputs(self) -> Any:
        """The example as `measure` and the report take it: a tuple of arguments, or a dict of keywords; None."""
        call = self.example
        return None if call is None else call.kwargs or call.args

    @cached_property
    def data(self) -> Any:
        """What --data names; None without it."""
        reference = self.options.data
        return None if reference is None else load_data(reference, seed=self.options.seed)

    def snapshot(self, stage: str = "") -> GraphSnapshot:
        """The graph at a stage; '': as it is, which for a float model is traced. FXQ115 for a stage of a snapshot."""
        source = self._loaded.source
        if isinstance(source, GraphSnapshot):
            if stage:
                raise UsageError("FXQ115", f"'{self.reference}' is of one stage", hint=f"leave '{stage}' out")
            return source
        if not self.is_float:
            return self._compiled.snapshot(stage or None)
        if stage in ("", STAGES[0]) and self._compiled_by_now is None:
            return self._traced()
        return self.compiled(stage or STAGES[0]).snapshot(stage or STAGES[0])

    @property
    def ledger(self) -> tuple[Row, ...]:
        """The rows of the layers, where the model is compiled by now; else none."""
        made = self._compiled_by_now
        return () if made is None else made.ledger.layers

    @property
    def like(self) -> GraphSnapshot | None:
        """An earlier graph, in which weights that are packed by now have a shape and a dtype; None uncompiled."""
        made = self._compiled_by_now
        if made is None:
            return None
        is_converted = STAGES.index(made.stage.name.lower()) >= STAGES.index("converted")
        return made.snapshot("converted" if is_converted else STAGES[0])

    @property
    def _compiled_by_now(self) -> CompiledModel | None:
        if "_compiled" in self.__dict__:
            return self._compiled
        is_compiled = not self.is_float and not isinstance(self._loaded.source, GraphSnapshot)
        return self._loaded.source if is_compiled else None

    def decide(self) -> None:
        """Compile as far as the data at hand allows, for the decisions; a model that cannot be compiled gets a note.

        A wrong option (UsageError) is no property of the model: it is raised.
        """
        if not self.is_float:
            return
        try:
            self.compiled(STAGES[0] if self.example is None else STAGES[-1])
        except UsageError:
            raise
        except FxQuantError as error:
            self.notes.append(f"nothing was decided: {error.code} {error.message}")

    def _traced(self) -> GraphSnapshot:
        """The graph without a compilation, so that a model which does not compile can be looked at."""
        from torch import fx

        from fxquant.capture import capture
        from fxquant.fork import fork
        from fxquant.graphs.snapping import snapshot
        from fxquant.ledger import Ledger
        from fxquant.request import CaptureRequest

        source, call = self._loaded.source, self.example
        if isinstance(source, fx.GraphModule):  # as its owner named its nodes
            return snapshot(source, example_inputs=None if call is None or call.kwargs else call.args)
        args, kwargs = (None, None) if call is None else (call.args, call.kwargs)
        with redirect_stdout(sys.stderr), seeded(self.options.seed):
            return snapshot(capture(CaptureRequest(fork(source), args, kwargs), Ledger()))

    def compiled(self, stage: str = STAGES[-1]) -> CompiledModel:
        """The model, compiled so far that it has this stage's graph. FXQ301 when that takes data and there is none."""
        if not self.is_float:
            return self._compiled
        from fxquant.program import Stage

        with redirect_stdout(sys.stderr), seeded(self.options.seed), self._progress:
            made = self._compiled
            if stage in NEEDS_DATA and made.stage is Stage.PREPARED:
                self._calibrate(made)
        return made

    @cached_property
    def _compiled(self) -> CompiledModel:
        source, call, options = self._loaded.source, self.example, self.options
        if isinstance(source, GraphSnapshot):
            raise UsageError(
                "FXQ115", f"'{self.reference}' is a snapshot, which cannot be compiled", hint="give the model's factory"
            )
        if not self.is_float:
            return cast("CompiledModel", source)
        import fxquant

        return fxquant.compile(
            source,
            _asked(options.mapping),
            calibration_data=self.data,
            example_inputs=None if call is None else (call.args, call.kwargs),
            target=options.target,
            strict=options.is_strict,
            observers=(self._progress,),
        )

    def _calibrate(self, waiting: CompiledModel) -> None:
        """On the one call that is known."""
        if self.example is None:
            raise EmptyCalibrationError(
                "FXQ301",
                f"'{self.reference}' needs data to be calibrated on, and there is none",
                hint="--data file.py:batches, or --shape 1,3,224,224 to look at its graph with random numbers",
            )
        waiting(*self.example.args, **self.example.kwargs)
        waiting.convert()
        self.notes.append(RANDOM if self.options.inputs else ONE_CALL)


def _asked(mapping: str) -> str | tuple[str, ...]:
    """A preset's name or a recipe's path as it stands; names with commas between them are a fallback chain."""
    is_chain = "," in mapping and not mapping.endswith(".toml")
    return tuple(name.strip() for name in mapping.split(",")) if is_chain else mapping


def _is_float(source: object) -> bool:
    if isinstance(source, GraphSnapshot):
        return False
    from fxquant.model import CompiledModel  # it imports torch, which a snapshot can do without

    return not isinstance(source, CompiledModel)
