"""The arguments of a call as text for a failure: small tensors as code to paste, large ones by shape and range."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxquant.signature import Signature

_NO_LITERAL = re.compile(r"\b(nan|inf)\b")  # numbers that repr writes and Python does not read
_FEW = 64  # elements of a tensor that is shown whole


def told_call(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """One line for each tensor, by where it stands in the arguments."""
    leaves = signature.leaves(args, kwargs)
    named = zip(signature.tensor_leaves, leaves, strict=True)
    return "\n".join(f"    {leaf.path} = {told(value)}" for leaf, value in named) or "    (no tensors)"


def told(tensor: Tensor) -> str:
    """`torch.tensor([[1.0, 2.0]])`, or 'float32[8×3×32×32] from -2.1 to 3.4'."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.numel() == 0:
        return f"torch.empty({tuple(tensor.shape)}, dtype=torch.{dtype})"
    if tensor.numel() <= _FEW:
        suffix = "" if tensor.dtype in (torch.float32, torch.int64, torch.bool) else f", dtype=torch.{dtype}"
        code = _NO_LITERAL.sub(r'float("\1")', str(_short(tensor.tolist())))
        return f"torch.tensor({code}{suffix})"
    sizes = "×".join(map(str, tensor.shape))
    if tensor.dtype is torch.bool:
        return f"bool[{sizes}], {int(tensor.sum())} of them true"
    return f"{dtype}[{sizes}] from {float(tensor.min()):.6g} to {float(tensor.max()):.6g}"


def _short(value: Any) -> Any:
    """Numbers with the nine digits that tell one float32 from the next."""
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
