"""Engines for tests of the flow: an interpreter of the canonical graph in an engine's place, and ones that misbehave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from fxquant.engines.engine import EngineModule, EngineRefusal
from fxquant.presence import Presence

Build = Callable[..., EngineModule]


class Interpreted(EngineModule):
    """Runs the canonical graph itself, changed by `spoil`."""

    def __init__(self, name: str, graph: fx.GraphModule, spoil: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.engine, self._spoil = name, spoil
        self._run = fx.GraphModule(graph, graph.graph).forward

    def forward(self, *leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._spoil(value) for value in self._run(*leaves))


def faithful(name: str = "openvino", spoil: Callable[[Tensor], Tensor] = lambda x: x) -> Build:
    """An engine that gives what the canonical graph gives, `spoil`ed."""

    def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
        assert threads >= 1 and len(leaves) == len([n for n in canonical.graph.nodes if n.op == "placeholder"])
        Interpreted(name, canonical)(*leaves)  # it takes these
        return Interpreted(name, canonical, spoil)

    return build


def choosy(*refused: Any, name: str = "openvino", is_named: bool = True) -> Build:
    """An engine without the functions and methods that are `refused`."""

    def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
        for node in canonical.graph.nodes:
            if node.op.startswith("call") and node.target in refused:
                raise EngineRefusal("it has no such op", node.name if is_named else "")
        return faithful(name)(canonical, leaves, threads=threads)

    return build


def failing(error: Exception) -> Build:
    """An engine whose build fails in a way of its own."""

    def build(canonical: fx.GraphModule, leaves: tuple[Tensor, ...], *, threads: int) -> EngineModule:
        raise error

    return build


def noisy(relative: float) -> Callable[[Tensor], Tensor]:
    """Noise of this share of the signal's power, the same for the same tensor."""

    def spoil(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        return value + noise * value.square().mean().sqrt() * relative**0.5

    return spoil


def install(patch: pytest.MonkeyPatch, build: Build, name: str = "openvino", *, why: str = "") -> None:
    """Let `build` be the engine's, and the engine be present (or not, with `why`)."""
    module = ModuleType(f"fxquant.engines.{name}")
    module.build = build  # type: ignore[attr-defined]
    patch.setitem(sys.modules, module.__name__, module)
    show(patch, {name: Presence(not why, why or f"{name} 1.0")})


def show(patch: pytest.MonkeyPatch, found: dict[str, Presence]) -> None:
    """Only these engines outside torch are here, or not here and why."""
    from fxquant import targets

    real = targets.presence
    others = {name: Presence(False, f"{name} is not installed") for name in targets.EXTERNAL}
    known = {**others, **found}
    patch.setattr(targets, "presence", lambda name: known[name] if name in known else real(name))
