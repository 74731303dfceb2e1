"""Modules that only move values: what they give has the range of what they read."""

from __future__ import annotations

from torch import nn

KEEPS_VALUES: tuple[type[nn.Module], ...] = (
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
)
