"""Small nets of named parts, pruned, and what became of them."""

from __future__ import annotations

import torch
from torch import nn

import fxquant
from fxquant.passes.prune_channels import PruneChannels

PICTURES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Of(nn.Module):
    """A function of its named parts and the input."""

    def __init__(self, function, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def net(function, **parts: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for part in parts.values():
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    return Of(function, **parts).eval()


def pruned(model: nn.Module, x=PICTURES, **options):
    options = {"round_to": 1, **options} if "macs" in options else {"ratio": 0.5, "round_to": 1, **options}
    return fxquant.compress(model, [PruneChannels(**options)], example_inputs=(x,))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if tensor.ndim}


def stays(model) -> dict[str, str]:
    """Layer → why its channels stay."""
    return {row.module: row.reason for row in model.ledger.notices if row.code == "FXQ411"}


def conv(inputs: int, outputs: int, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def residual() -> nn.Module:
    return net(
        lambda m, x: m.head(torch.relu(m.norm(m.stem(x)) + m.branch(x)).mean((2, 3))),
        stem=conv(3, 8), norm=nn.BatchNorm2d(8), branch=conv(3, 8), head=nn.Linear(8, 5),
    )  # fmt: skip
