"""CompiledModel: what compile() returns. It is called like the model it came from, and tells what became of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import fx, nn

from fxquant.autocasting import is_autocast_on, without_autocast
from fxquant.calibration import Observing, check_finite, leaves_of
from fxquant.captured import CapturedModel
from fxquant.direct import direct_call, is_watched
from fxquant.errors import ArtifactError, ContractError, EmptyCalibrationError, LoweringError
from fxquant.graphs.snapping import stage_named
from fxquant.html import page
from fxquant.ledger import Ledger
from fxquant.pipeline import PassRecord, after
from fxquant.plan import QuantPlan
from fxquant.priming import Priming
from fxquant.program import Program, Stage
from fxquant.recorded import recorder
from fxquant.refusals import recorded_call, refused_call
from fxquant.sandbox import one_compilation
from fxquant.sizes import size_bytes
from fxquant.source import Source
from fxquant.targets import EXTERNAL
from fxquant.torch_ao import engine

if TYPE_CHECKING:
    from fxquant.drawing.picture import Picture
    from fxquant.graphs.diffing import GraphDiff
    from fxquant.graphs.snapshot import GraphSnapshot

# What torch's functions and kernels raise on arguments that do not suit them
_REFUSALS = (
    RuntimeError, TypeError, ValueError, AssertionError, LookupError, ArithmeticError, AttributeError, MemoryError,
)  # fmt: skip

_STAYS = "move or cast its inputs and outputs instead"

# The rest of the pipeline: (program, ledger, samples seen so far) → the finished program and what each pass did
Finish = Callable[[Program, Ledger, int], tuple[Program, tuple[PassRecord, ...]]]


def already_finished(program: Program, ledger: Ledger, samples: int) -> tuple[Program, tuple[PassRecord, ...]]:
    """What is left to do for a finished program."""
    return program, ()


class CompiledModel(CapturedModel):
    """A quantized model with the signature and output structure of the float one.

    While `stage` is PREPARED (repr: CALIBRATING) a call returns the float result and the observers look on;
    `convert()` finishes it. Made by `fxquant.compile`.
    """

    def __init__(
        self,
        program: Program,
        ledger: Ledger,
        history: tuple[PassRecord, ...],
        finish: Finish,
        source: Source,
        *,
        guard_inputs: bool = False,
        born: Stage = Stage.TRACED,
    ) -> None:
        super().__init__(program, ledger, history)
        self.training = False
        self.guard_inputs = guard_inputs
        self._finish, self._source = finish, source
        self.first_stage = born  # that its history knows: TRACED, or CONVERTED where it was loaded
        self._fed = Observing(program, ledger)
        self._direct = direct_call(program)
        self._priming = Priming()

    @property
    def stage(self) -> Stage:
        """How far the model has come."""
        return self._program.stage

    @property
    def plan(self) -> QuantPlan:
        """The decision for each call site."""
        if self._program.plan is None:
            raise ContractError("FXQ401", "there is no plan", hint="put select-qconfigs into the pipeline")
        return self._program.plan

    @property
    def canonical(self) -> fx.GraphModule:
        """The plain-integer quantize/dequantize graph that was lowered."""
        if self.stage < Stage.CONVERTED:
            raise ContractError("FXQ401", f"the model is {self.stage.name}: there is no canonical graph yet")
        return self._program.canonical or self._program.graph_module

    @property
    def target(self) -> str:
        """What it was compiled for: a name of the table of targets."""
        return self._program.target

    @property
    def engine(self) -> str:
        """The engine of torch's own that its plan is for; the target itself, where that is one."""
        return self._program.engine

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`, with its hooks; by the short way (see direct.py) where the arguments allow it.

        nn.Module's own way of calling takes 20 µs after a large graph has taken the caches.
        """
        if self._direct is not None and not kwargs and not self.guard_inputs and not is_watched(self):
            try:
                results = self._direct(args)
            except _REFUSALS as error:
                raise self._refused(args, error) from error
            if results is not None:
                return self._program.signature.rebuild(results)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. FXQ107/FXQ503 when the arguments are not what it was captured with.

        With `guard_inputs`, NaN or infinity in an input is FXQ302: integer kernels make plausible numbers of both.
        """
        if self.stage is Stage.LOWERED and self.target in EXTERNAL and (by := recorder()):
            raise recorded_call(self.target, by)
        if is_autocast_on():  # quantize takes float32, and float layers computed in bfloat16 would feed it
            with without_autocast():
                return self.forward(*args, **kwargs)
        signature = self._program.signature
        if self.stage is Stage.PREPARED:
            return signature.rebuild(self._fed.run(leaves_of(self._program, args, kwargs, self._fed.batches)))
        leaves = signature.leaves(args, kwargs)
        if self.guard_inputs:
            check_finite(self._program, leaves, "this call", "clean the data, or compile with guard_inputs=False")
        try:
            with torch.no_grad():  # forward, not a call: a call of fx prints its own account of an error
                return signature.rebuild(self._graph_for(leaves).forward(*leaves))
        except _REFUSALS as error:
            raise self._refused(leaves, error) from error

    def _refused(self, leaves: tuple[torch.Tensor, ...], error: Exception) -> LoweringError:
        """FXQ515 where an engine outside torch alone refuses what the model takes; else FXQ503."""
        canonical = self._program.canonical
        if self.target in EXTERNAL and canonical is not None:
            with suppress(*_REFUSALS), torch.no_grad():
                canonical.forward(*leaves)
                hint = "compile with example_inputs of this shape, or for one of torch's own engines (`fxquant doctor`)"
                return refused_call("FXQ515", f"{self.target} cannot run", leaves, error, hint)
        hint = "give what the float model takes: float32 tensors on the CPU, of the shapes it was traced for"
        return refused_call("FXQ503", "the compiled model cannot run", leaves, error, hint)

    def _graph_for(self, leaves: tuple[torch.Tensor, ...]) -> fx.GraphModule:
        """The lowered graph; for an empty batch the canonical one: oneDNN's kernels lose dimensions or refuse it."""
        canonical = self._program.canonical
        if canonical is None:
            return self._program.graph_module
        if any(leaf.numel() == 0 for leaf in leaves):
            return canonical
        self._priming.follow(self._program.graph_module, self.engine, leaves)
        return self._program.graph_module

    def convert(self) -> CompiledModel:
        """Finish a CALIBRATING model in place and return it. FXQ301 when it has seen nothing."""
        if self.stage is not Stage.PREPARED:
            raise ContractError("FXQ401", f"the model is {self.stage.name} already", hint="convert() is called once")
        if self._fed.samples == 0:
            raise EmptyCalibrationError(
                "FXQ301",
                "nothing was seen: the model was not called since it was compiled",
                hint="call it on some batches first, give calibration_data=, or use the preset 'int8-dynamic'",
            )
        with after(self._history):
            self._program, records = self._finish(self._fed.finish(), self._ledger, self._fed.samples)
        self._direct = direct_call(self._program)
        self._finish, self._fed = already_finished, Observing(self._program, self._ledger)  # lets go of what they kept
        self._history = (*self._history, *records)
        return self

    def diff(self, before: Stage | str | None = None, after: Stage | str | None = None) -> GraphDiff:
        """What changed between two stages (by default from the first graph that it knows to the present one)."""
        from fxquant.graphs.diffing import diff

        return diff(self.snapshot(self.first_stage if before is None else before), self.snapshot(after))

    def save(self, path: str | os.PathLike[str], *, probe: bool = False, follow_links: bool = False) -> Path:
        """Write this model as one file, whole or not at all, for `fxquant.load`. The same bytes for the same model.

        Args:
            path: where to; by convention it ends in '.fxq.safetensors'.
            probe: store the example rows that the model was compiled with, so that load(check_probe=True) can hold each
                layer of the engine there to the canonical graph. They are rows of the calibration data: do not give
                them away.
            follow_links: where the path is a link, replace what it points to.

        Raises:
            ArtifactError: FXQ606 when it cannot be written, FXQ611 for a model with something that no file can hold.
        """
        from fxquant.artifact.saving import save

        return save(self, path, has_probe=probe, follows_links=follow_links)

    def export(self, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
        """Write the canonical graph for other programs, whole or not at all: ONNX, OpenVINO or torch.export.

        Output only: fxquant does not read these files back, and loading a .pt2 runs code.

        Args:
            path: where to; 'm.onnx', 'm.xml' (with 'm.bin' beside it) or 'm.pt2'.
            format: 'onnx', 'openvino' or 'pt2'; None: by the suffix.

        Raises:
            FxQuantError: FXQ118 for a path that cannot be written or names no format, FXQ401 while it calibrates,
                FXQ516 when the format's package is not installed, FXQ517 when the graph has no form there.
        """
        from fxquant.exporting import export

        return export(self, path, format=format)

    def snapshot(self, stage: Stage | str | None = None) -> GraphSnapshot:
        """The graph as it was at a stage; None: as it is. FXQ402 when the model has not come so far."""
        wanted = self.stage if stage is None else stage_named(stage)
        if wanted < self.first_stage:
            told = f"a loaded model begins {self.first_stage.name}: what was before is not in its file"
            raise ContractError("FXQ402", told, hint=f"stages it has: {self.first_stage.name}, {self.stage.name}")
        if wanted > self.stage or not self._history:
            raise ContractError("FXQ402", f"the model is {self.stage.name}: it has not reached {wanted.name}")
        reached = [record.after for record in self._history if record.stage <= wanted]
        return self._history[0].before if wanted is self.first_stage or not reached else reached[-1]

    __fxquant_snapshot__ = snapshot  # by this `fxquant.snapshot` asks it, without knowing what it is

    def draw(self, stage: Stage | str | None = None, **options: Any) -> Picture:
        """A picture of the graph at a stage, its float islands outlined. Options are those of `fxquant.draw`."""
        from fxquant.drawing.picture import draw
        from fxquant.graphs.islands import islands, outlines

        graph = self.snapshot(stage)
        return draw(graph, **{"islands": outlines(islands(graph)), **options})

    def report(
        self, path: str | os.PathLike[str], *, model: nn.Module | None = None, inputs: Any = None, rows: int = 4
    ) -> Path:
        """Write one self-contained HTML file about this model: layers and why, errors, diffs, pictures, timings.

        Args:
            path: where to. Written whole or not at all.
            model: the float model to measure against, where the one that was compiled is gone.
            inputs: one call's arguments to measure on; None: the first calibration rows.
            rows: how many rows of them at most.
        """
        from fxquant.reporting.report import write_report

        return write_report(self, path, model=model, inputs=inputs, rows=rows)

    def trace_float(self, model: nn.Module | None = None) -> Program:
        """The float graph that this one came from, to compare with: of `model`, else of the model that was compiled.

        FXQ313 when that model is gone or was changed since.
        """
        return self._source.trace(self._program, model)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Plain tensors of the canonical graph: int8 codes, scales, zero points, and what stayed float."""
        source = self.canonical if self.stage >= Stage.CONVERTED else self._program.graph_module
        return source.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: codes mean nothing without the scales in the graph. FXQ401."""
        raise ContractError(
            "FXQ401",
            "a compiled model takes no state_dict: its scales are part of its graph",
            hint="load the weights into the float model, then compile it",
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CompiledModel:
        """`.to('cpu')` and `.float()` change nothing; another device or dtype is FXQ503."""
        try:
            moved = fn(torch.zeros(()))
        except (
            AssertionError,
            RuntimeError,
            NotImplementedError,
        ) as error:  # a device that this torch is built without
            raise LoweringError("FXQ503", f"a compiled model cannot move there: {error}", hint=_STAYS) from error
        if moved.device.type == "cpu" and moved.dtype is torch.float32:
            return self
        told = f"device '{moved.device}'" if moved.device.type != "cpu" else str(moved.dtype)
        raise LoweringError(
            "FXQ503",
            f"a compiled model for target '{self.target}' cannot move to {told}: its kernels take float32 on the CPU",
            hint=_STAYS,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with weights, ledger and observers of its own."""
        with one_compilation(), engine(self.engine):  # packed weights are packed again, for the engine that is set
            return super().__deepcopy__(memo)

    def _frozen(self) -> tuple[Any, ...]:
        return (self._source, *super()._frozen())

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refused: loading a pickle runs code, and packed weights belong to one engine. FXQ610."""
        raise ArtifactError(
            "FXQ610",
            "a compiled model does not pickle: packed weights belong to the engine of this process",
            hint="pickle the float model and compile it again, or keep compiled.state_dict(), which is plain tensors",
        )

    def size_bytes(self) -> int:
        """Bytes of the state, each storage once."""
        return size_bytes(self.state_dict().values())

    def train(self, mode: bool = True) -> CompiledModel:
        """A quantized model does not train: train(False) is accepted, train(True) is FXQ401."""
        if mode:
            raise ContractError(
                "FXQ401", "a compiled model does not train", hint="fine-tune the float model, then compile it"
            )
        return self

    def __repr__(self) -> str:
        state = "CALIBRATING" if self.stage is Stage.PREPARED else self.stage.name
        rows = self._ledger.layers
        got = [row.effective for row in rows]
        kinds = dict.fromkeys(kind for kind in got if kind.endswith(" weights"))
        weights = "".join(f", {got.count(kind)} {kind}" for kind in kinds)
        simulated = sum(kind.startswith("simulated") for kind in got)
        weights += f", {simulated} simulated" if simulated else ""
        name = self._program.model_name
        told = f"{sum(_is_int8(kind) for kind in got)} of {len(rows)} sites int8{weights}"
        return f"CompiledModel({name}, {state}, target={self.target!r}, {told})"

    def _repr_html_(self) -> str:
        return page(repr(self), self._ledger)


def _is_int8(effective: str) -> bool:
    """Computed on codes, at least in part."""
    return effective.startswith("int8") and not effective.startswith("int8 weights")
