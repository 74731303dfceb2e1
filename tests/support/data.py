"""Inputs for the model zoo: seeded by generator, never by the global RNG, shaped like real data rather than noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import interpolate

Sampler = Callable[[torch.Generator, int], tuple[Any, ...]]


def generator(seed: int) -> torch.Generator:
    """A CPU generator of its own, so that drawing data leaves the caller's RNG alone."""
    return torch.Generator().manual_seed(seed)


def images(size: int, channels: int = 3) -> Sampler:
    """Normalized pictures: an interpolated coarse grid under finer grain. (batch, channels, size, size)."""

    def sample(source: torch.Generator, batch: int) -> tuple[torch.Tensor]:
        coarse = torch.randn(batch, channels, 4, 4, generator=source)
        smooth = interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
        return (smooth + 0.3 * torch.randn(batch, channels, size, size, generator=source),)

    return sample


def tokens(length: int, vocabulary: int) -> Sampler:
    """Token ids, frequent ones more often (cubed uniform, roughly Zipf). Shape (batch, length), int64."""

    def sample(source: torch.Generator, batch: int) -> tuple[torch.Tensor]:
        drawn = torch.rand(batch, length, generator=source) ** 3
        return ((drawn * vocabulary).long().clamp_(max=vocabulary - 1),)

    return sample


def vectors(*shape: int) -> Sampler:
    """Gaussian features. Shape (batch, *shape)."""

    def sample(source: torch.Generator, batch: int) -> tuple[torch.Tensor]:
        return (torch.randn(batch, *shape, generator=source),)

    return sample


def both(*samplers: Sampler) -> Sampler:
    """Several arguments, each from its own sampler."""

    def sample(source: torch.Generator, batch: int) -> tuple[Any, ...]:
        return tuple(argument for each in samplers for argument in each(source, batch))

    return sample
