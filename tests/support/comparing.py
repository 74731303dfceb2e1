"""What tests of evaluations and comparisons share: a small classifier, its data, and a comparison that times nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

import fxquant

CLASSES = 3


class Classifier(nn.Module):
    """Two linear layers: scores of three classes for rows of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.body(x).relu())
        return scores


def classifier() -> Classifier:
    """The same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier().eval()


def rows(count: int = 64, seed: int = 1) -> torch.Tensor:
    """So many rows, different for each seed."""
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def labelled(count: int = 64, size: int = 16, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(rows, labels) batches; three labels of four are what the float model says."""
    x = rows(count, seed)
    with torch.no_grad():
        labels = classifier()(x).argmax(1)
    labels[::4] = (labels[::4] + 1) % CLASSES
    return list(zip(x.split(size), labels.split(size), strict=True))


def compared(candidates: Any = None, data: Any = None, metric: Any = None, **options: Any) -> fxquant.Comparison:
    """A comparison of the classifier; on x86, calibrated on rows of its own, and not timed unless that is asked for."""
    given = {"seconds": 0, "calibration_data": rows(seed=7), "targets": "x86", **options}
    chosen = {"int8": "int8"} if candidates is None else candidates
    return fxquant.compare(classifier(), chosen, labelled() if data is None else data, metric, **given)


@cache
def full() -> fxquant.Comparison:
    """Timed, with candidates of all kinds, one of which fails."""
    model = classifier()
    return fxquant.compare(
        model,
        {
            "int8": "int8",
            "dynamic": "int8-dynamic",
            "weights": {"qconfig_mapping": "int8-weight-only", "target": "x86"},
            "same": lambda made: made,
            "<b>$x_1$</b>": "int9",
        },
        labelled(),
        calibration_data=rows(seed=7),
        targets=["x86"],
        batch_sizes=(1, 8),
        seconds=0.2,
    )
