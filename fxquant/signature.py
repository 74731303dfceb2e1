"""The model's call signature: the user's arguments ⇄ the tensor leaves that the graph takes, and the same for outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fxquant.errors import ExampleInputError
from fxquant.structure import Structure, flatten


@dataclass(frozen=True, slots=True)
class Constant:
    """A leaf that is no tensor: it was fixed at capture."""

    value: Any


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor leaf: its name in the graph, and where it stands in the arguments."""

    name: str
    path: str  # 'x', "batch['image']", 'pair[0]'


@dataclass(frozen=True, slots=True)
class Signature:
    """How forward() is called, as it was captured.

    `parameters` is forward's own signature without self. `inputs` are the leaves of the bound arguments in order;
    `outputs` says, for each leaf of the output, which output of the graph it is (an index) or its constant.
    """

    parameters: inspect.Signature
    structure: Structure
    inputs: tuple[Leaf | Constant, ...]
    output_structure: Structure | None = None
    outputs: tuple[int | Constant, ...] = ()
    _single: bool = field(init=False, default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        first = next(iter(self.parameters.parameters.values()), None)
        is_plain = first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
        constants = [leaf for leaf in self.inputs if isinstance(leaf, Constant)]
        others_default = len(self.inputs) - len(constants) == 1 and all(
            parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            for parameter in list(self.parameters.parameters.values())[1:]
        )
        leads = bool(self.inputs) and isinstance(self.inputs[0], Leaf) and self.inputs[0].path == getattr(first, "name", "")
        object.__setattr__(self, "_single", is_plain and others_default and leads and self._constants_are_defaults())

    def _constants_are_defaults(self) -> bool:
        return self.structure == _bind(self.parameters, (torch.empty(0),), {})[1] if self.inputs else False

    @property
    def tensor_leaves(self) -> tuple[Leaf, ...]:
        """The graph's inputs."""
        return tuple(leaf for leaf in self.inputs if isinstance(leaf, Leaf))

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        """The tensors for the graph from one call's arguments. FXQ107/FXQ108 when they do not fit."""
        if self._single and len(args) == 1 and not kwargs and isinstance(args[0], torch.Tensor):
            return (args[0],)
        values, structure = _bind(self.parameters, args, kwargs)
        if structure != self.structure or len(values) != len(self.inputs):
            raise ExampleInputError(
                "FXQ107",
                f"these arguments have the structure {structure}, the model was captured with {self.structure}",
                hint="compile with example_inputs of the structure you will call it with",
            )
        tensors = []
        for leaf, value in zip(self.inputs, values, strict=True):
            if isinstance(leaf, Leaf):
                tensors.append(_tensor(leaf, value))
            elif not _same(leaf.value, value):
                raise ExampleInputError(
                    "FXQ108",
                    f"an argument was fixed at {leaf.value!r} when the model was captured, and is {_told(value)} now",
                    hint="compile again with example_inputs or concrete_args that have the value you need",
                )
        return tuple(tensors)

    def rebuild(self, results: Sequence[torch.Tensor]) -> Any:
        """The user's output structure from the graph's outputs."""
        assert self.output_structure is not None
        return self.output_structure.unflatten(
            item.value if isinstance(item, Constant) else results[item] for item in self.outputs
        )


def _tensor(leaf: Leaf, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ExampleInputError("FXQ107", f"argument '{leaf.path}' must be a tensor, not {_told(value)}")
    return value


def _told(value: Any) -> str:
    return "a tensor" if isinstance(value, torch.Tensor) else repr(value)


def _same(fixed: Any, value: Any) -> bool:
    return fixed is value or (type(fixed) is type(value) and not isinstance(value, torch.Tensor) and bool(fixed == value))


def bind(parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """Python's own argument binding with defaults filled in. FXQ107 when the call does not fit."""
    try:
        bound = parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise ExampleInputError(
            "FXQ107", f"the model cannot be called like this: {error}", hint=f"its signature is forward{parameters}"
        ) from error
    bound.apply_defaults()
    return bound


def _bind(parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], Structure]:
    return flatten(dict(bind(parameters, args, kwargs).arguments))
