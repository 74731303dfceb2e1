"""What becomes of the norms that compute their own statistics: the engines run them on codes, with few exceptions."""

from __future__ import annotations

from torch import nn

from fxquant.passes._fate import Fate
from fxquant.plan import Mode

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def fate(module: nn.Module) -> Fate | None:
    """Float where the kernel would compute something else; None where it runs it."""
    if getattr(module, "track_running_stats", False):
        name = type(module).__name__
        return Fate(Mode.FLOAT, f"the engines' {name} kernel computes its own statistics, this one uses running ones")
    return None
