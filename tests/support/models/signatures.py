"""Models whose call, not whose layers, is the interesting part: several inputs, keywords, defaults, nested outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class DictOutput(nn.Module):
    """{'logits': …, 'hidden': (…, …), 'name': 'two heads'}: tensors, a tuple and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        hidden = torch.relu(self.body(x))
        return {"logits": self.head(hidden), "hidden": (hidden, x), "name": "two heads"}


@dataclass
class Answer:
    """An output type of the user's own."""

    mean: torch.Tensor
    spread: torch.Tensor | None = None


class DataclassOutput(nn.Module):
    """Returns the user's own dataclass, with a None in it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Answer:
        return Answer(mean=self.fc(x))


class TwoInputs(nn.Module):
    """Two tensors through towers of their own, compared."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 6), nn.Linear(4, 6), nn.Linear(12, 2)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([torch.relu(self.left(left)), torch.relu(self.right(right))], dim=-1))


class DictInput(nn.Module):
    """One argument that is a dict of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.extra = nn.Linear(8, 4), nn.Linear(4, 4)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.image(batch["image"]) * torch.sigmoid(self.extra(batch["extra"]))


class KeywordOnly(nn.Module):
    """A keyword-only tensor, a default that is no tensor, and an optional one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(
        self, x: torch.Tensor, *, shift: torch.Tensor, scale: float = 2.0, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        y = self.fc(x) * scale + shift
        return y if mask is None else y * mask
