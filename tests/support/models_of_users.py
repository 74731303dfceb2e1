"""Architectures as users bring them, by name, each with one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from support.pictures_of_users import ConvNext, Generator, SqueezeExcite, Swin, UNet, Vit
from support.sequences_of_users import T5, Packed, Seq2Seq, Siamese, Tabular, Tcn


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _images(count: int, channels: int, size: int) -> Tensor:
    return torch.randn(count, channels, size, size, generator=_generator())


def _tokens(count: int, length: int, words: int) -> Tensor:
    return torch.randint(1, words, (count, length), generator=_generator())


def _t5() -> dict[str, Tensor]:
    mask = (torch.arange(9)[None, :] < torch.arange(4, 20)[:, None]).long()
    return {"input_ids": _tokens(16, 9, 50), "attention_mask": mask, "decoder_input_ids": _tokens(16, 5, 50)}


def _table() -> tuple[Any, ...]:
    batch = {
        "city": _tokens(64, 1, 20)[:, 0],
        "day": _tokens(64, 1, 7)[:, 0],
        "numbers": torch.randn(64, 6, generator=_generator()),
        "missing": torch.rand(64, 6, generator=_generator()) < 0.2,
    }
    return (batch,)


def _packed() -> tuple[Tensor, Tensor]:
    return _tokens(16, 7, 30), torch.arange(16) % 6 + 2


# name → (model, one batch: a tuple of arguments or a dict of keywords)
MODELS_OF_USERS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "convnext": (ConvNext, (_images(16, 3, 32),)),
    "swin": (Swin, (_images(16, 3, 32),)),
    "vit": (Vit, (_images(16, 3, 32),)),
    "t5": (T5, _t5()),
    "tcn": (Tcn, (torch.randn(16, 20, 4, generator=_generator()),)),
    "generator": (Generator, (torch.randn(16, 16, generator=_generator()), _tokens(16, 1, 10)[:, 0])),
    "unet": (UNet, (_images(8, 3, 20),)),
    "siamese": (Siamese, (_images(16, 1, 10), _images(16, 1, 10).flip(0))),
    "tabular": (Tabular, _table()),
    "packed": (Packed, _packed()),
    "seq2seq": (Seq2Seq, (torch.randn(16, 6, 6, generator=_generator()),)),
    "squeeze": (SqueezeExcite, (_images(16, 3, 12),)),
}


def model_of_user(name: str) -> nn.Module:
    """The model in eval mode, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS_OF_USERS[name][0]().eval()
