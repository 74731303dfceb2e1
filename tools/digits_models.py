"""Small nets for scikit-learn's digits, one of each shape that people have, trained in seconds on two cores.

Pictures are (N, 1, 8, 8) in [0, 1]. The sequence models read the same picture as 8 steps of 8 features, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from fxquant.tools.demo_model import Digits, accuracy, conv_norm_relu

BATCH_SIZE = 64


class Mlp(nn.Module):
    """Three Linear layers."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x.flatten(1)))
        return logits


class Cnn(nn.Module):
    """Convolutions with batch norms and a residual connection."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv_norm_relu(1, width)
        self.down = conv_norm_relu(width, 2 * width, stride=2)
        self.branch = nn.Sequential(conv_norm_relu(2 * width, 2 * width), nn.Conv2d(2 * width, 2 * width, 3, padding=1))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.down(self.stem(x))
        x = torch.relu(self.branch(x) + x)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


class Recurrent(nn.Module):
    """An LSTM (or GRU) over the rows of the picture, and a Linear layer on its last state."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM, width: int = 64) -> None:
        super().__init__()
        self.rnn = kind(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.rnn(x.squeeze(1))
        logits: torch.Tensor = self.head(steps[:, -1])
        return logits


class Encoder(nn.Module):
    """Rows as tokens: embedded, two encoder layers of torch's own, the mean over tokens, a Linear layer."""

    def __init__(self, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.zeros(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.encoder(self.embed(x.squeeze(1)) + self.place)
        logits: torch.Tensor = self.head(tokens.mean(1))
        return logits


class Hybrid(nn.Module):
    """A CNN reads the picture, an LSTM the rows of its features, Linear layers decide."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.cnn = nn.Sequential(conv_norm_relu(1, width), conv_norm_relu(width, width))
        self.rnn = nn.LSTM(8 * width, 64, batch_first=True)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.cnn(x).permute(0, 2, 1, 3).flatten(2)
        steps, _ = self.rnn(rows)
        logits: torch.Tensor = self.head(steps[:, -1])
        return logits


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "lstm": Recurrent,
    "gru": lambda: Recurrent(nn.GRU),
    "encoder": Encoder,
    "hybrid": Hybrid,
}


def trained(make: Callable[[], nn.Module], digits: Digits, *, seed: int = 0, epochs: int = 20) -> nn.Module:
    """A trained model in eval mode. Same seed, same model; the global RNG stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make().train()
        batches_each = -(-len(digits.train_labels) // BATCH_SIZE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * batches_each)
        for images, labels in shuffled(digits, epochs):
            optimizer.zero_grad()
            loss: Any = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def shuffled(digits: Digits, epochs: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(pictures, labels) of each batch, in an order that the global RNG gives."""
    for _ in range(epochs):
        for picked in torch.split(torch.randperm(len(digits.train_labels)), BATCH_SIZE):
            yield digits.train_images[picked], digits.train_labels[picked]


def labelled_batches(digits: Digits, size: int = 90) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    """The test set as (pictures, labels) batches, in order."""
    pairs = zip(torch.split(digits.test_images, size), torch.split(digits.test_labels, size), strict=True)
    return list(pairs)


def labelled_training_batches(digits: Digits, size: int = BATCH_SIZE) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    """The training set as (pictures, labels) batches, in order."""
    return list(zip(torch.split(digits.train_images, size), torch.split(digits.train_labels, size), strict=True))


def accuracy_on_test(model: nn.Module, digits: Digits) -> float:
    """Share of the test pictures that a model, float or compiled, classifies right."""
    with torch.no_grad():
        return accuracy(model(digits.test_images), digits.test_labels)
