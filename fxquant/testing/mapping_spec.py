"""A QConfigMapping as plain data: what it asks at each level, and the code that builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fxquant.observers import observer_options, own_factory
from fxquant.presets import type_name
from fxquant.qconfigs import Ask, TensorAsk
from fxquant.torch_ao import MappingLevels, make_mapping, make_qconfig

Entry = tuple[str, Ask | None]  # None: float


@dataclass(frozen=True, slots=True)
class MappingSpec:
    """The four levels; the later entry of one key counts."""

    everything: Ask | None = None
    types: tuple[tuple[object, Ask | None], ...] = ()
    regexes: tuple[Entry, ...] = ()
    names: tuple[Entry, ...] = ()

    def build(self) -> Any:
        """The torch.ao QConfigMapping; its repr is `str(self)`."""
        levels = MappingLevels(
            _qconfig(self.everything),
            tuple((kind, _qconfig(ask)) for kind, ask in self.types),
            tuple((pattern, _qconfig(ask)) for pattern, ask in self.regexes),
            tuple((name, _qconfig(ask)) for name, ask in self.names),
            (),
        )
        return make_mapping(levels, str(self))

    def __str__(self) -> str:
        calls = [] if self.everything is None else [f"set_global({_code(self.everything)})"]
        calls += [f"set_object_type({_type_code(kind)}, {_code(ask)})" for kind, ask in self.types]
        calls += [f"set_module_name_regex({pattern!r}, {_code(ask)})" for pattern, ask in self.regexes]
        calls += [f"set_module_name({name!r}, {_code(ask)})" for name, ask in self.names]
        return ".".join(("QConfigMapping()", *calls))


def _qconfig(ask: Ask | None) -> object | None:
    return None if ask is None else make_qconfig(ask)


def _code(ask: Ask | None) -> str:
    return "None" if ask is None else f"QConfig({_observer_code(ask.activation)}, {_observer_code(ask.weight)})"


def _observer_code(ask: TensorAsk) -> str:
    own = own_factory(ask)
    if own is not None:
        return repr(own)
    name, options = observer_options(ask)
    return f"{name}.with_args({', '.join(f'{key}={value}' for key, value in options.items())})"


def _type_code(kind: object) -> str:
    """'nn.Linear', 'operator.add', 'mine.models.Block'; a method's name stays text."""
    if isinstance(kind, str):
        return repr(kind)
    module = str(getattr(kind, "__module__", ""))
    if module.startswith("torch.nn.modules."):
        return f"nn.{type_name(kind)}"
    home = {"_operator": "operator.", "torch.nn.functional": "nn.functional.", "builtins": "", "None": "torch."}
    return f"{home.get(module, f'{module}.')}{type_name(kind)}"
