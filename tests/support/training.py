"""Small nets and data that the tests of training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxquant


def pictures(count: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def net(seed: int = 0) -> nn.Sequential:
    """conv → bn → relu → dropout → flatten → linear, its batch norm with statistics of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 10)
        model = nn.Sequential(*layers).train()
        for _ in range(3):
            model(torch.randn(16, 1, 8, 8))
        with torch.no_grad():
            model[1].weight.uniform_(-1.5, 1.5)
    return model.eval()


def labels(count: int = 16) -> torch.Tensor:
    return torch.arange(count) % 10


def qat(model: nn.Module | None = None, policy: Any = "int8", **options: Any) -> fxquant.QATModel:
    given = {"calibration_data": pictures(), "target": "x86"} | options
    return fxquant.compile(net() if model is None else model, policy, mode="qat", **given)


def train(model: nn.Module, steps: int = 3, lr: float = 0.01, *, batch: torch.Tensor | None = None) -> list[float]:
    """A plain loop; the losses."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(pictures() if batch is None else batch), labels())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
