"""How a saved model is called ⇄ JSON: forward's parameters, the nesting of arguments and outputs, the constants."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from fxquant.arrival import CAST
from fxquant.artifact import literals, structures
from fxquant.artifact.limits import MOST_RANK
from fxquant.artifact.names import node_name
from fxquant.artifact.text import int_of, list_of, malformed, object_of, text_of
from fxquant.signature import Constant, Leaf, Signature

_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)
_MOST_OUTPUTS = 100_000
_KEYS = ("parameters", "arguments", "inputs", "results", "outputs", "fixed")
_CAST = {str(dtype).removeprefix("torch."): dtype for dtype in CAST}


def encode(signature: Signature) -> dict[str, Any]:
    """JSON of a signature, less its annotations. FXQ611 for constants that a file cannot hold."""
    outputs = signature.output_structure
    cast = [str(dtype).removeprefix("torch.") for dtype in signature.cast]
    return ({"cast": cast} if cast else {}) | {
        "parameters": [_parameter(parameter) for parameter in signature.parameters.parameters.values()],
        "arguments": structures.encode(signature.structure),
        "inputs": [_input(leaf) for leaf in signature.inputs],
        "results": None if outputs is None else structures.encode(outputs),
        "outputs": [_output(item) for item in signature.outputs],
        "fixed": [[name, literals.encode(value, {}, f"'{name}'")] for name, value in signature.fixed.items()],
    }


def _parameter(parameter: inspect.Parameter) -> list[Any]:
    found: list[Any] = [parameter.name, _KINDS.index(parameter.kind)]
    if parameter.default is not inspect.Parameter.empty:
        found.append(literals.encode(parameter.default, {}, f"the default of '{parameter.name}'"))
    return found


def _input(leaf: Leaf | Constant) -> list[Any]:
    if isinstance(leaf, Constant):
        return ["constant", leaf.path, literals.encode(leaf.value, {}, f"argument '{leaf.path}'")]
    return ["tensor", leaf.path, leaf.name, leaf.rank]


def _output(item: int | Constant) -> Any:
    return item if isinstance(item, int) else [literals.encode(item.value, {}, "a constant output")]


def decode(found: Any, types: structures.Types | None) -> Signature:
    """The signature again. FXQ604 for what `encode` does not write."""
    has_cast = isinstance(found, dict) and "cast" in found
    item = object_of(found, "the signature", keys=(*_KEYS, "cast") if has_cast else _KEYS)
    results = item["results"]
    fixed = [list_of(pair, "a fixed argument", sizes=(2,)) for pair in list_of(item["fixed"], "the fixed arguments")]
    signature = Signature(
        parameters=_parameters(item["parameters"]),
        structure=structures.decode(item["arguments"], types, "the arguments"),
        inputs=tuple(_read_input(leaf) for leaf in list_of(item["inputs"], "the inputs")),
        output_structure=None if results is None else structures.decode(results, types, "the output"),
        outputs=tuple(_read_output(entry) for entry in list_of(item["outputs"], "the outputs")),
        fixed={node_name(name, "a fixed argument"): _constant(value, f"'{name}'") for name, value in fixed},
        cast=tuple(_dtype(name) for name in list_of(item.get("cast", []), "the dtypes that are cast")),
    )
    if signature.structure.size != len(signature.inputs):
        raise malformed("its arguments have another number of leaves than its inputs")
    if signature.output_structure is not None and signature.output_structure.size != len(signature.outputs):
        raise malformed("its output has another number of leaves than its outputs")
    return signature


def _dtype(found: Any) -> torch.dtype:
    name = text_of(found, "a dtype that is cast")
    if name not in _CAST:
        raise malformed(f"inputs of {name!r:.40} are cast")
    return _CAST[name]


def _parameters(found: Any) -> inspect.Signature:
    parameters = []
    for entry in list_of(found, "the parameters"):
        name, kind, *default = list_of(entry, "a parameter", sizes=(2, 3))
        made = inspect.Parameter(
            node_name(name, "a parameter"),
            _KINDS[int_of(kind, f"the kind of parameter '{name}'", 0, len(_KINDS) - 1)],
            default=_constant(default[0], f"parameter '{name}'") if default else inspect.Parameter.empty,
        )
        parameters.append(made)
    try:
        return inspect.Signature(parameters)
    except ValueError as error:
        raise malformed(f"its parameters make no signature: {error}") from error


def _read_input(found: Any) -> Leaf | Constant:
    match found:
        case ["tensor", path, name, rank]:
            wanted = None if rank is None else int_of(rank, "the rank of an input", 0, MOST_RANK)
            return Leaf(node_name(name, "an input"), text_of(path, "the path of an input"), wanted)
        case ["constant", path, value]:
            return Constant(_constant(value, "a constant input"), text_of(path, "the path of an input"))
    raise malformed(f"an input is {found!r:.60}")


def _read_output(found: Any) -> int | Constant:
    if isinstance(found, list):
        return Constant(_constant(list_of(found, "a constant output", sizes=(1,))[0], "a constant output"))
    return int_of(found, "an output", 0, _MOST_OUTPUTS)


def _constant(value: Any, what: str) -> Any:
    return literals.Decoder((), what).value(value)
