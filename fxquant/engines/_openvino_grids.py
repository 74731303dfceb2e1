"""Grids of codes as OpenVINO's int8 kernels want them.

    value = (code - zero_point) · scale        signed ranges: zero_point = 0, scale = max(-low, high) / 127, int8
                                               others: all 256 codes of uint8 over the same ends

Kernels for codes take 255 or 256 levels; a range of fewer (7 bits, against sums that saturate elsewhere) is cut finer.
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.clamping import Ends, ends_of
from fxquant.grids import Grid

_SEVEN_BITS = 127  # fewer codes than that were asked for, to be simulated


def for_kernels(grid: Grid) -> Grid:
    """The grid that an int8 kernel reads in its place; itself where it simulates fewer bits."""
    is_symmetric = (grid.zero_point, grid.low, grid.high) == (0, -128, 127)
    if is_symmetric or grid.high - grid.low < _SEVEN_BITS:
        return grid
    low, high = grid.ends
    if grid.zero_point == grid.low:
        return grid if grid.high - grid.low == 255 else Grid(high / 255, 0, 0, 255, torch.uint8)
    return Grid(max(-low, high) / 127, 0, -128, 127, torch.int8)


def without_clamps(value: fx.Node, grid: Grid) -> tuple[fx.Node, Grid, Ends | None]:
    """(what the clamps before this grid read, a grid that clamps as they do, the ends of what went)."""
    gone = None
    while (ends := ends_of(value)) is not None and len(value.users) == 1:
        narrowed = _narrowed(grid, *ends)
        if narrowed is None:
            break
        grid, gone = narrowed, ends if gone is None else (max(gone[0], ends[0]), min(gone[1], ends[1]))
        value = value.args[0]  # type: ignore[assignment]
    return value, grid, gone


def _narrowed(grid: Grid, low: float, high: float) -> Grid | None:
    """This grid within a clamp: as it is, or with its upper end moved where both begin at zero."""
    own_low, own_high = grid.ends
    slack = grid.scale / 2
    if low <= own_low + slack and own_high - slack <= high:
        return grid
    return grid._replace(scale=high / (grid.high - grid.low)) if low == own_low == 0.0 else None
