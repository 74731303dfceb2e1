"""TrainableModel: a captured float model that passes have changed (pruned, factorized), and that trains on."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from fxquant.arrival import arrival_of, taken_in
from fxquant.captured import CapturedModel
from fxquant.errors import UsageError
from fxquant.ledger import Ledger
from fxquant.pipeline import PassRecord
from fxquant.program import Program
from fxquant.request import CaptureRequest
from fxquant.zeros import HeldZeros


class TrainableModel(CapturedModel):
    """An `nn.Module` with the signature and output structure of the model it was captured from.

    Its parameters are its own: train it, distil into it, move it, save its `state_dict()`. `fxquant.compile` takes it
    like any model and goes on with its ledger and history. What was pruned stays exactly zero, whatever trains it.
    Made by `fxquant.compress`, and by `compile(mode="qat")`.
    """

    def __init__(self, program: Program, ledger: Ledger, history: tuple[PassRecord, ...] = ()) -> None:
        super().__init__(program, ledger, history)
        self._adopt(program.graph_module)
        self._zeros = HeldZeros(program.graph_module, program.pruned)
        self.training = program.graph_module.training

    def _adopt(self, graph_module: fx.GraphModule) -> None:
        """Share the graph's modules and tensors, under the names that they have in the user's model."""
        for registry in ("_modules", "_parameters", "_buffers"):
            self.__dict__[registry] = graph_module.__dict__[registry]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph; gradients flow. FXQ107 when the arguments are not what it was captured with."""
        self.hold_zeros()
        signature = self._program.signature
        return signature.rebuild(self.run_graph(self.graph_module, signature.leaves(args, kwargs)))

    def run_graph(self, graph_module: fx.GraphModule, leaves: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """The results of this model's graph, or of another one over the same modules, as one call of the model."""
        results: tuple[Any, ...] = graph_module.forward(*leaves)  # a call of fx prints its own account of an error
        return results

    @property
    def masks(self) -> Mapping[str, torch.Tensor]:
        """Name of each pruned parameter → where it is held at zero (True), in the parameter's shape."""
        return MappingProxyType(self._zeros.masks)

    def hold_zeros(self) -> None:
        """Set pruned weights to exactly zero, whatever was written to them. Each call, copy and save does it first."""
        self._zeros.hold(self)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """As any module's, under the names of the model that it came from; pruned weights are exactly zero in it."""
        self.hold_zeros()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """What is zero in the loaded state is held from now on. FXQ135 for a state that would revive pruned weights."""
        self._zeros.take(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy with tensors and ledger of its own."""
        made = super().__deepcopy__(memo)
        made._adopt(made.graph_module)
        made.hold_zeros()
        return made

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        steps = [record.name for record in self._history if record.is_changed]
        told = f", after {', '.join(steps)}" if steps else ""
        return f"{type(self).__name__}({self._program.model_name}, {count:,} parameters{told})"


def recaptured(request: CaptureRequest, model: TrainableModel) -> Program:
    """The program inside a trainable model, as if it had just been captured: nothing needs tracing.

    FXQ111 for options of a capture that has been made already.
    """
    for name, given in (("concrete_args", request.concrete_args), ("leaf_modules", request.leaf_modules)):
        if given:
            raise UsageError(
                "FXQ111",
                f"{name}={given!r} comes too late: this {type(model).__name__} was captured already",
                hint=f"give {name} to fxquant.compress()",
            )
    program, cast = model.program, arrival_of(model).cast
    if cast:
        signature = replace(program.signature, cast=tuple(sorted({*program.signature.cast, *cast}, key=str)))
        program = replace(program, signature=signature)
    if request.example_args is None and request.example_kwargs is None:
        return program
    leaves = program.signature.leaves(request.example_args or (), request.example_kwargs or {})
    paths = [leaf.path for leaf in program.signature.tensor_leaves]
    return replace(program, example_leaves=tuple(leaf.detach() for leaf in taken_in(leaves, paths, cast)))


def forward_parameters(model: nn.Module) -> inspect.Signature:
    """The parameters of a model's forward(); of a captured one those of the model that it was captured from."""
    if isinstance(model, CapturedModel):
        return model.program.signature.parameters
    return inspect.signature(model.forward)
