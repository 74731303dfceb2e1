"""CompiledModel: what compile() returns. It is called like the model it came from, and tells what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxquant.calibration import Observing, leaves_of
from fxquant.errors import ContractError, EmptyCalibrationError, LoweringError
from fxquant.ledger import Ledger
from fxquant.pipeline import PassRecord
from fxquant.plan import QuantPlan
from fxquant.program import Program, Stage
from fxquant.sizes import size_bytes

if TYPE_CHECKING:
    from fxquant.diffing import GraphDiff

Finish = Callable[
    [Program, int], tuple[Program, tuple[PassRecord, ...]]
]  # the rest of the pipeline, after so many samples


class CompiledModel(nn.Module):
    """A quantized model with the signature and output structure of the float one.

    While `stage` is PREPARED (repr: CALIBRATING) a call returns the float result and the observers look on;
    `convert()` finishes it. Made by `fxquant.compile`.
    """

    def __init__(self, program: Program, ledger: Ledger, history: tuple[PassRecord, ...], finish: Finish) -> None:
        super().__init__()
        self.training = False
        self._program, self._ledger, self._history, self._finish = program, ledger, history, finish
        self._fed = Observing(program, ledger)

    @property
    def stage(self) -> Stage:
        """How far the model has come."""
        return self._program.stage

    @property
    def plan(self) -> QuantPlan:
        """The decision for each call site."""
        assert self._program.plan is not None
        return self._program.plan

    @property
    def ledger(self) -> Ledger:
        """One row per layer: asked, got, why."""
        return self._ledger

    @property
    def history(self) -> tuple[PassRecord, ...]:
        """What each pass did, with the graph before and after it."""
        return self._history

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph that a call runs: flat tensor inputs, a tuple of tensors out."""
        return self._program.graph_module

    @property
    def canonical(self) -> fx.GraphModule:
        """The plain-integer quantize/dequantize graph that was lowered."""
        if self.stage < Stage.CONVERTED:
            raise ContractError("FXQ401", f"the model is {self.stage.name}: there is no canonical graph yet")
        return self._program.canonical or self._program.graph_module

    @property
    def target(self) -> str:
        """The engine it was compiled for."""
        return self._program.target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. FXQ107/FXQ503 when the arguments are not what it was captured with."""
        signature = self._program.signature
        if self.stage is Stage.PREPARED:
            return signature.rebuild(self._fed.run(leaves_of(self._program, args, kwargs, self._fed.batches)))
        leaves = signature.leaves(args, kwargs)
        try:
            with torch.no_grad():
                return signature.rebuild(self._program.graph_module(*leaves))
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise _refused(leaves, error) from error

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
        self._program, records = self._finish(self._fed.finish(), self._fed.samples)
        self._history = (*self._history, *records)
        return self

    def diff(self, before: Stage | str = Stage.TRACED, after: Stage | str | None = None) -> GraphDiff:
        """What changed between two stages (by default from the traced graph to the present one)."""
        from fxquant.diffing import diff

        return diff(self._snapshot_at(before), self._snapshot_at(self.stage if after is None else after))

    def _snapshot_at(self, stage: Stage | str) -> Any:
        wanted = Stage[stage.upper()] if isinstance(stage, str) else stage
        reached = [record.after for record in self._history if record.stage <= wanted]
        return self._history[0].before if wanted is Stage.TRACED else reached[-1]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Plain tensors of the canonical graph: int8 codes, scales, zero points, and what stayed float."""
        source = self.canonical if self.stage >= Stage.CONVERTED else self._program.graph_module
        return source.state_dict(*args, **kwargs)

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
        quantized = sum(row.effective.startswith("int8") for row in rows)
        name = self._program.model_name
        return f"CompiledModel({name}, {state}, target={self.target!r}, {quantized} of {len(rows)} sites int8)"


def _refused(leaves: tuple[torch.Tensor, ...], error: Exception) -> LoweringError:
    """What the engine said of these inputs, in the user's words."""
    told = ", ".join(f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)} on {leaf.device}" for leaf in leaves)
    return LoweringError(
        "FXQ503",
        f"the compiled model cannot run on ({told}): {error}",
        hint="give what the float model takes: float32 tensors on the CPU, of the shapes it was traced for",
    )
