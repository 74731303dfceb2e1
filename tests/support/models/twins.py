"""The same functions written so that raw FX gets them right: what quantization itself costs, without the miscompile."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from support.models.trouble import GroupedTransposeNorm, InplaceAdd, SharedLinear


class OutOfPlaceAdd(nn.Module):
    """InplaceAdd with `y = y + 1`."""

    def __init__(self, model: InplaceAdd) -> None:
        super().__init__()
        self.fc = copy.deepcopy(model.fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x) + 1.0)


class TwoLinears(nn.Module):
    """SharedLinear with one module per call."""

    def __init__(self, model: SharedLinear) -> None:
        super().__init__()
        self.first, self.second = copy.deepcopy(model.fc), copy.deepcopy(model.fc)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.first(x * 5.0)
        return wide + self.second(torch.sigmoid(wide) * 0.2)


class FoldedTranspose(nn.Module):
    """GroupedTransposeNorm folded by hand: w[i, j] belongs to output channel group(i) · each + j."""

    def __init__(self, model: GroupedTransposeNorm) -> None:
        super().__init__()
        self.conv, norm = copy.deepcopy(model.conv), model.bn
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        groups, each = self.conv.groups, self.conv.out_channels // self.conv.groups
        per_input = scale.view(groups, each).repeat_interleave(self.conv.in_channels // groups, dim=0)
        self.conv.weight = nn.Parameter(self.conv.weight * per_input[:, :, None, None])
        self.conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


TWINS: dict[str, Callable[..., nn.Module]] = {
    "inplace_add": OutOfPlaceAdd,
    "shared_linear": TwoLinears,
    "grouped_transpose_norm": FoldedTranspose,
}


def twin(name: str, model: nn.Module) -> nn.Module:
    """The right-by-construction twin of a case, in eval mode and with the same weights."""
    return TWINS[name](model).eval()
