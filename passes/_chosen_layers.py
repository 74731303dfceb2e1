"""Which layers a compressing pass is for: `targets` less `ignore`, by name, type or regex, over all that is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from fxquant.errors import UnknownTargetError, UsageError, did_you_mean
from fxquant.program import Program
from fxquant.regexes import NameRegex, read_regex

Chooser = str | type[nn.Module]  # a dotted name, a class or its name, or 're:' and a regex on dotted names


@dataclass(frozen=True, slots=True)
class Layer:
    """A module that the graph calls, or one inside of it (the Linear layers of an encoder that is called whole)."""

    name: str
    module: nn.Module
    calls: tuple[fx.Node, ...]
    around: tuple[type[nn.Module], ...] = ()  # classes of the called modules that it is a part of, outermost first

    @property
    def is_called(self) -> bool:
        """By the graph itself."""
        return not self.around

    def is_asked_for(self, targets: Sequence[Chooser]) -> bool:
        """By its very name or class: then a row says what it does not get, also where nobody would expect it."""
        return any(chooser in (self.name, type(self.module), type(self.module).__name__) for chooser in targets)

    def is_meant_by(self, chooser: Chooser, regex: NameRegex | None) -> bool:
        """By its own name or class, or by those of a module that it is a part of."""
        kinds = (*self.around, type(self.module))
        if regex is not None:
            return regex.matches(self.name)
        if isinstance(chooser, type):
            return chooser in kinds
        is_named = self.name == chooser or self.name.startswith(f"{chooser}.")
        return is_named or any(kind.__name__ == chooser for kind in kinds)


def layers_of(program: Program) -> tuple[Layer, ...]:
    """Every module that is called, each once, with the parts of it, in the order of the graph."""
    calls: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    found: list[Layer] = []
    for name, nodes in calls.items():
        _collect(Layer(name, program.graph_module.get_submodule(name), tuple(nodes)), found)
    return tuple(found)


def _collect(layer: Layer, found: list[Layer]) -> None:
    found.append(layer)
    around = (*layer.around, type(layer.module))
    for name, child in layer.module.named_children():
        _collect(Layer(f"{layer.name}.{name}", child, layer.calls, around), found)


def chosen(
    layers: Sequence[Layer], targets: Sequence[Chooser], ignore: Sequence[Chooser], owner: str
) -> tuple[Layer, ...]:
    """The layers that a target means (no targets: all of them) and nothing in `ignore` does.

    FXQ110 with the nearest names for a target that means none, FXQ101 for a regex that does not parse.
    """
    wanted = _meant(layers, targets, f"targets of {owner}") if targets else {layer.name for layer in layers}
    unwanted = _meant(layers, ignore, f"ignore of {owner}")
    return tuple(layer for layer in layers if layer.name in wanted and layer.name not in unwanted)


def _meant(layers: Sequence[Layer], choosers: Sequence[Chooser], owner: str) -> set[str]:
    found: set[str] = set()
    for chooser in choosers:
        is_regex = isinstance(chooser, str) and chooser.startswith("re:")
        regex = read_regex(chooser[3:], owner) if is_regex else None  # type: ignore[index]  # it is text
        names = {layer.name for layer in layers if layer.is_meant_by(chooser, regex)}
        if not names:
            raise _means_nothing(chooser, layers, owner)
        found |= names
    return found


def _means_nothing(chooser: Chooser, layers: Sequence[Layer], owner: str) -> UnknownTargetError:
    text = chooser.__name__ if isinstance(chooser, type) else chooser
    kinds = [type(layer.module).__name__ for layer in layers]
    known = dict.fromkeys((*(layer.name for layer in layers), *kinds))
    return UnknownTargetError(
        "FXQ110", f"'{text}' ({owner}) matches nothing in the model", hint=did_you_mean(text.removeprefix("re:"), known)
    )


def check_choosers(owner: str, **given: object) -> None:
    """FXQ111 for `targets` or `ignore` that is no series of names, 're:' regexes and module classes."""
    for name, value in given.items():
        is_series = isinstance(value, (tuple, list)) and all(
            isinstance(item, str) or (isinstance(item, type) and issubclass(item, nn.Module)) for item in value
        )
        if not is_series:
            raise UsageError(
                "FXQ111",
                f"{name}={value!r} of {owner}",
                hint="give a list of module names, 're:' regexes, and classes of modules or their names",
            )
