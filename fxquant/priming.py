"""Packed weights and the shapes that they run fast for.

oneDNN prepares one primitive for each packed weight: for the shapes, and the number of threads, of the first call that
the weight sees. Calls of other shapes go on without it, at about twice the time of a small layer. So weights are packed
anew when calls of other shapes have come to stay, and once after compilation, which has run them on its example.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.torch_ao import engine, quiet

ON_ONEDNN = ("x86", "onednn")
TO_STAY = 4  # calls in a row of shapes that the weights were not prepared for; packing takes about as long as a few


def pack_anew(graph_module: fx.GraphModule, engine_name: str) -> None:
    """Every packed weight once more, the same bits, with nothing prepared yet; as it is on engines without oneDNN."""
    if engine_name not in ON_ONEDNN:
        return  # they prepare nothing, and QNNPACK's weights of conv3d cannot be copied
    with engine(engine_name), quiet():
        for name in packed_names(graph_module):
            setattr(graph_module, name, copy.deepcopy(getattr(graph_module, name)))


def packed_names(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Attributes that hold a weight as an engine has packed it, in graph order."""
    names = [str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"]
    return tuple(
        name for name in dict.fromkeys(names) if isinstance(getattr(graph_module, name, None), torch.ScriptObject)
    )


class Priming:
    """Which shapes a lowered graph's weights are prepared for, and how many calls of others there were since."""

    def __init__(self) -> None:
        self._primed: Any = None  # threads and shapes of the call that prepared them
        self._other: Any = None
        self._count = 0

    def follow(self, graph_module: fx.GraphModule, engine_name: str, leaves: tuple[Tensor, ...]) -> None:
        """Before a call: pack the weights anew if calls of this kind have come to stay."""
        call = (torch.get_num_threads(), *[leaf.shape for leaf in leaves])
        if self._primed is None or call == self._primed:
            self._primed, self._other, self._count = call, None, 0
            return
        self._count = self._count + 1 if call == self._other else 1
        self._other = call
        if self._count >= TO_STAY:
            pack_anew(graph_module, engine_name)
            self._primed, self._other, self._count = call, None, 0
