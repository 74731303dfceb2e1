"""What a reference gives: a model with one call's inputs, a compiled model, or a snapshot; and calibration data.

Torch is imported when a model is loaded: snapshots on disk do without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.errors import SchemaError, UsageError
from fxquant.graphs.snapshot import GraphSnapshot
from fxquant.tools.model_options import FLOATS, RandomInput
from fxquant.tools.model_reference import FORMS, Reference
from fxquant.tools.users_code import readable, value_of

if TYPE_CHECKING:
    import torch

    from fxquant.batches import Call

MOST_BYTES = 2**28  # of a snapshot file that is read


@dataclass(frozen=True, slots=True)
class Loaded:
    """`source` is an nn.Module, a CompiledModel or a GraphSnapshot; `example` one call of it, where one is known."""

    source: Any
    example: Call | None = None


def load(reference: Reference, *, seed: int) -> Loaded:
    """Read the snapshot, or run the factory with torch's RNG at `seed`. FXQ117, FXQ620."""
    if reference.is_snapshot:
        return Loaded(_snapshot_file(reference.place))
    if reference.is_artifact:
        import fxquant

        return Loaded(fxquant.load(reference.place))
    with seeded(seed):
        found = value_of(reference, is_value=_is_answer)
    source, inputs = found if _is_pair(found) else (found, None)
    if not _is_source(source):
        raise UsageError("FXQ117", f"'{reference}' gives {_named(found)}, which is no model", hint=_advice(found))
    return Loaded(source, None if inputs is None else _call(inputs, reference))


def load_data(reference: Reference, *, seed: int) -> Any:
    """The calibration data that a reference names: the thing itself, or what the named function gives. FXQ117."""
    if reference.is_snapshot or reference.is_artifact:
        raise UsageError("FXQ117", f"'{reference}' is no data", hint="--data is file.py:name or package.module:name")
    with seeded(seed):
        found = value_of(reference, is_value=_is_data)
    if not _is_data(found):
        raise UsageError(
            "FXQ117",
            f"'{reference}' gives {_named(found)}, which holds no batches",
            hint="give a tensor, a list of batches, a DataLoader or a generator",
        )
    return found


def random_call(inputs: tuple[RandomInput, ...], *, seed: int) -> Call:
    """One call with random tensors, each from torch's RNG at `seed`."""
    from fxquant.batches import Call

    with seeded(seed):
        return Call(tuple(_random(asked) for asked in inputs), {})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's RNG at `seed`; afterwards as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _random(asked: RandomInput) -> torch.Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, asked.dtype)
    if asked.dtype in FLOATS:
        return torch.randn(asked.shape).to(dtype)
    return torch.randint(0, asked.below, asked.shape).to(dtype)


def _snapshot_file(place: str) -> GraphSnapshot:
    """FXQ117 when the file cannot be read, FXQ620 when it is no snapshot."""
    path = readable(Path(place))
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UsageError("FXQ117", f"the file '{path}' is larger than any snapshot ({MOST_BYTES:,} bytes)")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError("FXQ117", f"the file '{path}' cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        told = f"'{path}' is no snapshot that fxquant wrote: it is not UTF-8 text"
        raise SchemaError("FXQ620", told, hint="write one with `fxquant graph MODEL -o x.json`") from error
    return GraphSnapshot.from_json(text)


def _is_source(value: Any) -> bool:
    from torch import nn

    return isinstance(value, (nn.Module, GraphSnapshot))  # a CompiledModel is an nn.Module


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and _is_source(value[0])


def _is_answer(value: Any) -> bool:
    return _is_source(value) or _is_pair(value)


def _is_data(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _call(inputs: Any, reference: Reference) -> Call:
    import torch

    from fxquant.batches import Reader

    if not isinstance(inputs, (torch.Tensor, tuple, list, Mapping)):
        raise UsageError(
            "FXQ117",
            f"'{reference}' gives a model and {_named(inputs)}, which is no call of it",
            hint="the second of (model, inputs) is a tensor, a tuple of arguments or a dict of keywords",
        )
    return Reader().call(inputs, 0)


def _named(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def _advice(value: Any) -> str:
    match value:
        case None:
            return "does the factory `return` its model?"
        case Mapping():
            return "it looks like a state_dict: build the model and load it with model.load_state_dict(...)"
        case type():
            return "return an instance of it"
        case _:
            return FORMS
