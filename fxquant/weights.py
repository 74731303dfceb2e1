"""Weights of a plain float model from a file: tensors by name and nothing else, so that no code of the file can run."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fxquant.errors import CorruptError, UnsafeError

Module = TypeVar("Module", bound=nn.Module)
_FEW = 4


def load_weights(model: Module, path: str | os.PathLike[str]) -> Module:
    """A copy of a float model with the weights of a file that holds its `state_dict()` and nothing else.

    Args:
        model: built as the saved one was. It stays as it is.
        path: a file of `torch.save(model.state_dict(), path)`, read with weights_only=True, or a `.safetensors` file.

    Raises:
        ArtifactError: FXQ612 when the file is none of these, holds anything but tensors, or does not fit the model.
    """
    title = f"'{os.fspath(path)}'"
    state = _checked(_read(Path(path), title), title)
    made = copy.deepcopy(model)
    wanted = made.state_dict()
    odd = [*_missing(wanted, state), *_reshaped(wanted, state)]
    if odd:
        more = f", and {len(odd) - _FEW} more" if len(odd) > _FEW else ""
        raise UnsafeError(
            "FXQ612",
            f"{title} does not fit {type(model).__name__}: {'; '.join(odd[:_FEW])}{more}",
            hint="build the model with the options of the one that was saved",
        )
    made.load_state_dict(state)
    return made


def _read(path: Path, title: str) -> Any:
    hint = "save model.state_dict() by itself, with torch.save or as safetensors"
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        told = f"{title} is a pickle with more than tensors in it, or none at all: it was not run"
        raise UnsafeError("FXQ612", told, hint=hint) from error
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError,
            safetensors.SafetensorError) as error:  # fmt: skip
        told = f"{title} holds no weights: {type(error).__name__}: {error}"
        raise CorruptError("FXQ612", told[:400], hint=hint) from error


def _checked(found: Any, title: str) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not found:
        kind = "nothing" if isinstance(found, dict) else f"a {type(found).__name__}"
        raise UnsafeError("FXQ612", f"{title} holds {kind}, not a state_dict", hint="save model.state_dict() by itself")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            told = f"{title} is no plain state_dict: {name!r:.60} is a {type(value).__name__}"
            raise UnsafeError("FXQ612", told, hint="take the state_dict out of the checkpoint and save it by itself")
    return found


def _missing(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    return [
        *(f"'{name}' is missing" for name in wanted if name not in found),
        *(f"'{name}' is one too many" for name in found if name not in wanted),
    ]


def _reshaped(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    return [
        f"'{name}' is {list(found[name].shape)}, the model has {list(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
