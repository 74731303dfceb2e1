"""How important each unit of a group is: the size of its weights in every layer that it lies in.

    I(unit) = mean over the layers l of the group of   s_l(unit) / mean over all units of s_l

s_l is the L1 or L2 norm of the layer's weights that belong to the unit, output rows and input columns alike (the group
norm of DepGraph, Fang et al. 2023, with its normalization per layer), or |gamma| of a batch norm (network slimming,
Liu et al. 2017). A group's mean and its sum rank alike; the mean lets groups of few and of many layers be compared.
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fxquant.graphs.channel_choice import Scores
from fxquant.graphs.channels import Axis, Group

KINDS = ("l1", "l2", "batchnorm")


def importance(
    group: Group, kind: str, tensors: Mapping[str, torch.Tensor], gammas: Container[str]
) -> tuple[Scores, str]:
    """The score of each unit, and the kind that gave it: 'l2' for 'batchnorm' where the group has no batch norm.

    Args:
        group: its places say which indices of which tensors a unit is.
        kind: one of KINDS.
        tensors: the model's parameters and buffers by name.
        gammas: names of the scales of batch norms.
    """
    if kind == "batchnorm":
        places = {axis: found for axis, found in group.places.items() if axis.tensor in gammas}
        slim = [_score(tensors[axis.tensor], axis, found, 1) for axis, found in places.items()]
        if slim:
            return np.asarray(np.mean(slim, axis=0)), kind
        kind = "l2"
    weights = ((axis, found) for axis, found in group.places.items() if tensors[axis.tensor].ndim > 1)
    scores = [_score(tensors[axis.tensor], axis, found, 1 if kind == "l1" else 2) for axis, found in weights]
    return np.asarray(np.mean(scores, axis=0)), kind


def _score(tensor: torch.Tensor, axis: Axis, places: NDArray[np.int64], power: int) -> Scores:
    """(Σ |w|^power)^(1/power) over the weights of each unit, divided by the mean over the units."""
    rows = tensor.detach().double().movedim(axis.dim, 0).reshape(tensor.shape[axis.dim], -1)
    sums = rows.abs().pow(power).sum(1).cpu().numpy()[places].sum(axis=1) ** (1 / power)
    mean = sums.mean()
    return np.asarray(sums / mean if mean > 0 else sums, dtype=np.float64)
