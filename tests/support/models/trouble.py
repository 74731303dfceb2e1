"""What FX mode gets wrong in silence, each in its smallest form. The comments name the wrong it does."""

from __future__ import annotations

import torch
from torch import nn


class InplaceAdd(nn.Module):
    """The result of add_ is not used: dead-code elimination drops it, and every output is off by one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        y.add_(1.0)
        return torch.relu(y)


class InplaceView(nn.Module):
    """A write through a view; the base is read later."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        y[:, :4].mul_(2.0)
        return y - 1.0


class InplaceInput(nn.Module):
    """A write to the model's input: the caller's tensor changes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.clamp_(-1.0, 1.0)
        return self.fc(x)


class CountsCalls(nn.Module):
    """A buffer that forward() changes."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.add_(1)
        return self.fc(x)


class SharedLinear(nn.Module):
    """One module at two sites whose ranges differ 25-fold: both get the scale of the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.fc(x * 5.0)
        return wide + self.fc(torch.sigmoid(wide) * 0.2)


class SharedConvNorm(nn.Module):
    """A shared conv-bn-relu in series: each call has its own range, and the batch norm is one module at two sites."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(4.0 * self.block(x))


class TiedWeights(nn.Module):
    """Two modules, one parameter: the tie counts once in size."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)))


class GroupedTransposeNorm(nn.Module):
    """Grouped ConvTranspose with batch norm: torch's folding ignores the groups (pytorch #180995)."""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class TransposeKernelTwo(nn.Module):
    """Quantized ConvTranspose2d of a 2×2 kernel is wrong on x86 and fbgemm; on onednn wherever channels in ≠ out."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(x)


class FunctionalRelu(nn.Module):
    """torch.relu is not fused, only F.relu and nn.ReLU are: a float island after each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv1(x))
        return self.conv2(x).relu()


class FunctionalDropout(nn.Module):
    """Traced in train mode it would stay random for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.dropout(torch.relu(self.fc1(x)), 0.5, training=self.training)
        return self.fc2(hidden)


class NormAfterAdd(nn.Module):
    """A batch norm that follows an addition: there is nothing to fold it into."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.left(x) + self.right(x)))


class BranchesOnData(nn.Module):
    """Tensor-dependent control flow: symbolic tracing stops here."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return self.fc(x)
        return self.fc(-x)
