"""Handlers for modules of your own, for compile(custom_modules=...): float class → observed class → quantized class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxquant.errors import UsageError

Observe = Callable[[Any, Any], nn.Module]  # (float module, qconfig) → observed module
Quantize = Callable[[Any], nn.Module]  # observed module → quantized module

_HANDLER = "fxq_handler"


@dataclass(frozen=True, slots=True)
class CustomModule:
    """How one class of modules is quantized. Its instances are not traced into.

    `observe(float_module, qconfig)` gives the module that stands there during calibration: called like the float one,
    it sees the float inputs and returns the float result. `quantize(observed_module)` gives the one that stands there
    afterwards. Both return results of the same structure and shapes as the float module's.
    """

    float_type: type[nn.Module]
    observe: Observe | None = None
    quantize: Quantize | None = None
    reason: str = ""  # of a class that stays float

    def __post_init__(self) -> None:
        if not (isinstance(self.float_type, type) and issubclass(self.float_type, nn.Module)):
            raise UsageError(
                "FXQ111",
                f"CustomModule({self.float_type!r}) is for no module class",
                hint="give a subclass of nn.Module",
            )
        is_pair = callable(self.observe) and callable(self.quantize)
        if not is_pair and not (self.observe is None and self.quantize is None and self.reason):
            raise UsageError(
                "FXQ111",
                f"CustomModule({self.name}) needs both observe= and quantize=, or a reason to stay float",
                hint=f"give observe= and quantize=, or write CustomModule.float({self.name}, 'reason')",
            )

    @classmethod
    def float(cls, float_type: type[nn.Module], reason: str) -> CustomModule:
        """Modules of this class stay float, for this reason."""
        return cls(float_type, reason=reason)

    @property
    def name(self) -> str:
        """The float class's name."""
        return str(getattr(self.float_type, "__name__", self.float_type))


def leaf_types(handlers: Iterable[CustomModule]) -> tuple[type[nn.Module], ...]:
    """The classes that capture must not trace into, so that their handlers find them."""
    return tuple(dict.fromkeys(handler.float_type for handler in handlers))


def handler_for(module: nn.Module | None, handlers: Sequence[CustomModule]) -> CustomModule | None:
    """The handler of the nearest class among the module's own and its bases; the first given, where two are equal."""
    by_type = {handler.float_type: handler for handler in reversed(handlers)}
    return next((by_type[kind] for kind in type(module).__mro__ if kind in by_type), None)


def handled_by(node: fx.Node) -> CustomModule | None:
    """The handler whose observed or quantized module this node calls; None for other nodes."""
    found: CustomModule | None = node.meta.get(_HANDLER)
    return found


def hand_to(node: fx.Node, handler: CustomModule) -> None:
    """From here on the node's module is this handler's affair."""
    node.meta[_HANDLER] = handler
