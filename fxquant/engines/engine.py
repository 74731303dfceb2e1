"""What an engine is to the rest: a module in the place of a graph, and a refusal that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn


class EngineRefusal(Exception):
    """The engine cannot run this graph. `node` names the canonical node at fault, where it is known."""

    def __init__(self, why: str, node: str = "") -> None:
        super().__init__(why)
        self.why, self.node = why, node


# `forward` for arguments that are tensors of the very kind that the engine was made for; None for all others. It leaves
# out what such inputs do not need: after a call the caches are the engine's, and each line of Python takes its time.
AtOnce = Callable[[tuple[Any, ...]], tuple[Tensor, ...] | None]


class EngineModule(nn.Module):
    """Runs a graph on an engine: the graph's tensor inputs in, a tuple of its tensor outputs out.

    Sessions never change once they are made, so copies share them.
    """

    engine: str = ""  # the target's name
    float_type: str = ""  # what its float layers compute in; '' where it does not say, which counts as float32
    at_once: AtOnce | None = None
    told: str = ""  # that it runs on one thread, and why

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        """The outputs for these inputs, of any shape that the graph takes. RuntimeError where it refuses them."""
        raise NotImplementedError

    def rows(self) -> Mapping[str, str]:
        """What canonical nodes compute in, by name, of those that the engine tells."""
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def widened(leaf: Tensor, dtype: torch.dtype) -> Tensor | None:
    """An input in the dtype that an engine was made for: integers widen; None where it does not fit."""
    if leaf.dtype is dtype:
        return leaf
    is_integer = not leaf.is_floating_point() and not dtype.is_floating_point
    return leaf.to(dtype) if is_integer and torch.promote_types(leaf.dtype, dtype) is dtype else None


Build = Callable[..., EngineModule]  # (canonical, leaves, *, threads)
