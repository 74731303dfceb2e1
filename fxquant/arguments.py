"""What is known of forward()'s arguments before tracing → the Signature: which leaves are tensors, which are fixed."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fxquant.errors import ExampleInputError, UnsupportedModelError, did_you_mean
from fxquant.signature import Constant, Leaf, Signature, bind, flatten_arguments


class _Given:
    """Stands for a required argument whose value is not known: it is taken to be one tensor."""


def signature_of(
    model: torch.nn.Module,
    example_args: Sequence[Any] | None,
    example_kwargs: Mapping[str, Any] | None,
    concrete_args: Mapping[str, Any] | None,
) -> tuple[Signature, tuple[torch.Tensor, ...] | None]:
    """The signature, and the example's tensor leaves where all are known.

    With examples every tensor leaf is an input and everything else is fixed. Without, each parameter that has no
    default is taken to be one tensor. FXQ107 when the example does not fit, FXQ212 when it would be needed.
    """
    parameters = _parameters_of(model)
    fixed = dict(concrete_args or {})
    _check_names(fixed, parameters)
    if example_args is None and example_kwargs is None:
        bound = _bound_by_guess(parameters, fixed, type(model).__name__)
    else:
        bound = bind(parameters, example_args or (), example_kwargs or {}, fixed)
        bound.arguments.update(fixed)
    values, paths, structure = flatten_arguments(bound)
    names = _names(paths)
    held = [path for path in paths if _root(path) in fixed]
    is_tensor = [
        isinstance(value, (torch.Tensor, _Given)) and path not in held
        for value, path in zip(values, paths, strict=True)
    ]
    inputs = tuple(
        Leaf(name, path) if tensor else Constant(value, path)
        for name, path, value, tensor in zip(names, paths, values, is_tensor, strict=True)
    )
    tensors = tuple(value for value, tensor in zip(values, is_tensor, strict=True) if tensor)
    is_known = all(isinstance(tensor, torch.Tensor) for tensor in tensors)
    return Signature(parameters, structure, inputs, fixed=fixed), tensors if is_known and tensors else None


def example_call(example_inputs: Any) -> tuple[tuple[Any, ...] | None, Mapping[str, Any] | None]:
    """(args, kwargs) of what a user gave as one call's arguments; (None, None) for None. FXQ107 for what is none."""
    match example_inputs:
        case None:
            return None, None
        case torch.Tensor():
            return (example_inputs,), None
        case Mapping():
            return None, example_inputs
        case (tuple() as args, Mapping() as kwargs):
            return args, kwargs
        case tuple() | list():
            return tuple(example_inputs), None
    raise ExampleInputError(
        "FXQ107",
        f"example_inputs is {type(example_inputs).__name__}",
        hint="give a tuple of arguments, a dict of keywords, or one tensor",
    )


def _parameters_of(model: torch.nn.Module) -> inspect.Signature:
    try:
        return inspect.signature(model.forward)
    except (TypeError, ValueError) as error:
        raise UnsupportedModelError(
            "FXQ212", f"the signature of {type(model).__name__}.forward cannot be read: {error}",
            hint="wrap the model in an nn.Module whose forward() names its arguments",
        ) from error  # fmt: skip


def _check_names(fixed: Mapping[str, Any], parameters: inspect.Signature) -> None:
    for name in fixed:
        if name not in parameters.parameters:
            raise ExampleInputError(
                "FXQ107",
                f"concrete_args names '{name}', which forward{parameters} does not have",
                hint=did_you_mean(name, parameters.parameters),
            )


def _bound_by_guess(parameters: inspect.Signature, fixed: dict[str, Any], model: str) -> inspect.BoundArguments:
    """No example: each required parameter is one tensor; `*args` cannot be guessed."""
    given: dict[str, Any] = {}
    for name, parameter in parameters.parameters.items():
        is_guessed = parameter.default is parameter.empty and name not in fixed
        if parameter.kind is parameter.VAR_POSITIONAL and is_guessed:
            raise _needs_example(model, parameters, f"*{name}")
        if parameter.kind is parameter.VAR_KEYWORD and is_guessed and not given:
            raise _needs_example(model, parameters, f"**{name}")
        if is_guessed and parameter.kind is not parameter.VAR_KEYWORD:
            given[name] = _Given()
    bound = parameters.bind_partial()
    bound.arguments.update(given | fixed)
    bound.apply_defaults()
    return bound


def _needs_example(model: str, parameters: inspect.Signature, name: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        "FXQ212",
        f"{model}.forward{parameters} takes {name}, and no example says what is in it",
        hint="pass example_inputs=(...), one call's arguments",
    )


def _root(path: str) -> str:
    return re.split(r"[\[.]", path, maxsplit=1)[0]


def _names(paths: Sequence[str]) -> list[str]:
    """A distinct Python identifier for each path: "batch['image']" → batch_image."""
    taken: dict[str, None] = {}
    for path in paths:
        base = re.sub(r"[^0-9A-Za-z_]+", "_", path).strip("_") or "arg"
        base = f"arg_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base
        name, count = base, 0
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken[name] = None
    return list(taken)
