"""The demo's model and its training: a small residual CNN on scikit-learn's digits, seeded, seconds on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

LEAVES = ("rescale",)  # modules of the user's own that are not traced into


@dataclass(frozen=True, slots=True)
class Digits:
    """Pictures (N, 1, 8, 8) in [0, 1] and their labels (N,), split once and for all."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    def calibration_batches(self, count: int = 8, size: int = 64) -> list[torch.Tensor]:
        """The first training pictures, in batches."""
        return list(torch.split(self.train_images, size)[:count])


def load_digits() -> Digits:
    """1,437 pictures to train and calibrate on, 360 to test on. ModuleNotFoundError without scikit-learn."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=0.2, random_state=0, stratify=labels)
    train, test = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) / 16 for part in parts[:2])
    return Digits(train, torch.tensor(parts[2]), test, torch.tensor(parts[3]))


class RootMeanSquare(nn.Module):
    """A custom module: y = gain · x / rms(x) over channels. Its square root is why it stays float."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


def conv_norm_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """The pattern that folds and fuses into one quantized op."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class DigitsNet(nn.Module):
    """A shared module, an in-place residual add, a batch norm that cannot fold, a custom module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm_relu(1, 32)
        self.down = conv_norm_relu(32, 64, stride=2)
        self.refine = conv_norm_relu(64, 64)
        self.branch = nn.Sequential(conv_norm_relu(64, 64), nn.Conv2d(64, 64, 3, padding=1, bias=False))
        self.norm, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.deep = nn.Sequential(conv_norm_relu(64, 128, stride=2), conv_norm_relu(128, 128))
        self.rescale = RootMeanSquare(128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(self.stem(x))
        x = self.refine(self.refine(x))  # one module, two sites, two ranges
        y = self.branch(x)
        y.add_(x)  # in place, result unused: stock FX drops it
        x = self.relu(self.norm(y))  # the batch norm follows the addition: nothing to fold it into
        x = self.rescale(self.deep(x))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def train(
    digits: Digits, *, seed: int, epochs: int, on_epoch: Callable[[int], object] = lambda epoch: None
) -> DigitsNet:
    """A trained DigitsNet in eval mode. Same seed, same model; the global RNG stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=2e-3, total_steps=epochs * -(-len(digits.train_labels) // 64)
        )
        for epoch in range(epochs):
            for picked in torch.split(torch.randperm(len(digits.train_labels)), 64):
                loss = _loss(model(_shifted(digits.train_images[picked])), digits.train_labels[picked])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            on_epoch(epoch)
    return model.eval()


_loss = nn.CrossEntropyLoss(label_smoothing=0.1)


def _shifted(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by at most one pixel each way: worth one point of accuracy on so few pictures."""
    right, down = torch.randint(-1, 2, (2,)).tolist()
    return images.roll((down, right), (2, 3))


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).float().mean())
