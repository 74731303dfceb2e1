"""fxquant.qconfig(): a torch.ao QConfig for number formats, in the words that recipes use."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, cast

from fxquant import torch_ao
from fxquant.errors import QConfigError, did_you_mean
from fxquant.number_formats import SPLITS, is_small_float, wrong_activation, wrong_weight
from fxquant.qconfigs import Ask, TensorAsk, check_ask
from fxquant.recipe import Activation, Weight
from fxquant.recipe_rules import asked_of_activation, asked_of_weight

_KINDS = {bool: "True or False", int: "a whole number", str: "text"}
_SPELLED = {("weight", "num_bits"): "weight_bits", ("activation", "num_bits"): "activation_bits"}


def qconfig(
    weight: str = "int8",
    activation: str | None = None,
    *,
    group_size: int | None = None,
    weight_bits: int | None = None,
    granularity: str | None = None,
    axis: int | None = None,
    activation_bits: int | None = None,
    dynamic: bool | None = None,
    observer: str | None = None,
    reduce_range: bool | None = None,
    symmetric: bool | None = None,
) -> Any:
    """A torch.ao QConfig, to be used in any QConfigMapping: `set_object_type(nn.Linear, fxquant.qconfig("int4"))`.

    Args:
        weight: 'int8', 'int4' (two codes in a byte), 'float16', 'bfloat16', 'float8_e4m3', 'float8_e5m2', or any split
            of a small float such as 'e3m2'. All but 'int8' serve embeddings too, whose int8 rows a preset asks for.
        activation: None leaves activations float (weight-only); else 'uint8', or a small float, which is simulated.
        group_size: of int4: how many values of a row share a scale, 32 where it is not said. A row's last group has
            what is left over.
        weight_bits, activation_bits: 2 to 8 codes' bits of int8 and uint8; 2 to 4 of int4. Weights of fewer bits run
            as int8, activations of fewer are simulated.
        granularity: of int8 and small floats: 'channel' or 'tensor'.
        axis: of the channels.
        dynamic: the activations' range is that of each tensor, as it comes.
        observer: of static activations: 'histogram', 'mse' (the least squared error too, faster, as presets have it),
            'minmax' or 'moving-average'.
        reduce_range: activations take one bit less, for engines whose sums could saturate.
        symmetric: of weights; int4 may be asymmetric.

    Raises:
        QConfigError: FXQ123 for an option that is unknown or makes no sense beside the others.
    """
    of_weight = {"dtype": weight, "group_size": group_size, "num_bits": weight_bits, "granularity": granularity,
                 "axis": axis, "symmetric": symmetric}  # fmt: skip
    of_activation = {"dtype": activation, "num_bits": activation_bits, "dynamic": dynamic, "observer": observer,
                     "reduce_range": reduce_range}  # fmt: skip
    given = _checked("weight", Weight, of_weight)
    wrong = wrong_weight(given)
    if wrong is not None:
        raise _wrong("weight", *wrong)
    ask = Ask(_activation(of_activation), asked_of_weight(Weight(**given)))
    check_ask(ask, "fxquant.qconfig")
    return torch_ao.make_qconfig(ask)


def _activation(options: dict[str, Any]) -> TensorAsk:
    if options["dtype"] is None:
        idle = next((name for name, value in options.items() if value is not None), None)
        if idle is not None:
            raise _wrong("activation", idle, options[idle], "nothing where activation is None: it stays float")
        return TensorAsk()
    given = _checked("activation", Activation, options)
    wrong = wrong_activation(given)
    if wrong is not None:
        raise _wrong("activation", *wrong)
    return asked_of_activation(Activation(**given))


def _checked(half: str, kind: type[Weight] | type[Activation], options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, each of its type and one of what there is."""
    known = {item.name: item for item in fields(kind)}
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        _check(half, name, value, known[name])
    return given


def _check(half: str, name: str, value: Any, option: Field[Any]) -> None:
    wanted = type(option.default)
    one_of = cast("tuple[str, ...]", option.metadata.get("one_of", ()))
    if type(value) is not wanted:
        if one_of:
            raise _wrong(half, name, value, f"one of {', '.join(one_of)}")
        raise _wrong(half, name, value, _KINDS[wanted])
    if one_of and value not in one_of and not (name == "dtype" and is_small_float(value)):
        also = f", or {SPLITS}" if name == "dtype" else ""
        raise _wrong(half, name, value, f"one of {', '.join(one_of)}{also}", hint=did_you_mean(str(value), one_of))
    if name == "num_bits" and value not in range(2, 9):
        raise _wrong(half, name, value, "a whole number from 2 to 8")


def _wrong(half: str, name: str, value: Any, wanted: str, *, hint: str = "") -> QConfigError:
    spelled = half if name == "dtype" else _SPELLED.get((half, name), name)
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    return QConfigError("FXQ123", f"fxquant.qconfig: {spelled} is {shown}, expected {wanted}", hint=hint)
