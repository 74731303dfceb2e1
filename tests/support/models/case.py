"""A Case: how to build one model of the zoo the same way each time, and how to draw its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from support.data import Sampler, generator

_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the zoo.

    `tiny` draws the inputs of tests, `full` those of benches; `build_full` is the model at its field's size where the
    tests' one is cut down. `keywords` draws keyword arguments where the model takes any.
    """

    build: Callable[[], nn.Module]
    tiny: Sampler
    full: Sampler | None = None
    build_full: Callable[[], nn.Module] | None = None
    keywords: Callable[[torch.Generator, int], dict[str, Any]] | None = None
    is_traceable: bool = True  # by raw torch.fx
    seed: int = 0

    def make(self, *, full: bool = False) -> nn.Module:
        """The model in eval mode: the same bits on each call, the caller's RNG as before."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(self.seed)
            model = self._built(full=full)
            _scale_weights(model)
            rows = (
                8 if full and self.full is not None else 32
            )  # of the size that the model is for: see _settle_batchnorms
            _settle_batchnorms(model, lambda seed: (self.inputs(seed, rows, full=full), self.arguments(seed, rows)))
        return model.eval()

    def unsettled(self, *, full: bool = False) -> nn.Module:
        """The model in eval mode for a state of `make`'s to be loaded into: quick, and with weights of no use."""
        with torch.random.fork_rng(devices=[]):
            return self._built(full=full).eval()

    def _built(self, *, full: bool) -> nn.Module:
        return (self.build_full if full and self.build_full is not None else self.build)()

    def inputs(self, seed: int = 0, batch: int = 2, *, full: bool = False) -> tuple[Any, ...]:
        """The positional arguments of one call."""
        sampler = self.full if full and self.full is not None else self.tiny
        return sampler(generator(seed), batch)

    def arguments(self, seed: int = 0, batch: int = 2) -> dict[str, Any]:
        """The keyword arguments of one call; empty for most models."""
        return {} if self.keywords is None else self.keywords(generator(seed), batch)

    def batches(self, count: int = 4, batch: int = 8, *, full: bool = False) -> list[tuple[Any, ...]]:
        """Calibration data: seeds from 1000 up, so that `inputs(0)` is not among it."""
        return [self.inputs(1000 + index, batch, full=full) for index in range(count)]


def _scale_weights(model: nn.Module) -> None:
    """He initialization, so that activations neither vanish nor explode; biases small but not zero."""
    for module in model.modules():
        if isinstance(module, (*_WEIGHTED, *_TRANSPOSED)):
            fan_mode = "fan_out" if isinstance(module, _TRANSPOSED) else "fan_in"
            nn.init.kaiming_normal_(module.weight, mode=fan_mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
        elif isinstance(module, (*_BATCHNORMS, nn.LayerNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.2)
    for module in model.modules():
        end = getattr(module, "branch_end", lambda: None)()
        if end is not None:
            end.weight.mul_(0.2)  # a trained branch corrects its shortcut; a random one drowns it, and noise with it


def _settle_batchnorms(model: nn.Module, draw: Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    """Running statistics from two batches of data; dropout and the rest stay in eval mode.

    Pictures of another size than the model will see give other statistics (of a 1×1 map only one tap of a depthwise
    kernel is not padding), and activations then grow a hundredfold along a deep network.
    """
    norms = [
        module for module in model.eval().modules() if isinstance(module, _BATCHNORMS) and module.track_running_stats
    ]
    if not norms:
        return
    with _averaging(norms):
        for seed in range(500, 502):
            args, kwargs = draw(seed)
            model(*args, **kwargs)


@contextmanager
def _averaging(norms: list[Any]) -> Iterator[None]:
    """These batch norms train with a plain average (momentum None) inside the block."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.eval()
        norm.momentum = momentum
