"""The model's call signature: the user's arguments ⇄ the tensor leaves of the graph, and the same for outputs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fxquant.errors import ExampleInputError
from fxquant.structure import Structure, flatten_with_paths


@dataclass(frozen=True, slots=True)
class Constant:
    """A leaf that is no tensor: it was fixed at capture. `path` says where it stands, for an argument."""

    value: Any
    path: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor leaf: its name in the graph, and where it stands in the arguments.

    `rank` is set where the traced code asked for the number of dimensions: the graph holds for this rank only.
    """

    name: str
    path: str  # 'x', "batch['image']", 'pair[0]'
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """How forward() is called, as it was captured.

    `parameters` is forward's own signature without self, `fixed` the arguments that concrete_args took out of it.
    `inputs` are the leaves of the bound arguments in order; `outputs` says, for each leaf of the output, which
    output of the graph it is (an index) or its constant.
    """

    parameters: inspect.Signature
    structure: Structure
    inputs: tuple[Leaf | Constant, ...]
    output_structure: Structure | None = None
    outputs: tuple[int | Constant, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    cast: tuple[torch.dtype, ...] = ()  # the model's own dtypes before it was cast: inputs of these become float32
    _plain: int = field(init=False, default=0, compare=False, repr=False)  # so many positional tensors fit at once
    _is_single: bool = field(init=False, default=False, compare=False, repr=False)  # the output is one tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "_plain", self._count_plain())
        is_single = self.output_structure is not None and self.output_structure.is_leaf and self.outputs == (0,)
        object.__setattr__(self, "_is_single", is_single)

    def _count_plain(self) -> int:
        """n > 0 when a call with n positional tensors needs no binding: the rest are constants at their defaults."""
        leaves = self.tensor_leaves
        if not leaves or self.inputs[: len(leaves)] != leaves:
            return 0
        marks = [object() for _ in leaves]
        try:
            values, _, structure = self._bind(marks, {})
        except ExampleInputError:
            return 0
        if structure != self.structure or any(value is not mark for value, mark in zip(values, marks, strict=False)):
            return 0
        constants = zip(self.inputs[len(leaves) :], values[len(leaves) :], strict=True)
        return len(leaves) if all(_same(leaf.value, v) for leaf, v in constants if isinstance(leaf, Constant)) else 0

    @property
    def takes_plain_tensors(self) -> bool:
        """Are the graph's inputs the positional arguments of a call, as they come, and no others needed?"""
        return self._plain > 0 and self._plain == len(self.tensor_leaves)

    @property
    def tensor_leaves(self) -> tuple[Leaf, ...]:
        """The graph's inputs."""
        return tuple(leaf for leaf in self.inputs if isinstance(leaf, Leaf))

    def leaves(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        """The tensors for the graph from one call's arguments. FXQ107/FXQ108 when they do not fit."""
        if len(args) == self._plain and not kwargs and self._plain:
            for leaf, value in zip(self.inputs, args, strict=False):
                if not isinstance(value, torch.Tensor) or leaf.rank not in (None, value.dim()):  # type: ignore[union-attr]
                    break
            else:
                return self._cast_in(tuple(args))
        values, paths, structure = self._bind(args, kwargs)
        if structure != self.structure:
            values = self._in_captured_order(values, paths, structure)
        pairs = self._paired(values)
        return self._cast_in(tuple(self._checked(leaf, value) for leaf, value in pairs if isinstance(leaf, Leaf)))

    def _cast_in(self, leaves: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Float inputs as the cast model takes them."""
        if not self.cast:
            return leaves
        return tuple(leaf.float() if leaf.dtype in self.cast else leaf for leaf in leaves)

    def rebuild(self, results: Sequence[torch.Tensor]) -> Any:
        """The user's output structure from the graph's outputs."""
        if self._is_single:
            return results[0]
        assert self.output_structure is not None
        return self.output_structure.unflatten(
            item.value if isinstance(item, Constant) else results[item] for item in self.outputs
        )

    def call(self, leaves: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call whose `leaves` these are: (args, kwargs)."""
        supply = iter(leaves)
        bound = self.parameters.bind_partial()
        values = (next(supply) if isinstance(leaf, Leaf) else leaf.value for leaf in self.inputs)
        bound.arguments.update(self.structure.unflatten(values))
        return bound.args, bound.kwargs

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], list[str], Structure]:
        return flatten_arguments(bind(self.parameters, args, kwargs, self.fixed))

    def _in_captured_order(self, values: list[Any], paths: list[str], structure: Structure) -> list[Any]:
        """A dict may come in another order, a list for a tuple: what counts is that each leaf has its place."""
        by_path = dict(zip(paths, values, strict=True))
        wanted = [leaf.path for leaf in self.inputs]
        if set(by_path) == set(wanted):
            return [by_path[path] for path in wanted]
        missing = [path for path in wanted if path not in by_path]
        extra = [path for path in paths if path not in set(wanted)]
        told = [f"{_listed(missing)} missing"] if missing else []
        told += [f"{_listed(extra)} too many"] if extra else []
        raise ExampleInputError(
            "FXQ107",
            f"the arguments have another structure than the model was captured with: {', '.join(told)}",
            hint=f"it was captured as {self.structure} for forward{self.parameters}; "
            "compile with example_inputs of the structure you will call it with",
        )

    def _paired(self, values: Sequence[Any]) -> list[tuple[Leaf | Constant, Any]]:
        pairs = list(zip(self.inputs, values, strict=True))
        for leaf, value in pairs:
            if isinstance(leaf, Constant) and not _same(leaf.value, value):
                raise ExampleInputError(
                    "FXQ108",
                    f"argument '{leaf.path}' was fixed at {leaf.value!r} when the model was captured, "
                    f"and is {_told(value)} now",
                    hint="compile again with example_inputs or concrete_args that have the value you need",
                )
        return pairs

    def _checked(self, leaf: Leaf, value: Any) -> torch.Tensor:
        if not isinstance(value, torch.Tensor):
            raise ExampleInputError(
                "FXQ107",
                f"argument '{leaf.path}' must be a tensor, not {_told(value)}",
                hint=f"the model's signature is forward{self.parameters}",
            )
        if leaf.rank is not None and value.dim() != leaf.rank:
            raise ExampleInputError(
                "FXQ107",
                f"argument '{leaf.path}' has {value.dim()} dimensions {list(value.shape)}, the model was captured "
                f"with {leaf.rank} and its code asks for the number of dimensions",
                hint=f"reshape it to {leaf.rank} dimensions, or compile with an example input of this shape",
            )
        return value


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(f"'{path}'" for path in paths[:4])
    return shown + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _told(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "a tensor"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def _same(fixed: Any, value: Any) -> bool:
    if fixed is value:
        return True
    if type(fixed) is not type(value) or isinstance(value, torch.Tensor):
        return False
    try:
        return bool(fixed == value) or (fixed != fixed and value != value)  # NaN is the same constant as NaN
    except (RuntimeError, TypeError, ValueError):  # an array compares element by element: not a plain constant
        return False


def bind(
    parameters: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any], fixed: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Python's own argument binding; what is not given takes its fixed value, then its default. FXQ107 else."""
    try:
        bound = parameters.bind_partial(*args, **kwargs) if fixed else parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise _does_not_bind(parameters, str(error)) from error
    for name, value in fixed.items():
        bound.arguments.setdefault(name, value)
    bound.apply_defaults()
    for name in parameters.parameters:
        if name not in bound.arguments:
            raise _does_not_bind(parameters, f"missing a required argument: '{name}'")
    return bound


def _does_not_bind(parameters: inspect.Signature, why: str) -> ExampleInputError:
    return ExampleInputError(
        "FXQ107", f"the model cannot be called like this: {why}", hint=f"its signature is forward{parameters}"
    )


def flatten_arguments(bound: inspect.BoundArguments) -> tuple[list[Any], list[str], Structure]:
    """Leaves, their readable paths ('x', "batch['image']", 'pair[0]') and structure of bound arguments."""
    values, paths, structure = flatten_with_paths(dict(bound.arguments))
    return values, [_readable(path) for path in paths], structure


def _readable(path: str) -> str:
    name, rest = path.removeprefix("['").split("']", 1)  # the outermost step is always an argument's name
    return name + rest
