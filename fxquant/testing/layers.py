"""What a policy can name in a model: the modules that its traced graph calls, and the modules around them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fxquant.capture import capture
from fxquant.fork import fork
from fxquant.ledger import Ledger
from fxquant.request import CaptureRequest


@dataclass(frozen=True, slots=True)
class Layer:
    """One module that the model calls."""

    name: str
    kind: type[nn.Module]
    has_channels: bool  # its weight, where it has one, has two axes or more

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The names of the modules that it is in, outermost first, and its own."""
        parts = self.name.split(".")
        return tuple(".".join(parts[:end]) for end in range(1, len(parts) + 1))


def layers_of(model: nn.Module | None) -> tuple[Layer, ...]:
    """The called modules in graph order, once each; () without a model. Raises FxQuantError for one untraceable."""
    if model is None:
        return ()
    program = capture(CaptureRequest(fork(model)), Ledger())
    called = dict.fromkeys(str(node.target) for node in program.graph.nodes if node.op == "call_module")
    return tuple(_layer(name, program.graph_module.get_submodule(name)) for name in called)


def _layer(name: str, module: nn.Module) -> Layer:
    weight = getattr(module, "weight", None)
    return Layer(name, type(module), not isinstance(weight, torch.Tensor) or weight.dim() >= 2)
