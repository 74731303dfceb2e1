"""Recurrent classifiers: embedding, LSTM or GRU, and a linear head on the last step."""

from __future__ import annotations

import torch
from torch import nn


class Recurrent(nn.Module):
    """ids → embedding → LSTM/GRU → last hidden state → logits. Quantized dynamically in the field."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], width: int, *, layers: int = 1, both_ways: bool = False
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, width)
        self.rnn = kind(width, width, num_layers=layers, batch_first=True, bidirectional=both_ways)
        self.head = nn.Linear(width * (2 if both_ways else 1), 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        states, _ = self.rnn(self.embedding(ids))
        return self.head(states[:, -1])


class FinalState(nn.Module):
    """Reads the cell's state tuple by index, as (h, c)[0][-1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.rnn(x)
        return self.head(torch.relu(hidden[-1]))
