"""The outputs of a candidate beside the float model's: alike in structure, and how far apart in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxquant.errors import UsageError
from fxquant.numerics import sqnr_db
from fxquant.structure import flatten, tensors_in


def check_alike(reference: Sequence[Any], outputs: Sequence[Any]) -> None:
    """FXQ120 unless both have the same nested structure and the same shapes, batch by batch."""
    for index, (wanted, found) in enumerate(zip(reference, outputs, strict=True)):
        told = [_outline(value) for value in (found, wanted)]
        if told[0] != told[1]:
            raise UsageError(
                "FXQ120",
                f"its output on batch {index} is {told[0]}, the float model's is {told[1]}",
                hint="a candidate takes and returns what the float model does",
            )


def _outline(value: Any) -> str:
    """The structure with shapes for tensors: '(float[8, 10], [8])'."""
    leaves, structure = flatten(value)
    return str(structure.unflatten(_Told(leaf) for leaf in leaves))


class _Told:
    """How a leaf is shown: a tensor by its shape, anything else by its type."""

    def __init__(self, leaf: Any) -> None:
        self.text = str(list(leaf.shape)) if isinstance(leaf, torch.Tensor) else type(leaf).__name__

    def __repr__(self) -> str:
        return self.text


def sqnr(reference: Sequence[Any], outputs: Sequence[Any]) -> float | None:
    """SQNR in dB over all floating-point tensors of all batches together; None where there are none."""
    pairs = _floats(reference, outputs)
    if not pairs:
        return None
    joined = (torch.cat([tensor.detach().flatten().double() for tensor in side]) for side in zip(*pairs, strict=True))
    return sqnr_db(*joined)


def mse(reference: Sequence[Any], outputs: Sequence[Any]) -> float | None:
    """Mean squared error over all floating-point values of all batches; None where there are none."""
    pairs = [(left.double(), right.double()) for left, right in _floats(reference, outputs)]
    count = sum(left.numel() for left, _ in pairs)
    return sum(float((left - right).square().sum()) for left, right in pairs) / count if count else None


def _floats(reference: Sequence[Any], outputs: Sequence[Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    check_alike(reference, outputs)
    pairs = zip(tensors_in(list(reference)), tensors_in(list(outputs)), strict=True)
    return [(left, right) for left, right in pairs if left.is_floating_point()]


def scores_in(output: Any) -> torch.Tensor | None:
    """The tensor of scores, (N, classes, ...): an output's only one of floats with two dimensions or more."""
    found = [tensor for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.dim() >= 2]
    return found[0] if len(found) == 1 else None
