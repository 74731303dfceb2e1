"""Why a compiled model does not run a call: what the engine said, of which inputs, in the user's words."""

from __future__ import annotations

import re

import torch

from fxquant.errors import LoweringError


def recorded_call(target: str, by: str) -> LoweringError:
    """FXQ515: torch records this call, and cannot see what the target computes."""
    return LoweringError(
        "FXQ515",
        f"{target} runs outside torch, where {by} does not see it: the result would be a constant",
        hint="compiled.export(path) writes the model for other programs; target='onednn' computes it in torch",
    )


def refused_call(code: str, what: str, leaves: tuple[torch.Tensor, ...], error: Exception, hint: str) -> LoweringError:
    """What the engine said of these inputs, in the user's words."""
    told = ", ".join(f"{str(leaf.dtype).removeprefix('torch.')}{_shape(leaf)} on {leaf.device}" for leaf in leaves)
    return LoweringError(code, f"{what} on ({told}): {_telling(error)}", hint=hint)


def _telling(error: Exception) -> str:
    """Its text, without what torch's dispatcher adds: what it advises its makers, and its table of kernels."""
    told = str(error).strip()
    return re.split(r" This could be because |\n\n|\nException raised from ", told, maxsplit=1)[0].strip()


def _shape(leaf: torch.Tensor) -> str:
    return "[nested]" if leaf.is_nested and leaf.layout is torch.strided else str(list(leaf.shape))
